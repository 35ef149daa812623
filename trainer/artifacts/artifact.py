"""A trained head on disk: a folder with `head.safetensors` and `config.json`.

Enough to predict from a cache's rows; and with the section `capture`, which says what those rows are, enough to know
how a new text becomes one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ilse.core.errors import MissingError, UserError
from ilse.core.files.atomic import write_json
from ilse.core.files.json_files import own_file, read_json
from ilse.core.params import validate
from pipeline.store import Basis, CaptureSpec
from trainer.artifacts.token_basis import basis_in, basis_shapes, basis_tensors
from trainer.data.poolings import TOKENS, pooling_names
from trainer.data.sources import Source, Whole, fingerprint_of, layer_names_of
from trainer.fitting.isolation import seeded
from trainer.heads import EncoderHead, FrontedHead, Head, PairHead, build_head, head_config
from trainer.objectives import restore
from trainer.rows.ragged import Tokens
from trainer.treatment import Treatment, TreatmentOptions

FORMAT_VERSION, TOKENS_VERSION, BASIS_VERSION, JOINED_VERSION = 4, 5, 6, 7
"""Format versions: of a head that reads pooled rows, of one that reads tokens, of one that carries the basis of these
tokens, and of one that reads the pooled rows of several models.
"""
WEIGHTS, CONFIG = "head.safetensors", "config.json"
SECTIONS = ("format_version", "head", "treatment", "capture", "facts")
_TYPES = {torch.float32: "F32", torch.int64: "I64", torch.bool: "BOOL"}
"""How safetensors calls the types of a head's tensors."""


@dataclass(frozen=True)
class HeadFacts:
    """What a head was trained on and how well it did, beside its weights."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)  # for loading

    objective: dict[str, str | int | float]
    """Objective that the head was trained for, in the form that `objectives.restore` takes."""
    labels: list[str]
    capture: CaptureSpec
    """Capture that the rows come from, copied from the cache."""
    pooling: str | tuple[str, ...]
    """The poolings that the head reads; several are joined side by side in a layer's row. `TOKENS` if it reads tokens.
    """
    model_name: str
    """Id on the Hub, or the name of the model's file or folder."""
    model_parameters: Whole
    recipe: dict[str, Any]
    seed: Whole
    best_epoch: Whole
    val_score: float
    val_loss: float
    train_seconds: float
    layer_scores: list[float] | None = None
    """For `best`: validation figure of every single layer."""
    penalty: float | None = None
    """Penalty that was chosen, if the head was solved."""
    further: tuple[Source, ...] = ()
    """The second and later models of a head on several caches, in order."""

    @property
    def sources(self) -> tuple[Source, ...]:
        """All models with the captures that their rows come from."""
        return Source(self.capture, self.model_name, self.model_parameters), *self.further

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the capture, or of all captures in their order."""
        return fingerprint_of(self.sources)

    @property
    def model_names(self) -> str:
        """Names of all models, for messages."""
        return " + ".join(source.model_name for source in self.sources)

    @property
    def frozen_parameters(self) -> int:
        """Number of frozen parameters of all models."""
        return sum(source.model_parameters for source in self.sources)

    @property
    def poolings(self) -> tuple[str, ...]:
        """One or several, in their order in a row."""
        return pooling_names(self.pooling)

    @property
    def reads_tokens(self) -> bool:
        """True if the head reads token states, not pooled rows."""
        return self.pooling == TOKENS

    @property
    def width(self) -> int:
        """Values of a layer in the rows, or in the states of tokens, that it reads; of several models of the widest."""
        if self.reads_tokens:
            return self.capture.token_width
        return max(self.widths)

    @property
    def widths(self) -> list[int]:
        """Width of each model's rows."""
        return [len(self.poolings) * source.capture.dim for source in self.sources]

    def widths_of(self, layers: Sequence[int]) -> list[int] | None:
        """Width used by each of these layers in joint rows; None for rows of one model."""
        if not self.further:
            return None
        named = zip(self.widths, self.sources, strict=True)
        every = [width for width, source in named for _ in source.capture.layers]
        return [every[layer] for layer in layers]

    @property
    def layer_names(self) -> list[str]:
        """Names of the layers in the rows; with several models `model:layer`."""
        return layer_names_of(self.sources)


_FACTS = TypeAdapter(HeadFacts)


@dataclass(frozen=True)
class TrainedOn:
    """The caches and the examples that a head was trained on in this process; no part of its artifact."""

    caches: Any
    examples: Path


class TrainedHead(nn.Module):
    """Input treatment and head together: raw rows in, logits out.

    Attributes
    ----------
    facts
        What it was trained on, and its validation figure.
    trained_on
        The caches and examples, where it was trained in this process.
    inner
        What answers from one row per text: the head, or what stands behind the reader of a head that reads tokens, and
        behind the maps of one that reads the rows of several models.
    basis
        That of the tokens that it reads, of all token layers of its capture; None where they are whole.
    """

    def __init__(self, treatment: Treatment, head: Head, facts: HeadFacts, basis: Basis | None = None) -> None:
        super().__init__()
        self.treatment = treatment
        self.head = head
        self.facts = facts
        self.basis = basis
        self.objective = restore(facts.objective, tuple(facts.labels))
        self.trained_on: TrainedOn | None = None

    def __repr__(self) -> str:
        facts = self.facts
        task = f"{len(facts.labels)} labels" if facts.labels else str(facts.objective.get("kind", "a score"))
        reads = "tokens" if facts.reads_tokens else f"{len(self.head.layers_read)} layers"
        return (
            f"<TrainedHead '{self.head.spec.name}', seed {facts.seed}: {reads} of {facts.model_names} -> {task}, "
            f"validation {self.objective.metric} {facts.val_score:.4f}, {self.parameters_trained:,} parameters>"
        )

    def forward(self, x: Float[Tensor, "texts layers dim"] | Tokens) -> Float[Tensor, "answers out"]:
        """Outputs for rows of the layers that the head reads, as the cache holds them; `objective` reads them.

        Of a head that reads tokens, for the texts' `Tokens`.
        """
        return self.answers(self.rows(x))

    @property
    def inner(self) -> Head:
        """The head that is trained here, without its wrapper."""
        return self.head.inner if isinstance(self.head, FrontedHead) else self.head

    def rows(self, x: Float[Tensor, "texts layers dim"] | Tokens) -> Float[Tensor, "texts layers treated"]:
        """Input of `inner`: treated rows, or the rows that a reader or map makes from treated values."""
        treated = self.treated(x)
        rows: Tensor = self.head.pooled(treated) if isinstance(self.head, FrontedHead) else treated
        return rows

    def answers(self, rows: Float[Tensor, "texts layers treated"]) -> Float[Tensor, "answers out"]:
        """`forward`, from what `rows` gives."""
        logits: Tensor = self.inner(rows)
        return logits

    def treated(self, x: Float[Tensor, "texts layers dim"] | Tokens) -> Any:
        """Rows, or tokens, as the head sees them."""
        return x.map(self.treatment) if isinstance(x, Tokens) else self.treatment(x)

    def embed(self, x: Float[Tensor, "texts layers dim"] | Tokens) -> Float[Tensor, "texts width"]:
        """The vector of each text, from rows as for `forward`.

        Of a head that compares two texts it is what is compared; of any other, what its readout reads. Heads with a
        classifier a layer have no such vector: there it is the treated row of the last layer that they read.
        """
        return self.vectors(self.rows(x))

    def vectors(self, rows: Float[Tensor, "texts layers treated"]) -> Float[Tensor, "texts width"]:
        """`embed`, from what `rows` gives."""
        head = self.inner
        if isinstance(head, PairHead):
            vectors: Tensor = head.vectors(rows)
        elif self.objective.embeds:
            vectors = head(rows)
        elif isinstance(head, EncoderHead):
            vectors = head.encode(rows)
        else:
            vectors = rows[:, -1]
        return vectors

    @property
    def parameters_trained(self) -> int:
        """Trained values of the head; the statistics of the treatment are not trained."""
        return sum(p.numel() for p in self.head.parameters())


def require_basis(trained: TrainedHead, doing: str) -> None:
    """Raises `UserError` for a head of an earlier release whose tokens are in a basis: only its cache has that."""
    tokens = trained.facts.capture.tokens
    if trained.facts.reads_tokens and trained.basis is None and tokens is not None and tokens.rank is not None:
        raise UserError(
            f"{doing} with head '{trained.head.spec.name}'",
            expected=f"a head that carries the basis of the tokens that it reads, format version {BASIS_VERSION}",
            found=f"format version {TOKENS_VERSION}, of an earlier release: the basis of rank {tokens.rank} is in the "
            "cache alone",
            next_step="train the head again on that cache, with 'ilse train'",
        )


def require_one_model(trained: TrainedHead, doing: str, instead: str) -> None:
    """Raises `UserError` for a head over several models, which `doing` has no room for."""
    if trained.facts.further:
        raise UserError(
            f"{doing} with head '{trained.head.spec.name}'",
            expected="a head over the cache of one model",
            found=f"one over {len(trained.facts.sources)}: {trained.facts.model_names}",
            next_step=instead,
        )


def save_head(folder: Path, trained: TrainedHead) -> None:
    """Writes the artifact into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous().cpu() for name, value in trained.state_dict().items()}
    save_file(state | basis_tensors(trained.basis), folder / WEIGHTS)
    treatment = {"options": trained.treatment.options.model_dump(), "dim": trained.treatment.standardise.mean.shape[1]}
    apart = ("capture", "further")
    facts = {name: value for name, value in asdict(trained.facts).items() if name not in apart}
    if trained.facts.further:
        further = [asdict(source) | {"capture": _document(source.capture)} for source in trained.facts.further]
        facts["further"] = further
    capture = _document(trained.facts.capture)
    described = {"head": head_config(trained.head), "treatment": treatment, "capture": capture, "facts": facts}
    version = TOKENS_VERSION if trained.facts.reads_tokens else FORMAT_VERSION
    version = version if trained.basis is None else BASIS_VERSION
    version = JOINED_VERSION if trained.facts.further else version
    write_json(folder / CONFIG, {"format_version": version, **described})


def _document(capture: CaptureSpec) -> dict[str, Any]:
    return {"fingerprint": capture.fingerprint, **capture.document()}


def load_head(folder: Path) -> TrainedHead:
    """The head in `folder`, in evaluation mode. Nothing is unpickled, and no name in it is looked up but the head's.

    Raises `UserError` for a missing or damaged file, a link that leads out of the folder, another format version,
    values that are not finite, and where the two files or the facts and the head's shape disagree; before anything of
    a claimed size is made.
    """
    try:
        config = read_json(own_file(folder, CONFIG))
        version = config.get("format_version") if isinstance(config, dict) else None
        if version not in (FORMAT_VERSION, TOKENS_VERSION, BASIS_VERSION, JOINED_VERSION):
            expected = f"head format version {FORMAT_VERSION} to {JOINED_VERSION}"
            raise _refused(folder, expected, f"version {str(version)[:40]}")
        if unknown := config.keys() - SECTIONS:
            raise _refused(folder, f"the sections {', '.join(SECTIONS)}", f"{', '.join(sorted(unknown))[:80]} too")
        facts = _facts(folder, config["facts"], dict(config["capture"]))
        _check_facts(folder, config, facts)
        with torch.device("meta"):
            outlined = _built(config, facts)
        weights = own_file(folder, WEIGHTS)
        basis = basis_shapes(facts.capture) if version == BASIS_VERSION else {}
        _check_weights(folder, outlined, basis, weights)
        with seeded(0):  # weights that are drawn, and then replaced
            trained = _built(config, facts)
        read = load_file(weights)
        trained.load_state_dict({name: value for name, value in read.items() if name not in basis})
        trained.basis = basis_in(read, facts.capture) if basis else None
        _check_finite(folder, trained)
    except UserError as error:  # of building a head, which knows no folder
        raise _refused(folder, error.expected, error.found) from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _refused(folder, f"{CONFIG} and {WEIGHTS}", f"no {_missing(folder)}", MissingError) from error
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"])) or "facts"
        raise _refused(folder, "facts as 'ilse train' wrote them", f"{place}: {error.errors()[0]['msg']}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError, SafetensorError) as error:
        raise _refused(folder, "a head as 'ilse train' wrote it", " ".join(str(error).split())[:200]) from error
    return trained.eval()


def _treatment(config: dict[str, Any], head: Head, facts: HeadFacts) -> Treatment:
    options = validate("treatment", TreatmentOptions, config["options"], where="head")
    treatment = Treatment(options, len(head.layers_read), config["dim"], facts.widths_of(head.layers_read))
    if treatment.width != head.spec.dim:
        raise ValueError(f"a treatment that gives {treatment.width} values, a head that reads {head.spec.dim}")
    return treatment


def _facts(folder: Path, facts: dict[str, Any], capture: dict[str, Any]) -> HeadFacts:
    documents = [capture, *(dict(one["capture"]) for one in facts.get("further", []))]
    written = [document.pop("fingerprint") for document in documents]
    given = {**facts, "capture": documents[0]}
    if documents[1:]:
        further = zip(facts["further"], documents[1:], strict=True)
        given["further"] = [{**one, "capture": document} for one, document in further]
    read = _FACTS.validate_json(json.dumps(given))
    for source, named in zip(read.sources, written, strict=True):
        found = source.capture.fingerprint
        if found != named:
            raise _refused(folder, f"the capture with fingerprint {str(named)[:16]}", f"one with {found[:16]}")
    if read.reads_tokens:
        if read.capture.tokens is None:
            raise _refused(folder, "a capture with token states, which the head reads", "pooled rows alone")
        return read
    asked = read.poolings
    there = [name for name in read.capture.poolings if all(name in one.capture.poolings for one in read.further)]
    if not asked or len({*asked}) < len(asked) or not {*asked} <= {*there}:
        expected = f"one of the capture's poolings, {', '.join(there)}, or several, each once"
        raise _refused(folder, expected, ", ".join(asked)[:200] or "none")
    return read


def _built(config: dict[str, Any], facts: HeadFacts) -> TrainedHead:
    head = build_head(**config["head"])
    return TrainedHead(_treatment(config["treatment"], head, facts), head, facts)


def _check_facts(folder: Path, config: dict[str, Any], facts: HeadFacts) -> None:
    """Whether the facts are of the head that its sections describe; before it is built, as sizes may be anything."""
    head, width = config["head"], config["treatment"]["dim"]
    if width != facts.width:
        of = "states of tokens" if facts.reads_tokens else f"rows of pooling {' and '.join(facts.poolings)}"
        expected = f"{facts.width} values per layer, as the capture's {of} have"
        raise _refused(folder, expected, f"a treatment of {str(width)[:40]}")
    version = config["format_version"]
    _check_joined(folder, config, facts)
    of_tokens = version in (TOKENS_VERSION, BASIS_VERSION)
    if facts.reads_tokens != (head.get("tokens") is not None) or facts.reads_tokens != of_tokens:
        raise _refused(
            folder, "a head that reads what its facts say", "tokens in one of them, pooled rows in the other"
        )
    if version == BASIS_VERSION and (facts.capture.tokens is None or facts.capture.tokens.basis is None):
        raise _refused(folder, f"a capture that names a basis, in format version {BASIS_VERSION}", "none")
    if facts.capture.tokens is not None and facts.reads_tokens:
        kept = {facts.layer_names.index(name) for name in facts.capture.tokens.layers}
        if not {*head["tokens"]["layers"]} <= kept:
            expected = f"layers whose token states its capture keeps: {sorted(kept)}"[:300]
            raise _refused(folder, expected, str(head["tokens"]["layers"])[:200])
    sizes = {name: head[name] for name in ("layers", "dim", "out")}
    if any(type(size) is not int for size in sizes.values()):
        raise _refused(folder, "a head as 'ilse train' wrote it", f"sizes that are no whole numbers: {sizes}"[:200])
    found = (len(facts.layer_names), restore(facts.objective, tuple(facts.labels)).out)
    if found != (head["layers"], head["out"]):
        expected = f"names of {head['layers']} layers and an objective with {head['out']} outputs, as it is built"
        raise _refused(folder, expected, "{} and {}".format(*found))


def _check_joined(folder: Path, config: dict[str, Any], facts: HeadFacts) -> None:
    """Whether head, facts and version tell of the same models."""
    joined, several = config["head"].get("joined"), bool(facts.further)
    if several != (joined is not None) or several != (config["format_version"] == JOINED_VERSION):
        raise _refused(folder, "a head over the models of its facts", "several in one of them, one in the other")
    if not several:
        return
    pca = config["treatment"]["options"].get("pca")
    rows = zip(facts.sources, facts.widths, strict=True)
    models = [{"layers": len(source.capture.layers), "dim": pca or width} for source, width in rows]
    if joined["models"] != models:
        raise _refused(
            folder, f"a head over rows as its captures have them, {models}"[:300], str(joined["models"])[:200]
        )


def _check_weights(folder: Path, outlined: TrainedHead, basis: dict[str, tuple[int, ...]], file: Path) -> None:
    """Whether the file's header names the tensors of this head and its basis, with their shapes and types."""
    with safe_open(file, "pt") as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        found = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    wanted = {name: (tuple(value.shape), _TYPES[value.dtype]) for name, value in outlined.state_dict().items()}
    wanted |= {name: (shape, _TYPES[torch.float32]) for name, shape in basis.items()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        expected = f"{len(wanted)} tensors, among them {name} {wanted[name]}" if name in wanted else f"no tensor {name}"
        there = f"{len(found)}, with {name} {found[name]}" if name in found else f"none of the name {name}"
        raise _refused(folder, f"a head as 'ilse train' wrote it: {expected}"[:300], there[:200])


def _check_finite(folder: Path, trained: TrainedHead) -> None:
    for name, value in trained.state_dict().items():
        if not value.isfinite().all():
            raise _refused(folder, "finite weights", f"NaN or infinity in {name}")


def _missing(folder: Path) -> str:
    return " and no ".join(name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file())


def _refused(folder: Path, expected: str, found: str, kind: type[UserError] = UserError) -> UserError:
    return kind(
        f"head {folder}", expected=expected, found=found, next_step="run 'ilse train' again, or pull the head again"
    )
