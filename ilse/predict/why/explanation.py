"""How much each token of a text moves a head's answer, in each layer: gradient × input, as `trainer.analysis` has it.

    why = predictor.why("Chip maker's profit falls")
    why.top(3)                         # [("profit", 1.9), ("falls", 0.7), ("Chip", 0.4)]
    why.contributions                  # [tokens, layers]
    why                                # in a notebook: words × layers as a picture, as `html` gives it

    c_tℓ = Σ_d ∂f/∂z_tℓd · z_tℓd

z is the treated state, whose zero is the training tokens' mean, and f the answer: the largest logit, or the score. To
first order: of a reader and a head that are linear the contributions sum to f less what f is at the mean; a maximum
gives all to the tokens that hold it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ilse.core.errors import UserError
from ilse.predict.predictions import Prediction, in_words, read
from ilse.predict.why.read_words import ReadText
from trainer.analysis.attribution import answer
from trainer.analysis.word_picture import picture, strongest
from trainer.artifacts.artifact import TrainedHead
from trainer.rows.ragged import Tokens


@dataclass(frozen=True)
class Explanation:
    """A prediction, and what each token contributes to it.

    Parameters
    ----------
    prediction
        What `Predictor.predict` says of the text.
    tokens
        The text's tokens as the model reads them, in order, with those of the template and the special ones.
    layers
        Names of the layers that the head reads.
    contributions
        [tokens, layers]; above 0 speaks for the answer, below 0 against it.
    words
        The text's words, whose tokens are joined as far as the tokenizer tells which belong together.
    word_of
        [tokens]: which word a token is part of.
    """

    prediction: Prediction
    tokens: list[str]
    layers: list[str]
    contributions: npt.NDArray[np.float32]
    words: list[str]
    word_of: npt.NDArray[np.int64]

    @property
    def word_contributions(self) -> npt.NDArray[np.float32]:
        """[words, layers]: the sum over each word's tokens."""
        found = np.zeros((len(self.words), len(self.layers)), np.float32)
        np.add.at(found, self.word_of, self.contributions)
        return found

    def html(self, style: bool = True) -> str:
        """A picture of words × layers, an HTML `<figure>` that stands alone; see `trainer.analysis.word_picture`."""
        words = strongest(self.words, self.word_contributions)
        return picture(words, self.layers, in_words(self.prediction), style)

    def _repr_html_(self) -> str:
        """The picture, in notebooks."""
        return self.html()

    def top(self, k: int | None = None) -> list[tuple[str, float]]:
        """The `k` tokens (all of them for None) that move the answer most, each with its sum over the layers."""
        sums = self.contributions.sum(1)
        order = np.argsort(-np.abs(sums), kind="stable")[:k]
        return [(self.tokens[place], float(sums[place])) for place in order.tolist()]


def explained(trained: TrainedHead, text: ReadText, states: Tokens) -> Explanation:
    """What a head says of one text, from its tokens and their states as the cache holds them."""
    with torch.inference_mode(False), torch.enable_grad():
        values = trained.treatment(states.values.clone()).detach().requires_grad_()
        outputs = trained.head(Tokens(values, states.lengths.clone()))
        (gradient,) = torch.autograd.grad(answer(trained.objective, outputs).sum(), values)
    names = [trained.facts.layer_names[layer] for layer in trained.head.layers_read]
    (prediction,) = read(trained.objective, trained.facts.labels, outputs.detach())
    contributions = (gradient * values.detach()).sum(-1).numpy()
    return Explanation(prediction, text.tokens, names, contributions, text.words, np.array(text.word_of, np.int64))


def require_explainable(trained: TrainedHead, pairs: bool) -> None:
    """Raises `UserError` for a head that reads no tokens, and for one that answers about pairs of texts."""
    if pairs or not trained.facts.reads_tokens:
        raise UserError(
            f"what tokens contribute to the answers of head '{trained.head.spec.name}'",
            expected="a head that reads the tokens of one text",
            found="one that answers about pairs of texts" if pairs else "one that reads pooled rows",
            next_step="'ilse analyse' says what each layer contributes"
            + ("" if pairs else "; train the head with 'tokens' for this"),
        )
