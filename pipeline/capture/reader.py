"""Reads and pools every wanted layer of a batch.

Rows follow Hugging Face's `hidden_states`: the embedding output, the output of each block, and as the last row the
last block's output after the model's final norm, where it has one. The last needed layer is the last one run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float32, Int
from torch import Tensor

from ilse.core.errors import UserError
from pipeline.capture.batching import Batch, Spans, batches
from pipeline.capture.forward import Forward
from pipeline.capture.joining import BatchRows, Joiner
from pipeline.capture.pooling import Pooler
from pipeline.capture.projection import Projection
from pipeline.capture.proofs import prove_capture, prove_ways
from pipeline.capture.tokens import Tokens
from pipeline.capture.ways import Way, Zone
from pipeline.capture.windows import in_windows
from pipeline.model.architecture import accepts
from pipeline.model.failures import named_failures
from pipeline.model.load import FrozenModel

WAY_OUT = {
    "hooks": "set extract.capture to hidden_states: slower, and it holds all layers at a time",
    "hidden_states": "use another model: this one cannot be read",
}
"""Next step in the error if a model fails while it is read in some way."""


@dataclass(frozen=True)
class Request:
    """What to read: layers by number, poolings by name, and whether the states of single tokens too."""

    layers: tuple[int, ...]
    poolings: tuple[str, ...]
    token_states: bool | tuple[int, ...] = False
    """Layers whose token states are kept, all of them among `layers`; True keeps them for all layers."""

    @property
    def token_layers(self) -> tuple[int, ...]:
        """The layers whose token states are read, by number."""
        if isinstance(self.token_states, bool):
            return self.layers if self.token_states else ()
        return self.token_states


class Reader:
    """A model made ready for one request.

    Building it proves capture on made-up texts and drops the weights of the blocks that no reader of the model runs.
    Several threads may use it, and several readers may share a model: `reader_of` gives those that are there.

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
    zones
        How texts of which lengths are batched: the fastest way whose rows are those of each text alone.
    pad
        The token that fills up rows.

    Raises
    ------
    UserError
        When hooks do not read what `output_hidden_states` gives; it names the architecture and the way out.
    """

    def __init__(self, frozen: FrozenModel, request: Request, method: str = "hooks") -> None:
        self.request = request
        self.frozen, self._facts = frozen, frozen.facts
        self.pad = frozen.pad
        self._way_out = WAY_OUT[method]
        with frozen.lock, named_failures(frozen.facts.architecture, self._way_out):
            self._forward = Forward(frozen, request.layers, method)
            prove_capture(self._forward)
            self.zones = prove_ways(self._forward, self.pad)
            self._forward.drop_the_rest()

    @property
    def needs_mask(self) -> bool:
        """Whether texts of a few tokens are read with their mask."""
        return self.zones[0].way not in (Way.PACKED, Way.PADDED)

    @property
    def packs(self) -> bool:
        """Whether several texts of a few tokens may stand in one row of a batch."""
        return self.zones[0].way is Way.PACKED

    def batches(self, tokens: Tokens, batch_tokens: int, packing: bool = True) -> Iterator[Batch]:
        """Splits all texts into batches of at most `batch_tokens` tokens, see `zones`; without `packing`, one text per
        row.

        Of texts that are read in windows, the windows are what is batched: see `in_windows`. Packing is proven of plain
        tokens: those of several types stand a text a row. Raises `UserError` for types that the model does not know.
        """
        _require_types(self._forward.frozen, tokens)
        tokens = in_windows(tokens)
        zones: tuple[Zone, ...] = self.zones
        if not packing or tokens.types is not None:
            zones = tuple(replace(z, way=Way.PADDED) if z.way is Way.PACKED else z for z in zones)
        return batches(tokens, batch_tokens, self.pad, zones)

    @property
    def token_layers(self) -> tuple[int, ...]:
        """The layers whose token states are read, by number."""
        return self.request.token_layers

    def read_all(
        self, tokens: Tokens, batch_tokens: int, projection: Projection | None = None
    ) -> Iterator[tuple[Int[Tensor, " texts"], BatchRows]]:
        """The rows of all texts, in batches of at most `batch_tokens` tokens: which texts they are, and their rows.

        A text that is read in windows comes with the batch of the last one that is read.
        """
        windows = in_windows(tokens)
        joiner = None if windows.parts is None else Joiner(windows, self.request.poolings)
        for batch in self.batches(windows, batch_tokens):
            positions, rows = batch.positions, self.read(batch, projection)
            if joiner is not None:
                positions, rows = joiner.add(positions, rows)
            if len(positions):
                yield positions, rows

    @torch.inference_mode()
    def read(self, batch: Batch, projection: Projection | None = None) -> BatchRows:
        """The rows of one batch, float32 in main memory; padding may stand on either side.

        They are those of each text alone for batches that `batches` made; of a window, they are of the tokens that
        count. Token states are in the basis of the
        `projection`, whose layers are those of `token_layers`; whole without one.
        """
        device = self._facts.device
        pooler = Pooler(batch.counted, batch.content, self.request.poolings, device, batch.begins)
        shape = (len(batch.positions), len(self.request.layers), self._facts.dim)
        pooled = {name: torch.empty(shape, device=device) for name in self.request.poolings}
        wanted = self.token_layers
        tokens = _TokenStates(batch.counted, len(wanted), self._facts.dim, projection) if wanted else None

        def see(layer: int, states: Tensor) -> None:
            place = self.request.layers.index(layer)
            for name, rows in pooler(states).items():
                pooled[name][:, place] = rows
            if tokens is not None and layer in wanted:
                tokens.see(wanted.index(layer), states)

        with named_failures(self._facts.architecture, self._way_out):
            if batch.packed:
                self._forward(see, batch.ids, numbers=batch.numbers, types=batch.types)
            else:
                self._forward(see, batch.ids, batch.mask if self.masked(batch) else None, types=batch.types)
        return BatchRows({name: rows.cpu() for name, rows in pooled.items()}, tokens.split() if tokens else None)

    def masked(self, batch: Batch) -> bool:
        """Whether a batch of a text a row has to be read with its mask."""
        left_padded = not bool(batch.mask[:, 0].all())
        zone = next((zone for zone in self.zones if batch.ids.shape[1] <= zone.longest), self.zones[-1])
        return left_padded or zone.way not in (Way.PACKED, Way.PADDED)

    def restore(self) -> None:
        """Takes back what a forward pass left on the model, where that changes later ones."""
        if self.frozen.pristine.needed:
            self.frozen.pristine.restore()


def reader_of(frozen: FrozenModel, request: Request, method: str = "hooks") -> Reader:
    """The reader of this request that is in use, or a new one. Raises `UserError` as `Reader` does."""
    with frozen.lock:
        reader: Reader | None = frozen.readers.get((request, method))
        if reader is None:
            reader = frozen.readers[request, method] = Reader(frozen, request, method)
        return reader


class _TokenStates:
    """The states of a batch's tokens that count, filled layer by layer."""

    def __init__(self, spans: Spans, layers: int, dim: int, projection: Projection | None) -> None:
        self._counts = spans.lengths.tolist()
        self._places = spans.places
        self._projection = projection
        self._states = torch.empty(len(self._places), layers, projection.width if projection else dim)

    def see(self, place: int, states: Tensor) -> None:
        real = states.flatten(0, 1).index_select(0, self._places.to(states.device))
        self._states[:, place] = (self._projection(place, real) if self._projection else real.float()).cpu()

    def split(self) -> list[Float32[Tensor, "_ token_layers width"]]:
        return list(self._states.split(self._counts))


def _require_types(frozen: FrozenModel, tokens: Tokens) -> None:
    known = getattr(frozen.model.config, "type_vocab_size", None)
    if tokens.types is None or not known or not accepts(frozen.model, "token_type_ids"):
        return
    largest = max(map(max, tokens.types))
    if largest >= known:
        raise UserError(
            f"model architecture '{frozen.facts.architecture}'",
            expected=f"token types below {known}",
            found=f"{largest}, from its tokenizer",
            next_step="take the tokenizer that belongs to this model",
        )
