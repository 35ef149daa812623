"""The exported program of a head: rows or tokens from the model in, named outputs out."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pipeline.store.basis import LIMIT
from trainer.artifacts.artifact import TrainedHead
from trainer.heads import PairHead
from trainer.rows.padded import Padded

ROWS, TOKENS, MASK = "rows", "tokens", "mask"
"""The inputs."""
EXAMPLES, PLACES = "examples", "tokens"
"""The axes that are free."""
LOGITS, PROBABILITIES, SCORE, VECTORS = "logits", "probabilities", "score", "vectors"
SIZES = (1, 2, 7)
"""Examples of the batches that an export is tried on; it is traced with another number."""
TRACED = 3


class Program(nn.Module):
    """Treatment, head and what the objective makes of its outputs.

    Attributes
    ----------
    names
        Of the outputs: `logits` and `probabilities` of labels; `score` on the training scores' scale; or `vectors` of
        single texts, whose cosine is how alike two are.
    inputs
        Names and axes of the inputs: `rows`, [examples, layers, dim], or [examples, 2, layers, dim] of a head that
        answers about pairs.
    """

    def __init__(self, trained: TrainedHead) -> None:
        super().__init__()
        self.trained = trained
        self.pairs = isinstance(trained.inner, PairHead)
        self.names = (VECTORS,) if trained.objective.embeds else (LOGITS, PROBABILITIES)
        if not trained.facts.labels and not trained.objective.embeds:
            self.names = (SCORE,)
        self.texts = (EXAMPLES, 2) if self.pairs else (EXAMPLES,)
        self.inputs = self._inputs()

    def _inputs(self) -> dict[str, tuple[str | int, ...]]:
        layers, dim = self.trained.treatment.standardise.mean.shape
        return {ROWS: (*self.texts, layers, dim)}

    def forward(self, rows: Float[Tensor, "examples *shape"]) -> tuple[Tensor, ...]:
        """The outputs, in the order of `names`."""
        return self.told(rows.flatten(0, 1) if self.pairs else rows)

    def told(self, x: Any) -> tuple[Tensor, ...]:
        """The outputs for rows, or tokens, of texts."""
        outputs = self.trained(x)
        if self.names == (VECTORS,):
            return (outputs,)
        predicted = self.trained.objective.predict(outputs)
        return (predicted,) if self.names == (SCORE,) else (outputs, predicted)

    @torch.no_grad()
    def traced(self) -> Any:
        """The program as a `torch.export.ExportedProgram` for any number of examples. Raises whatever torch does if it
        cannot.
        """
        free = {name: torch.export.Dim(name) for name in (EXAMPLES, PLACES)}
        axes = tuple(
            {place: free[axis] for place, axis in enumerate(shape) if isinstance(axis, str)}
            for shape in self.inputs.values()
        )
        program = torch.export.export(self.eval(), self.given(TRACED), dynamic_shapes=axes)
        program.example_inputs = None  # they would be pickled into the file
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # places of this machine
        return program

    def given(self, examples: int) -> tuple[Tensor, ...]:
        """Made-up inputs of the training rows' mean and spread, the same ones every time."""
        (shape,) = self.inputs.values()
        return (self._drawn(examples, *shape[1:]),)

    def _drawn(self, *shape: int | str) -> Tensor:
        treatment = self.trained.treatment.standardise
        drawn = torch.randn(*map(int, shape), generator=torch.Generator().manual_seed(int(shape[0])))
        return drawn * treatment.scale + treatment.mean


class TokenProgram(Program):
    """The program of a head that reads whole token states as the model gives them; it includes the basis that the head
    reads them in.

    Texts of different lengths are padded, on either side; no value of the padding, NaN included, changes an answer.

    Attributes
    ----------
    inputs
        `tokens`, [examples, tokens, layers, dim], and `mask`, [examples, tokens], true for a text's own tokens; of
        pairs with an axis of 2 behind the examples.
    """

    mean: Tensor
    scale: Tensor
    directions: Tensor

    def __init__(self, trained: TrainedHead) -> None:
        super().__init__(trained)
        self.projects, tokens = trained.basis is not None, trained.facts.capture.tokens
        if trained.basis is not None and tokens is not None:
            names = [trained.facts.layer_names[layer] for layer in trained.head.layers_read]
            basis = trained.basis.at([tokens.layers.index(name) for name in names])
            for name in ("mean", "scale", "directions"):
                self.register_buffer(name, torch.tensor(getattr(basis, name)))

    def _inputs(self) -> dict[str, tuple[str | int, ...]]:
        layers, dim = len(self.trained.head.layers_read), self.trained.facts.capture.dim
        return {TOKENS: (*self.texts, PLACES, layers, dim), MASK: (*self.texts, PLACES)}

    def forward(  # type: ignore[override]
        self, tokens: Float[Tensor, "examples *places layers dim"], mask: Bool[Tensor, "examples *places"]
    ) -> tuple[Tensor, ...]:
        """The outputs, in the order of `names`."""
        if self.pairs:
            tokens, mask = tokens.flatten(0, 1), mask.flatten(0, 1)
        x = Padded.of(tokens, mask)
        return self.told(x.map(self._projected) if self.projects else x)

    def given(self, examples: int) -> tuple[Tensor, ...]:
        """Made-up tokens of texts of different lengths, NaN for padding: the same ones every time."""
        shape, generator = self.inputs[TOKENS], torch.Generator().manual_seed(examples)
        sizes = [examples, *(int(axis) for axis in shape[1:-3]), 1 + examples]
        lengths = torch.randint(1, sizes[-1] + 1, sizes[:-1], generator=generator)
        mask = torch.arange(sizes[-1]) < lengths[..., None]
        tokens = self._drawn(*sizes, *shape[-2:])
        return tokens.masked_fill(~mask[..., None, None], torch.nan), mask

    def _drawn(self, *shape: int | str) -> Tensor:
        if not self.projects:
            return super()._drawn(*shape)
        drawn = torch.randn(*map(int, shape), generator=torch.Generator().manual_seed(int(shape[0])))
        return drawn * self.scale + self.mean

    def _projected(self, states: Float[Tensor, "tokens layers dim"]) -> Float[Tensor, "tokens layers rank"]:
        """`Basis.project`."""
        values = ((states - self.mean) / self.scale).clamp(-LIMIT, LIMIT)
        values = values.masked_fill(~states.isfinite(), torch.nan)  # as the basis has it: cutting would hide it
        return (values.transpose(0, 1) @ self.directions.mT).transpose(0, 1)


def program_of(trained: TrainedHead) -> Program:
    """Builds the exported program of a head."""
    return TokenProgram(trained) if trained.facts.reads_tokens else Program(trained)
