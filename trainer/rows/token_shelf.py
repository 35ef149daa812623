"""Token states in memory as they are stored, at most half of float32; requested ones are converted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ilse.core.errors import UserError
from pipeline.store import SCALED, Cache, ShardTokens, value_bytes
from trainer.rows.ragged import Tokens, token_places
from trainer.rows.stored import TYPES


@dataclass(frozen=True)
class TokenShelf:
    """Room for the tokens of some texts.

    Parameters
    ----------
    values
        [tokens, layers, width] of the stored type.
    starts, lengths
        First token of each text in them, and how many it has.
    slots
        Of int8: which of `scales` is each text's.
    scales
        Of int8: those of each shard.
    """

    values: Tensor  # jaxtyping has no name for the storage types together
    starts: Int[Tensor, " texts"]
    lengths: Int[Tensor, " texts"]
    slots: Int[Tensor, " texts"] | None = None
    scales: Float[Tensor, "shards layers width"] | None = None

    def of(self, texts: Int[Tensor, " chosen"]) -> Tokens:
        """The tokens of texts by their place, float32 and in memory of their own."""
        lengths = self.lengths[texts]
        # `index_select` copies all layers of a token at a time; indexing goes element by element.
        values = self.values.index_select(0, token_places(self.starts[texts], lengths)).float()
        if self.scales is not None:
            assert self.slots is not None
            values.mul_(self.scales.index_select(0, self.slots[texts].repeat_interleave(lengths)))
        return Tokens(values, lengths)

    def joined(self, other: TokenShelf) -> TokenShelf:
        """These texts, and then those of another shelf of the same kind."""
        slots: Tensor | None = None
        scales: Tensor | None = None
        if self.scales is not None and other.scales is not None:
            assert self.slots is not None
            assert other.slots is not None
            slots = torch.cat([self.slots, len(self.scales) + other.slots])
            scales = torch.cat([self.scales, other.scales])
        values, lengths = (torch.cat(of) for of in ((self.values, other.values), (self.lengths, other.lengths)))
        starts = torch.cat([self.starts, len(self.values) + other.starts])
        return TokenShelf(values, starts, lengths, slots, scales)


def token_type(cache: Cache) -> str:
    """The type of token states as they are read: int8 of int4 too."""
    tokens = cache.header.capture.tokens
    assert tokens is not None  # `require_tokens`
    return "int8" if tokens.storage_type in SCALED else tokens.storage_type


def token_bytes(cache: Cache, layers: int) -> int:
    """Bytes of a token in memory, with so many layers."""
    return layers * cache.token_width * value_bytes(token_type(cache))


def require_tokens(cache: Cache) -> None:
    """Raises `UserError` for a cache of pooled rows alone."""
    if not cache.token_layers:
        raise UserError(
            f"cache {cache.path}",
            expected="token states, for a head with the option 'tokens'",
            found="pooled rows alone",
            next_step="set extract.token_states and extract again, or remove 'tokens' from the head's options",
        )


def lengths_of(cache: Cache, texts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Tokens of each text; `UserError` for one that has none, and for a cache of pooled rows alone."""
    require_tokens(cache)
    counts = cache.token_counts()[texts].astype(np.int64)
    if not counts.all():
        place = int(texts[np.flatnonzero(counts == 0)[0]])
        raise UserError(
            f"cache {cache.path}, text {cache.text_ids()[place]}",
            expected="at least one token, for a head with the option 'tokens'",
            found=f"none, as of {int((counts == 0).sum())} of {len(counts)} texts",
            next_step="remove empty texts from the data set, or remove 'tokens' from the head's options",
        )
    return counts


def shelf_of(
    cache: Cache, texts: npt.NDArray[np.int64], layers: tuple[int, ...], into: Tensor | None = None
) -> TokenShelf:
    """The tokens of these texts, in the order asked for; each shard is read once.

    They lie in `into`, which may have room for more, where it is given.
    """
    lengths = lengths_of(cache, texts)
    kind, rows = token_type(cache), cache.header.shard_rows
    starts = np.cumsum(lengths) - lengths
    shape = int(lengths.sum()), len(layers), cache.token_width
    values = torch.empty(shape, dtype=TYPES[kind]) if into is None else into[: shape[0]]
    shards, slots = np.unique(texts // rows, return_inverse=True)
    scales = torch.empty(len(shards), len(layers), cache.token_width) if kind == "int8" else None
    for slot, shard in enumerate(shards.tolist()):
        read, wanted = cache.shard_tokens(shard, layers), np.flatnonzero(slots == slot)
        inside = read.starts[texts[wanted] % rows]
        there, here = (token_places(_tensor(of), _tensor(lengths[wanted])) for of in (inside, starts[wanted]))
        stored = stored_tensor(read)
        if _is_run(there) and _is_run(here):  # as where a split is the whole cache: no token is looked up
            values[int(here[0]) : int(here[-1]) + 1] = stored[int(there[0]) : int(there[-1]) + 1]
        else:  # whole tokens are copied at a time where each one's layers lie together
            values.index_copy_(0, here, stored.contiguous().index_select(0, there))
        if scales is not None:
            scales[slot] = torch.from_numpy(read.scales)
    return TokenShelf(values, _tensor(starts), _tensor(lengths), _tensor(slots), scales)


def stored_tensor(read: ShardTokens) -> Tensor:
    """The stored array [tokens, layers, width] as a tensor of the stored type."""
    if read.kind == "bfloat16":
        return torch.from_numpy(read.values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(read.values)


def room_for(cache: Cache, layers: int, shards: int, tokens: int) -> TokenShelf:
    """A shelf for this many shards of at most this many tokens each, with nothing on it."""
    kind, none = token_type(cache), torch.empty(0, dtype=torch.int64)
    values = torch.empty(shards * tokens, layers, cache.token_width, dtype=TYPES[kind])
    scales = torch.empty(shards, layers, cache.token_width) if kind == "int8" else None
    return TokenShelf(values, none, none, none, scales)


def _is_run(places: Int[Tensor, " tokens"]) -> bool:
    return bool((places.diff() == 1).all())


def _tensor(array: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
