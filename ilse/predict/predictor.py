"""A trained head and the frozen language model that it was trained over, as one.

The same text gives the same answer as through the cache; what is read of the model is what the cache says it was.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub import ModelHubMixin
from jaxtyping import Float
from torch import Tensor

from ilse.core.errors import UserError
from ilse.predict.capture import Capture, model_params
from ilse.predict.early_exit import leaving_of
from ilse.predict.joined import JoinedCapture, ModelChoices, models_of
from ilse.predict.predictions import LabelPrediction, Prediction, ScorePrediction, read
from ilse.predict.why.explanation import Explanation, explained, require_explainable
from pipeline.model.load import Compute
from trainer.artifacts.artifact import TrainedHead, load_head, require_basis
from trainer.artifacts.best_seed import best_seed
from trainer.heads import PairHead

CHUNK = 256
"""Texts whose rows are in memory at a time: as many as a shard of a cache has by default."""

Named = tuple[str, Any]
"""What an error calls a text, and the text."""


class Predictor(ModelHubMixin, library_name="ilse-cache", tags=["ilse-cache", "layer-fusion"]):
    """A trained head with its language model: texts in, labels, probabilities or vectors out.

    Made by `from_pretrained` or `from_head`. Any number of threads may use one at a time.

    Attributes
    ----------
    trained
        The head.
    capture
        The model, ready to give the rows that the head reads; of several, all of them.
    pairs
        Whether an example is a pair of texts.
    leaving
        For a head with exits: what lets texts leave the model early. The answers are those of the whole model, and come
        sooner.

    Examples
    --------
    >>> predictor = ilse.Predictor.from_pretrained("models/bottleneck/seed-0", model="my-model")
    >>> predictor.predict(["Chip maker's profit falls"])
    ['business']
    """

    def __init__(self, trained: TrainedHead, capture: Capture | JoinedCapture) -> None:
        self.trained, self.capture = trained, capture
        self.pairs = answers_pairs(trained)
        self.leaving = leaving_of(trained)

    # The mixin's own is that of any class, (*args, **kwargs).
    __signature__ = inspect.Signature(
        [
            inspect.Parameter("trained", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation="TrainedHead"),
            inspect.Parameter("capture", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation="Capture | JoinedCapture"),
        ]
    )

    def __repr__(self) -> str:
        return f"<Predictor of {self.trained!r}>"

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | Path,
        model: ModelChoices = None,
        *,
        device: str = "auto",
        threads: int = 0,
        batch_tokens: int = 1024,
        capture: str = "hooks",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Predictor:
        """Load a head and the language model that it was trained over.

        Parameters
        ----------
        pretrained_model_name_or_path
            The head's folder, or its repository on the Hugging Face Hub. Of `models/bottleneck`, with several seeds in
            it, the seed that is best on validation is taken; `models/bottleneck/seed-0` is that one.
        model
            The language model's file or folder, or `owner/name` of the Hub; not needed where the head was trained over
            a model of the Hub, whose id and commit it knows. For a head over several caches a list, with the model of
            each in their order.
        device
            `auto`, `cpu` or `cuda`.
        threads
            CPU threads of the model; 0 for as many as the process has set.
        batch_tokens
            Tokens per batch, padding included.
        capture
            How the layers are read, `hooks` or `hidden_states`, as in section `extract`.
        revision, token, cache_dir, local_files_only, force_download
            As `huggingface_hub` has them, for a head on the Hub.

        Returns
        -------
        Predictor

        Raises
        ------
        UserError
            For a damaged head, a model that cannot be read, and a model other than that of the head's cache.

        Examples
        --------
        >>> ilse.Predictor.from_pretrained("owner/news-topics")
        <Predictor of <TrainedHead 'bottleneck', …>>
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir() and not isinstance(pretrained_model_name_or_path, Path):
            from ilse.predict.hub import downloaded

            folder = downloaded(
                str(pretrained_model_name_or_path), folder, revision=revision, token=token, cache_dir=cache_dir,
                local_files_only=local_files_only, force_download=force_download,
            )  # fmt: skip
        return cls.from_head(
            load_head(best_seed(folder)),
            model,
            device=device,
            threads=threads,
            batch_tokens=batch_tokens,
            capture=capture,
        )

    load = from_pretrained

    @classmethod
    def from_head(
        cls,
        head: TrainedHead,
        model: ModelChoices = None,
        *,
        device: str = "auto",
        threads: int = 0,
        batch_tokens: int = 1024,
        capture: str = "hooks",
    ) -> Predictor:
        """Put a head that is in memory together with its language model.

        Parameters
        ----------
        head
            What `ilse.fit` returned.
        model, device, threads, batch_tokens, capture
            As for `from_pretrained`.

        Returns
        -------
        Predictor

        Raises
        ------
        UserError
            For a model that cannot be read, and a model other than that of the head's cache.

        Examples
        --------
        >>> ilse.Predictor.from_head(head, model="my-model").predict("Cup final")
        'sport'
        """
        require_basis(head, "prediction of new texts")
        facts, layers = head.facts, head.head.layers_read

        def compute(kind: str) -> Compute:
            return Compute(kind, device, threads, batch_tokens, False, capture)

        chosen = models_of(facts, model)
        if facts.further:
            return cls(head, JoinedCapture(facts, layers, chosen, compute))
        own = model_params(facts, chosen[0])
        return cls(head, Capture(facts, layers, own, compute(facts.capture.compute_type), head.basis))

    @property
    def labels(self) -> list[str]:
        """The labels, in the order of `predict_proba`'s columns; none of a head that answers with a score."""
        return list(self.trained.facts.labels)

    def predict(self, texts: str | Iterable[Any]) -> Any:
        """Answer texts: a label each, a tuple of labels where examples have several, or a score.

        Parameters
        ----------
        texts
            One text, or any number; pairs `(first, second)` where the head answers about pairs.

        Returns
        -------
        list
            One answer per text; for one text the answer itself.

        Raises
        ------
        UserError
            For what is no text, a text without a token, and a table in place of its column.

        Examples
        --------
        >>> predictor.predict(["Cup final", "Rates rise"])
        ['sport', 'business']
        """
        answers = [_answer(prediction) for prediction in self.predictions(texts)]
        return answers[0] if isinstance(texts, str) else answers

    def predict_proba(self, texts: str | Iterable[Any]) -> npt.NDArray[np.float32]:
        """Probability of every label, in the order of `labels`.

        Parameters
        ----------
        texts
            As for `predict`.

        Returns
        -------
        numpy.ndarray
            [texts, labels], float32. Where examples have several labels, each column is a probability of its own.

        Raises
        ------
        UserError
            As `predict` does, and for a head that answers with a score.

        Examples
        --------
        >>> predictor.predict_proba(["Cup final"]).shape
        (1, 5)
        """
        if not self.labels:
            raise _refused(
                "predict_proba", "a head that was trained on labels", "one that gives a score", "call predict"
            )
        found = [
            list(one.probabilities.values()) for one in self.predictions(texts) if not isinstance(one, ScorePrediction)
        ]
        return np.array(found, np.float32).reshape(-1, len(self.labels))

    def encode(
        self, sentences: str | Iterable[str], batch_size: int = CHUNK, show_progress_bar: bool = False
    ) -> npt.NDArray[np.float32]:
        """Vectors of texts, as the head sees them: what its readout reads.

        Parameters
        ----------
        sentences
            One text, or any number.
        batch_size
            Texts whose rows are in memory at a time; it changes no vector.
        show_progress_bar
            Whether to show a bar with the time left.

        Returns
        -------
        numpy.ndarray
            [texts, width], float32; [width] for one text.

        Raises
        ------
        UserError
            For what is no text, and a text without a token.

        Examples
        --------
        >>> predictor.encode(["Cup final", "Rates rise"]).shape
        (2, 32)
        """
        from ilse.core.progress_bars import progress_bar
        from ilse.core.terminal import speaking

        texts = list(_several(sentences))
        parts = []
        with speaking(show_progress_bar), progress_bar(len(texts), "encode", "text", delay=0.0) as bar:
            for _, chunk in _chunks(texts, batch_size):
                parts.append(self.embed(chunk))
                bar.update(len(chunk))
        vectors = np.concatenate(parts) if parts else np.empty((0, self.width), np.float32)
        return vectors[0] if isinstance(sentences, str) else vectors

    def similarity(self, a: Any, b: Any) -> npt.NDArray[np.float32]:
        """Cosine of every pair of texts, or of vectors from `encode`.

        Parameters
        ----------
        a, b
            Texts, or vectors [texts, width].

        Returns
        -------
        numpy.ndarray
            [texts of a, texts of b], float32, -1 to 1.

        Raises
        ------
        UserError
            As `encode` does.

        Examples
        --------
        >>> predictor.similarity(["Cup final"], ["League match", "Rates rise"]).shape
        (1, 2)
        """
        units = []
        for given in (a, b):
            is_vectors = (isinstance(given, np.ndarray) and given.dtype.kind == "f") or isinstance(given, Tensor)
            vectors = np.atleast_2d(np.asarray(given) if is_vectors else self.encode(given)).astype(np.float32)
            units.append(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
        found: npt.NDArray[np.float32] = units[0] @ units[1].T
        return found

    def save_pretrained(  # type: ignore[override]
        self, save_directory: str | Path, *, config: Any = None, model_card_kwargs: Any = None
    ) -> Path:
        """Save the head, with a model card, for `from_pretrained`. The language model is not copied.

        Parameters
        ----------
        save_directory
            The folder, which is replaced as a whole; it may hold nothing but an earlier head.
        config, model_card_kwargs
            Not used: the head's own files say what it is.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        UserError
            For a folder that holds anything else.

        Examples
        --------
        >>> predictor.save_pretrained("my-head")
        PosixPath('my-head')
        """
        from ilse.predict.hub import write_folder

        return write_folder(self.trained, Path(save_directory))

    def predictions(self, texts: str | Iterable[Any]) -> list[Prediction]:
        """What the head says of each text, with all probabilities.

        Parameters
        ----------
        texts
            One text, or any number; pairs `(first, second)` where the head answers about pairs.

        Returns
        -------
        list of LabelPrediction, LabelSetPrediction or ScorePrediction
            One per text, by what the head was trained for.

        Raises
        ------
        UserError
            As `predict` does.

        Examples
        --------
        >>> predictor.predictions(["Cup final"])[0].probability
        0.97
        """
        return list(self.stream(texts))

    def stream(self, texts: str | Iterable[Any]) -> Iterator[Prediction]:
        """Yield what `predictions` gives, text by text, with `CHUNK` texts in memory at a time.

        Parameters
        ----------
        texts
            Any number of texts, or pairs of texts; a generator is read as the answers are asked for.

        Returns
        -------
        iterator of LabelPrediction, LabelSetPrediction or ScorePrediction
            In the order of the texts.

        Raises
        ------
        UserError
            As `predict` does.

        Examples
        --------
        >>> next(predictor.stream(open("texts.txt"))).label
        'sport'
        """
        noun, texts = "example" if self.pairs else "text", _several(texts)
        for start, chunk in _chunks(texts, CHUNK // (1 + self.pairs)):
            yield from self.answers(chunk, [f"{noun} {start + i}" for i in range(len(chunk))])

    def answers(self, texts: Sequence[Any], names: Sequence[str]) -> list[Prediction]:
        """Answer texts that fit in memory together, under names for messages.

        Parameters
        ----------
        texts
            The texts, or pairs of texts.
        names
            What errors call each of them, such as `row 17`.

        Returns
        -------
        list of LabelPrediction, LabelSetPrediction or ScorePrediction

        Raises
        ------
        UserError
            As `predict` does; it names the text.

        Examples
        --------
        >>> predictor.answers(["Cup final"], ["row 17"])[0].label
        'sport'
        """
        named = _pairs(texts, names) if self.pairs else list(zip(names, texts, strict=True))
        return read(self.trained.objective, self.trained.facts.labels, self._outputs(self.trained.answers, named))

    def embed(self, texts: str | Iterable[str]) -> npt.NDArray[np.float32]:
        """Vectors of texts, always with two axes: what `encode` stands on.

        Parameters
        ----------
        texts
            One text, or any number. In pairs each text has a vector of its own.

        Returns
        -------
        numpy.ndarray
            [texts, width], float32; see `TrainedHead.embed`.

        Raises
        ------
        UserError
            For what is no text, and a text without a token.

        Examples
        --------
        >>> predictor.embed("Cup final").shape
        (1, 32)
        """
        parts = [
            self._outputs(self.trained.vectors, [(f"text {start + i}", text) for i, text in enumerate(chunk)]).numpy()
            for start, chunk in _chunks(_several(texts), CHUNK)
        ]
        return np.concatenate(parts) if parts else np.empty((0, self.width), np.float32)

    def why(self, text: str | Any) -> Explanation:
        """Say how much each token of a text moves the head's answer, in each layer.

        Parameters
        ----------
        text
            One text.

        Returns
        -------
        Explanation
            The prediction, the tokens and `contributions` [tokens, layers]: gradient × input. It shows itself as a
            picture in a notebook.

        Raises
        ------
        UserError
            For a head that reads pooled rows, and for one that answers about pairs of texts.

        Examples
        --------
        >>> predictor.why("Chip maker's profit falls").top(2)
        [('profit', 1.3), ('Chip', 0.6)]
        """
        require_explainable(self.trained, self.pairs)
        if not isinstance(text, str):
            raise _refused("the text", "a string", text, "ask about one text")
        return explained(self.trained, *self._one_model.tokens_of(text, "text 0"))

    @property
    def width(self) -> int:
        """Length of the vectors that `embed` gives."""
        with torch.inference_mode():
            return self.trained.vectors(torch.zeros(2, *self._row)).shape[1]

    @property
    def _one_model(self) -> Capture:
        """Of a head that reads tokens or lets texts leave early: those read one model."""
        assert isinstance(self.capture, Capture)
        return self.capture

    @property
    def _row(self) -> tuple[int, int]:
        """Layers and width of what the head is asked about."""
        return len(self.trained.head.layers_read), self.trained.inner.spec.dim

    @torch.inference_mode()
    def _outputs(self, tell: Callable[[Tensor], Tensor], named: list[Named]) -> Float[Tensor, "answers out"]:
        """What `tell` makes of the texts' rows, as `TrainedHead.rows` gives them."""
        for name, text in named:
            if not isinstance(text, str):
                raise _refused(name, "a string", text, "give texts as strings")
        texts, names = [text for _, text in named], [name for name, _ in named]
        if self.leaving is not None and tell == self.trained.answers:
            outputs = self._one_model.leaving(texts, names, self.leaving)
            if outputs is not None:
                return outputs
        if self.trained.facts.reads_tokens:
            return tell(self._one_model.rows_of_tokens(texts, names, self._row[1], self.trained.rows))
        return tell(self.trained.rows(self.capture.rows(texts, names)))


def _answer(prediction: Prediction) -> Any:
    """A prediction without its probabilities."""
    if isinstance(prediction, ScorePrediction):
        return prediction.score
    return prediction.label if isinstance(prediction, LabelPrediction) else prediction.labels


def answers_pairs(trained: TrainedHead) -> bool:
    """Whether a head's examples are pairs of texts."""
    return bool(trained.objective.embeds) or isinstance(trained.inner, PairHead)


def _several(texts: Any) -> Iterable[Any]:
    """What is iterated over: a string is one text, not its characters; names of columns are no texts."""
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, Mapping) or hasattr(texts, "columns"):
        raise _refused("the texts", "a string or a list of strings", type(texts), "give the texts alone, as one column")
    several: Iterable[Any] = texts
    return several


def _chunks(texts: Iterable[Any], size: int) -> Iterator[tuple[int, list[Any]]]:
    """The number of the first and the texts, `size` at a time."""
    remaining, start = iter(texts), 0
    while chunk := list(islice(remaining, size)):
        yield start, chunk
        start += len(chunk)


def _pairs(examples: Sequence[Any], names: Sequence[str]) -> list[Named]:
    """The texts of a pair follow one another, as heads take them."""
    named = []
    for where, pair in zip(names, examples, strict=True):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise _refused(where, "a pair of texts: the head was trained on pairs", pair, "give a tuple of two texts")
        named += [(f"{where}, text {k}", text) for k, text in enumerate(pair)]
    return named


def _refused(where: str, expected: str, found: object, next_step: str) -> UserError:
    return UserError(where, expected=expected, found=f"{found!r}"[:200], next_step=next_step)
