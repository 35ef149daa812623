"""Reads and pools every wanted layer of a batch.

Rows follow Hugging Face's `hidden_states`: the embedding output, the output of each block, and as the last row the
last block's output after the model's final norm, where it has one. The last needed layer is the last one run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int
from torch import Tensor

from pipeline.capture.batching import Batch, Spans, batches
from pipeline.capture.forward import Forward
from pipeline.capture.pooling import Pooler
from pipeline.capture.proofs import does_without_mask, keeps_packed_texts_apart, prove_capture
from pipeline.capture.tokens import Tokens
from pipeline.model.load import FrozenModel


@dataclass(frozen=True)
class Request:
    """What to read: layers by number, poolings by name, and whether the states of single tokens too."""

    layers: tuple[int, ...]
    poolings: tuple[str, ...]
    token_states: bool = False


@dataclass(frozen=True)
class BatchRows:
    """What was read of one batch, in its order, layers as requested.

    `tokens`: one tensor a text, of its real tokens in order; None where they were not asked for.
    """

    pooled: dict[str, Float32[Tensor, "batch layers dim"]]
    tokens: list[Float32[Tensor, "_ layers dim"]] | None


class Reader:
    """A model made ready for one request.

    Building it proves capture on made-up texts and drops the weights of the blocks that are not run. Of several
    readers of one model the latest is the one to use: it may have dropped what an earlier one needs.

    Parameters
    ----------
    frozen
        From `load_model`.
    request
        Layers are places in `frozen.facts.layers`.
    method
        `hooks`, or `hidden_states` for an architecture that hooks do not know: it holds all layers at a time.

    Attributes
    ----------
    needs_mask
        Whether tokens would see the padding behind them.
    pad
        The token that fills up rows.
    packs
        Whether several texts may stand in one row of a batch.

    Raises
    ------
    UserError
        When hooks do not read what `output_hidden_states` gives; it names the architecture and the way out.
    """

    def __init__(self, frozen: FrozenModel, request: Request, method: str = "hooks") -> None:
        self.request = request
        self._facts = frozen.facts
        self.pad = frozen.tokenizer.pad_token_id or 0
        self._forward = Forward(frozen, request.layers, method)
        prove_capture(self._forward)
        self.needs_mask = not does_without_mask(self._forward)
        self.packs = keeps_packed_texts_apart(self._forward)
        self._forward.drop_the_rest()

    def read_all(self, tokens: Tokens, batch_tokens: int) -> Iterator[tuple[Int[Tensor, " texts"], BatchRows]]:
        """The rows of all texts, in batches of at most `batch_tokens` tokens: which texts they are, and their rows."""
        for batch in batches(tokens, batch_tokens, self.pad, self.packs):
            yield batch.positions, self.read(batch)

    @torch.inference_mode()
    def read(self, batch: Batch) -> BatchRows:
        """The rows of one batch, float32 in main memory; padding may stand on either side.

        Packed batches are only for a reader that `packs`.
        """
        device = self._facts.device
        pooler = Pooler(batch.spans, batch.content, self.request.poolings, device)
        shape = (len(batch.positions), len(self.request.layers), self._facts.dim)
        pooled = {name: torch.empty(shape, device=device) for name in self.request.poolings}
        tokens = _TokenStates(batch.spans, self.request, self._facts.dim) if self.request.token_states else None

        def see(layer: int, states: Tensor) -> None:
            place = self.request.layers.index(layer)
            for name, rows in pooler(states).items():
                pooled[name][:, place] = rows
            if tokens is not None:
                tokens.see(place, states)

        if batch.packed:
            self._forward(see, batch.ids, numbers=batch.numbers)
        else:
            self._forward(see, batch.ids, batch.mask if self.masked(batch) else None)
        return BatchRows({name: rows.cpu() for name, rows in pooled.items()}, tokens.split() if tokens else None)

    def masked(self, batch: Batch) -> bool:
        """Whether a batch of a text a row has to be read with its mask."""
        left_padded = not bool(batch.mask[:, 0].all())
        return self.needs_mask or left_padded


class _TokenStates:
    """The states of a batch's real tokens, filled layer by layer."""

    def __init__(self, spans: Spans, request: Request, dim: int) -> None:
        self._counts = spans.lengths.tolist()
        self._places = spans.places
        self._states = torch.empty(len(self._places), len(request.layers), dim)

    def see(self, place: int, states: Tensor) -> None:
        real = states.flatten(0, 1).index_select(0, self._places.to(states.device))
        self._states[:, place] = real.float().cpu()

    def split(self) -> list[Float32[Tensor, "_ layers dim"]]:
        return list(self._states.split(self._counts))
