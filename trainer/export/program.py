"""What is exported of a head: rows as the cache holds them in, named outputs out."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from trainer.artifact import TrainedHead
from trainer.heads import PairHead

INPUT, EXAMPLES = "rows", "examples"
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
    shape
        Of the input behind the examples: `[layers, dim]`, or `[2, layers, dim]` of a head that answers about pairs.
    """

    def __init__(self, trained: TrainedHead) -> None:
        super().__init__()
        self.trained = trained
        self.pairs = isinstance(trained.inner, PairHead)
        self.names = (VECTORS,) if trained.objective.embeds else (LOGITS, PROBABILITIES)
        if not trained.facts.labels and not trained.objective.embeds:
            self.names = (SCORE,)
        dim = trained.treatment.standardise.mean.shape[1]
        self.shape = ((2,) if self.pairs else ()) + (len(trained.head.layers_read), dim)

    def forward(self, rows: Float[Tensor, "examples *shape"]) -> tuple[Tensor, ...]:
        """The outputs, in the order of `names`."""
        outputs = self.trained(rows.flatten(0, 1) if self.pairs else rows)
        if self.names == (VECTORS,):
            return (outputs,)
        predicted = self.trained.objective.predict(outputs)
        return (predicted,) if self.names == (SCORE,) else (outputs, predicted)

    @torch.no_grad()
    def traced(self) -> Any:
        """As `torch.export.ExportedProgram`, for any number of examples; whatever torch raises where it cannot."""
        examples = {0: torch.export.Dim(EXAMPLES)}
        program = torch.export.export(self.eval(), (self.rows(TRACED),), dynamic_shapes=(examples,))
        program.example_inputs = None  # they would be pickled into the file
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)  # places of this machine
        return program

    def rows(self, examples: int) -> Float[Tensor, "examples *shape"]:
        """Made-up rows of the training rows' mean and spread, the same ones every time."""
        treatment = self.trained.treatment.standardise
        drawn = torch.randn(examples, *self.shape, generator=torch.Generator().manual_seed(examples))
        return drawn * treatment.scale + treatment.mean
