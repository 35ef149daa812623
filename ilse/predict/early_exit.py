"""An exit head asked layer by layer, while the model runs, instead of about all layers at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from trainer.artifacts.artifact import TrainedHead
from trainer.heads.exit_thresholds import sureness
from trainer.heads.exits import Exits
from trainer.treatment import Treatment


def leaving_of(trained: TrainedHead) -> Callable[[int], Leaving] | None:
    """What begins on so many texts with this head; None for a head that lets no text leave before the last layer."""
    head, treatment = trained.head, trained.treatment
    if not isinstance(head, Exits) or head.threshold > 1:
        return None
    treatments = [treatment.of_layers([place]) for place in range(len(head.layers_read))]
    return lambda texts: Leaving(head, treatments, texts)


class Leaving:
    """Outputs of a head's exits for some texts; each text leaves at the exit where `Exits.forward` lets it leave.

    Parameters
    ----------
    head
        The head.
    treatments
        What is done to the rows of each layer that it reads, before it sees them.
    texts
        How many there are.

    Attributes
    ----------
    left
        The place of each text's exit among the layers read.
    """

    def __init__(self, head: Exits, treatments: Sequence[Treatment], texts: int) -> None:
        self.head, self._treatments = head, treatments
        # Exits that are not reached yet stand as zeros: no kind of sureness looks at later exits than its own.
        self._logits = torch.zeros(texts, len(head.layers_read), head.spec.out)
        self.left = torch.full((texts,), len(head.layers_read) - 1)

    def stay(
        self, place: int, texts: Int[Tensor, " there"], rows: Float32[Tensor, "there 1 dim"]
    ) -> Bool[Tensor, " there"]:
        """Mask of the texts of which the exit at this place is not sure, from their rows of its layer."""
        treated = self._treatments[place](rows)[:, 0]
        self._logits[texts, place] = self.head.at(place, treated)
        sure = sureness(self._logits[texts], self.head.spec.options.sureness)[:, place]
        leaves = sure >= self.head.threshold
        self.left[texts[leaves]] = place
        return ~leaves

    def outputs(self) -> Float[Tensor, "texts out"]:
        """Logits of the exit at which each text left."""
        return self._logits[torch.arange(len(self.left)), self.left]
