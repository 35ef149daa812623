"""A forward pass that hands out each wanted layer in turn, so only one layer's token states are in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jaxtyping import Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pipeline.model.architecture import find_blocks, model_inputs, unknown
from pipeline.model.load import FrozenModel
from pipeline.model.weights import drop_blocks, restore_blocks
from pipeline.model.witness import entering_states

See = Callable[[int, Tensor], None]


class Enough(Exception):
    """The last needed layer has been seen."""


class Forward:
    """Runs a model as far as its last wanted layer.

    Parameters
    ----------
    frozen
        From `load_model`.
    layers
        Places in `frozen.facts.layers`.
    method
        `hooks`, or `hidden_states` for an architecture that hooks do not know: it holds all layers at a time.

    Raises
    ------
    UserError
        When the model's blocks are not found; it names the architecture and the way out.
    """

    def __init__(self, frozen: FrozenModel, layers: tuple[int, ...], method: str = "hooks") -> None:
        self.frozen, self.layers, self.method = frozen, layers, method
        self._model, self._witness = frozen.model, frozen.witness
        self._wanted, self._last = frozenset(layers), max(layers)
        if method == "hooks":
            self._blocks = find_blocks(self._model)
        with frozen.lock:
            frozen.passes.add(self)
            restore_blocks(frozen, self.blocks_run)

    @property
    def blocks_run(self) -> int:
        """How many blocks a forward pass costs."""
        last = self._last
        if self.method != "hooks":
            return len(self._witness.layers) - 1
        return min(last if self._witness.from_embedding else last + 1, len(self._witness.layers) - 1)

    def drop_the_rest(self) -> None:
        """Frees the weights of the blocks that nobody runs."""
        if self.method == "hooks":
            with self.frozen.lock:
                drop_blocks(self.frozen)

    def __call__(
        self,
        see: See,
        ids: Int[Tensor, "rows tokens"],
        mask: Int[Tensor, "rows tokens"] | None = None,
        numbers: Int[Tensor, "rows tokens"] | None = None,
        types: Int[Tensor, "rows tokens"] | None = None,
    ) -> None:
        """Calls `see(layer, states)` for each wanted layer, states as the model has them, [rows, tokens, dim].

        `mask` is 1 for tokens and 0 for padding; `numbers` are each token's in its text, for rows of several texts:
        where they start again, transformers' masks part one text from the next. `types` are the tokens' types. A model
        runs one pass at a time.
        """
        device, width = self.frozen.facts.device, ids.shape[1]
        mask, types = (None if given is None else given.to(device) for given in (mask, types))
        inputs = model_inputs(self._model, ids.to(device), mask, types)
        if numbers is not None:
            inputs["position_ids"] = numbers.to(device)
        run = self._run_hooks if self.method == "hooks" else self._run_hidden_states
        with self.frozen.lock:
            try:
                # Some models fill rows up to whole windows of their own, behind the tokens that they were given.
                run(inputs, lambda layer, states: see(layer, states[:, :width]) if layer in self._wanted else None)
            finally:
                if self.frozen.pristine.needed:
                    self.frozen.pristine.restore()

    def _run_hidden_states(self, inputs: dict[str, Any], see: See) -> None:
        for layer, states in enumerate(self._model(**inputs, output_hidden_states=True).hidden_states):
            see(layer, states)

    def _run_hooks(self, inputs: dict[str, Any], see: See) -> None:
        unseen = set(self._wanted)

        def watch(layer: int, states: Tensor) -> None:
            self._require_states(layer, states, inputs["input_ids"])
            see(layer, states)
            unseen.discard(layer)
            if layer == self._last:
                raise Enough

        try:
            with _watch(self._blocks, self._witness.from_embedding, watch):
                output = self._model(**inputs)
            watch(len(self._witness.layers) - 1, output.last_hidden_state)
        except Enough:
            pass
        if unseen:  # SqueezeBERT calls its blocks' forward itself, past their hooks
            raise unknown(self.frozen.facts.architecture, f"no state of layer {min(unseen)} on its way")

    def _require_states(self, layer: int, states: Tensor, ids: Tensor) -> None:
        (rows, tokens), dim = ids.shape, self.frozen.facts.dim
        if states.ndim != 3 or len(states) != rows or states.shape[1] < tokens or states.shape[2] != dim:
            # Reformer's blocks hand on two streams side by side.
            found = f"states of the shape {tuple(states.shape)} in layer {layer}, where {(rows, tokens, dim)} belongs"
            raise unknown(self.frozen.facts.architecture, found)


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
    with in_place(handles):
        yield


@contextmanager
def in_place(handles: Sequence[RemovableHandle]) -> Iterator[None]:
    """Removes the hooks when the block ends."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
