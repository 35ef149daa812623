"""Reads texts that leave the model on the way: blocks run in turn, on the rows of the batch that are still there.

Before each block the rows that stay are taken out of its arguments, which a model makes for the whole batch. Whether a
model bears that is proven on made-up texts, as everything is that is read of one (`proofs`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor, nn

from pipeline.capture.batching import Batch, Spans
from pipeline.capture.forward import Enough, in_place
from pipeline.capture.pooling import Pooler
from pipeline.capture.proofs import REFUSALS, agrees, made_up_tokens
from pipeline.capture.reader import Reader
from pipeline.capture.tokens import Tokens
from pipeline.capture.windows import in_windows
from pipeline.model.architecture import find_blocks, model_inputs
from pipeline.model.load import FrozenModel
from pipeline.model.witness import MadeUp, made_up_ids

See = Callable[[int, Float[Tensor, "there tokens dim"], Int[Tensor, " there"]], Bool[Tensor, " there"]]
"""Told a layer, the states of the rows that are there and their numbers in the batch; says which of them stay."""

BATCH_TOKENS = 128
"""Tokens in a batch of the proof."""

Decide = Callable[[int, Int[Tensor, " there"], Float32[Tensor, "there dim"]], Bool[Tensor, " there"]]
"""Told a layer's place in the request, texts by their number and their pooled rows, of several poolings side by side;
says which of them stay."""


class LeavingReader:
    """A reader whose texts may leave at any layer of its request.

    Attributes
    ----------
    reader
        The reader that it continues from.
    works
        Whether the model bears it: of one that does not, no text may leave.
    """

    def __init__(self, frozen: FrozenModel, reader: Reader, method: str = "hooks") -> None:
        self._frozen, self.reader = frozen, reader
        self._blocks = find_blocks(frozen.model) if method == "hooks" else nn.ModuleList()
        self.works = method == "hooks" and frozen.witness.from_embedding and self._proven()

    @torch.inference_mode()
    def read_all(self, tokens: Tokens, batch_tokens: int, decide: Decide) -> None:
        """Shows every text's rows to `decide`, layer by layer, until it leaves. Batches are of a text a row.

        Raises `ValueError` for texts that are read in windows: their rows are there when all their windows are read.
        """
        if in_windows(tokens).parts is not None:
            raise ValueError("a text that is read in windows cannot leave on the way")
        for batch in self.reader.batches(tokens, batch_tokens, packing=False):
            self._read(batch, decide)

    def _read(self, batch: Batch, decide: Decide) -> None:
        request, device = self.reader.request, self._frozen.facts.device
        width = batch.ids.shape[1]
        poolers: dict[int, Pooler] = {}  # by how many are there: rows only leave

        def see(layer: int, states: Tensor, there: Int[Tensor, " there"]) -> Bool[Tensor, " there"]:
            if len(there) not in poolers:
                spans = Spans(torch.arange(len(there)) * width, batch.spans.lengths[there])
                poolers[len(there)] = Pooler(spans, batch.content[there], request.poolings, device)
            pooled = poolers[len(there)](states)
            rows = torch.cat([pooled[name] for name in request.poolings], -1).cpu()
            return decide(request.layers.index(layer), batch.positions[there], rows)

        self._forward(see, batch)

    def _forward(self, see: See, batch: Batch) -> None:
        """Runs the model as far as a row is left, and as the last layer of the request at most."""
        wanted, (whole, width) = set(self.reader.request.layers), batch.ids.shape
        there = torch.arange(whole)

        def leave(layer: int, states: Tensor) -> Tensor:
            nonlocal there
            if layer not in wanted:
                return states
            stay = see(layer, states[:, :width], there)
            if layer == max(wanted) or not stay.any():
                raise Enough
            there = there[stay]
            return states if stay.all() else states[stay.to(states.device)]

        def entering(layer: int) -> Any:
            def hook(_block: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                named = {} if args else {"hidden_states": leave(layer, kwargs["hidden_states"])}
                first = (leave(layer, args[0]),) if args else ()
                rest = [_of(there, whole, given) for given in args[1:]]
                others = {name: _of(there, whole, given) for name, given in kwargs.items() if name not in named}
                return (*first, *rest), {**others, **named}

            return hook

        frozen, device = self._frozen, self._frozen.facts.device
        mask = batch.mask.to(device) if self.reader.masked(batch) else None
        types = None if batch.types is None else batch.types.to(device)
        inputs = model_inputs(frozen.model, batch.ids.to(device), mask, types)
        with frozen.lock:
            try:
                hooks = [b.register_forward_pre_hook(entering(i), with_kwargs=True) for i, b in enumerate(self._blocks)]
                with in_place(hooks):
                    output = frozen.model(**inputs)
                leave(len(frozen.witness.layers) - 1, output.last_hidden_state)
            except Enough:
                pass
            finally:
                self.reader.restore()

    @torch.inference_mode()
    def _proven(self) -> bool:
        """Whether the states of two made-up texts stay what they are when the others have left."""
        texts = self._frozen.witness.texts[:2]
        twins = [made_up_ids(self._frozen.model, len(text.ids), 100 + i) for i, text in enumerate(texts)]
        tokens = made_up_tokens([*(list(text.ids) for text in texts), *twins])
        try:
            return all(
                self._agrees(batch, row, texts[position])
                for batch in self.reader.batches(tokens, BATCH_TOKENS, packing=False)
                for row, position in enumerate(batch.positions.tolist())
                if position < len(texts)
            )
        except REFUSALS:  # of shapes that do not go together, for one
            return False

    def _agrees(self, batch: Batch, row: int, text: MadeUp) -> bool:
        found: list[Tensor] = []

        def see(layer: int, states: Tensor, there: Int[Tensor, " there"]) -> Bool[Tensor, " there"]:
            found.append(states.cpu()[there == row][0, : len(text.ids)].float())
            return there == row

        self._forward(see, batch)
        return agrees(torch.stack(found), text, self.reader.request.layers, self._frozen)


def _of(there: Int[Tensor, " there"], whole: int, given: Any) -> Any:
    """The part of a batch's value that belongs to the rows that are left; anything without a batch axis unchanged."""
    if isinstance(given, tuple | list):
        return type(given)(_of(there, whole, part) for part in given)
    if isinstance(given, Tensor) and given.ndim > 1 and len(given) == whole and len(there) < whole:
        return given[there.to(given.device)]
    return given
