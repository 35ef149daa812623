"""Reads and pools every wanted layer inside one forward pass, so that one layer's token states are alive at a time.

Rows follow Hugging Face's `hidden_states`: the embedding output, the output of each block, and as the last row the
last block's output after the model's final norm, where it has one. The last needed layer is the last one run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float32, Int
from torch import Tensor, nn

from pipeline.capture.batching import Batch
from pipeline.capture.pooling import Pooler
from pipeline.model.architecture import find_blocks, model_inputs, unknown
from pipeline.model.load import FrozenModel
from pipeline.model.weights import drop_blocks, restore_blocks
from pipeline.model.witness import entering_states, made_up_ids

# How far a token's state may be from what Hugging Face gives, as a part of its norm, in the median over tokens. It is
# the same computation, normally equal to the last bit. The median because a few tokens go other ways in bfloat16.
TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2, "float16": 1e-2}
# Times as much: fused operations round in other places. Measured on SmolLM2-135M in bfloat16: 0.02, a layer from the
# next 0.17 at least.
COMPILED = 10


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


class _Enough(Exception):
    """The last needed layer has been seen."""


See = Callable[[int, Tensor], None]
Run = Callable[[dict[str, Any], See], None]


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

    Raises
    ------
    UserError
        When hooks do not read what `output_hidden_states` gives; it names the architecture and the way out.
    """

    def __init__(self, frozen: FrozenModel, request: Request, method: str = "hooks") -> None:
        self._model, self._facts, self._witness = frozen.model, frozen.facts, frozen.witness
        self.request = request
        self._wanted = frozenset(request.layers)
        self._run: Run = self._run_hooks if method == "hooks" else self._run_hidden_states
        if method == "hooks":
            self._blocks = find_blocks(self._model)
            restore_blocks(frozen, self.blocks_run)
        self.prove_capture()
        self.needs_mask = not self._does_without_mask()
        if method == "hooks":
            drop_blocks(frozen, self.blocks_run)

    @property
    def blocks_run(self) -> int:
        """How many blocks a forward pass costs with hooks."""
        last = max(self.request.layers)
        return min(last if self._witness.from_embedding else last + 1, len(self._witness.layers) - 1)

    @torch.inference_mode()
    def read(self, batch: Batch) -> BatchRows:
        """The rows of one batch, float32 in main memory; padding may stand on either side."""
        device = self._facts.device
        pooler = Pooler(batch.mask, batch.content, self.request.poolings, device)
        shape = (len(batch.ids), len(self.request.layers), self._facts.dim)
        pooled = {name: torch.empty(shape, device=device) for name in self.request.poolings}
        tokens = _TokenStates(batch.mask, self.request, self._facts.dim) if self.request.token_states else None

        def see(layer: int, states: Tensor) -> None:
            place = self.request.layers.index(layer)
            for name, rows in pooler(states).items():
                pooled[name][:, place] = rows
            if tokens is not None:
                tokens.see(place, states)

        self._forward(batch.ids, batch.mask if self._masked(batch.mask) else None, see)
        return BatchRows({name: rows.cpu() for name, rows in pooled.items()}, tokens.split() if tokens else None)

    def _masked(self, mask: Int[Tensor, "batch tokens"]) -> bool:
        return self.needs_mask or not bool(mask[:, 0].all())

    def _forward(self, ids: Tensor, mask: Tensor | None, see: See) -> None:
        device = self._facts.device
        inputs = model_inputs(self._model, ids.to(device), None if mask is None else mask.to(device))
        self._run(inputs, lambda layer, states: see(layer, states) if layer in self._wanted else None)

    def _run_hidden_states(self, inputs: dict[str, Any], see: See) -> None:
        for layer, states in enumerate(self._model(**inputs, output_hidden_states=True).hidden_states):
            see(layer, states)

    def _run_hooks(self, inputs: dict[str, Any], see: See) -> None:
        last = max(self.request.layers)

        def watch(layer: int, states: Tensor) -> None:
            see(layer, states)
            if layer == last:
                raise _Enough

        try:
            with _watch(self._blocks, self._witness.from_embedding, watch):
                output = self._model(**inputs)
            watch(len(self._witness.layers) - 1, output.last_hidden_state)
        except _Enough:
            pass

    @torch.inference_mode()
    def prove_capture(self) -> None:
        """Compares what is read with what `output_hidden_states` gave when the model was loaded.

        An architecture that capture misreads gives a `UserError` and never wrong rows.
        """
        found = self._states_of(self._witness.ids, self._witness.mask)
        if not self._equal_witness(found):
            raise unknown(self._facts.architecture, "other states than output_hidden_states gives")
        if self._facts.compiled:  # a batch without padding may be a graph of its own: it too meets this shape first
            self._states_of(self._witness.ids, torch.ones_like(self._witness.mask))

    @torch.inference_mode()
    def _does_without_mask(self) -> bool:
        """Whether right padding may go unmasked: it is proven on the model, never taken from its name.

        Where tokens see only what stands before them, the padding's ids do not change a bit of the tokens' states;
        and without a mask attention takes a faster way.
        """
        mask = self._witness.mask
        try:
            with_these, with_those = (
                self._states_of(made_up_ids(self._model, mask, padding), None) for padding in (7, 11)
            )
        except (TypeError, ValueError, AttributeError):  # a forward pass that insists on a mask
            return False
        return torch.equal(with_these, with_those) and self._equal_witness(with_these)

    def _states_of(
        self, ids: Int[Tensor, "batch tokens"], mask: Int[Tensor, "batch tokens"] | None
    ) -> Float32[Tensor, "layers real dim"]:
        """States of the made-up texts' real tokens in each wanted layer."""
        real = self._witness.mask.bool()
        seen: dict[int, Tensor] = {}
        self._forward(ids, mask, lambda layer, states: seen.update({layer: states.cpu()[real].float()}))
        return torch.stack([seen[layer] for layer in self.request.layers])

    def _equal_witness(self, found: Float32[Tensor, "layers real dim"]) -> bool:
        expected = self._witness.states[list(self.request.layers)][:, self._witness.mask.bool()]
        error = (found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-12)
        tolerance = TOLERANCE[self._facts.compute_type] * (COMPILED if self._facts.compiled else 1)
        return bool((error.median(1).values <= tolerance).all())


class _TokenStates:
    """The states of a batch's real tokens, filled layer by layer."""

    def __init__(self, mask: Int[Tensor, "batch tokens"], request: Request, dim: int) -> None:
        self._counts = mask.sum(1).tolist()
        self._places = mask.reshape(-1).nonzero().squeeze(1)
        self._states = torch.empty(len(self._places), len(request.layers), dim)

    def see(self, place: int, states: Tensor) -> None:
        real = states.flatten(0, 1).index_select(0, self._places.to(states.device))
        self._states[:, place] = real.float().cpu()

    def split(self) -> list[Float32[Tensor, "_ layers dim"]]:
        return list(self._states.split(self._counts))


@contextmanager
def _watch(blocks: nn.ModuleList, from_embedding: bool, see: See) -> Iterator[None]:
    """Shows layers as they pass: what enters block i, or for models that count so, what leaves it."""

    def entering(layer: int) -> Any:
        return lambda _block, args, kwargs: see(layer, entering_states(args, kwargs))

    def leaving(layer: int) -> Any:
        return lambda _block, _args, out: see(layer, out[0] if isinstance(out, tuple) else out)

    if from_embedding:
        handles = [b.register_forward_pre_hook(entering(i), with_kwargs=True) for i, b in enumerate(blocks)]
    else:
        handles = [b.register_forward_hook(leaving(i)) for i, b in enumerate(blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
