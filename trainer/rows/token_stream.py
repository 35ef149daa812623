"""A split's examples whose tokens stay in the cache: read in blocks of shards, as `stream` reads rows.

Shards hold as many texts each, and as many tokens as these have: a block has room for the largest ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from pipeline.store import Cache
from trainer.rows.in_memory import Batch
from trainer.rows.stream import Streamed, fitting_shards
from trainer.rows.token_rows import TokenRows
from trainer.rows.token_shelf import TokenShelf, room_for, shelf_of, stored_tensor, token_bytes


@dataclass(frozen=True)
class TokenRoom:
    """Memory for some shards' tokens."""

    shelf: TokenShelf
    shard_tokens: int

    def announce(self, shard: int) -> None:
        """Does nothing: the tokens of a shard are one file, which is read in one go."""


@dataclass(frozen=True)
class StreamedTokens(Streamed):
    """Examples of one text each, with the states of its tokens."""

    what: ClassVar[str] = "token states"

    cache: Cache

    def take(self, chosen: Int[Tensor, " chosen"]) -> TokenRows:
        """The examples at these positions, in memory."""
        shelf = shelf_of(self.cache, self.places[chosen.numpy()], self.layers)
        ids = [self.text_ids[place] for place in chosen.tolist()]
        return TokenRows(shelf, torch.arange(len(chosen)), self.y[chosen], ids, self.treat)

    def chunks(self, size: int) -> Iterator[Batch]:
        """All examples, shard by shard."""
        room = self.room(1)
        for shard in self.shards():
            yield from self.read([shard], room).chunks(size)

    def read(self, shards: Sequence[int], into: TokenRoom | None = None) -> TokenRows:
        """The examples of these shards, shard after shard; in the memory of `into`, which must hold them."""
        room, size = self.room(len(shards)) if into is None else into, self.shard_rows
        shard_of = self.places // size
        kept, starts, lengths, slots = [], [], [], []
        for slot, shard in enumerate(shards):
            read = self.cache.shard_tokens(shard, self.layers)
            begin = slot * room.shard_tokens
            room.shelf.values[begin : begin + len(read.values)] = stored_tensor(read)
            if room.shelf.scales is not None:
                room.shelf.scales[slot] = torch.from_numpy(read.scales)
            examples = np.flatnonzero(shard_of == shard)
            inside = self.places[examples] % size
            kept.append(examples)
            starts.append(begin + read.starts[inside])
            lengths.append(read.starts[inside + 1] - read.starts[inside])
            slots.append(np.full(len(examples), slot))
        chosen, first, length, slot_of = (torch.from_numpy(np.concatenate(of)) for of in (kept, starts, lengths, slots))
        shelf = TokenShelf(room.shelf.values, first, length, slot_of, room.shelf.scales)
        return TokenRows(shelf, torch.arange(len(chosen)), self.y[chosen], [], self.treat)

    def room(self, shards: int) -> TokenRoom:
        """Memory for this many shards."""
        tokens = largest_shard(self.cache)
        return TokenRoom(room_for(self.cache, len(self.layers), shards, tokens), tokens)


def largest_shard(cache: Cache) -> int:
    """Tokens of the shard that has most."""
    counts, starts = cache.token_counts(), range(0, cache.header.texts, cache.header.shard_rows)
    return int(np.add.reduceat(counts, list(starts), dtype=np.int64).max())


def token_shards_in(budget: int, cache: Cache, layers: int) -> int:
    """Shards of a block so that streaming stays within `budget` bytes; `UserError` where not even single ones do."""
    return fitting_shards(budget, token_bytes(cache, layers) * largest_shard(cache))
