"""A split's examples whose tokens stay in the cache: read in blocks of shards, as `stream` reads rows.

Shards hold as many texts each, and as many tokens as these have: a block has room for the largest ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from ilse.errors import UserError
from pipeline.store import Cache
from trainer.rows import Batch
from trainer.stream import StreamedBatches, fitting_shards
from trainer.token_rows import TokenRows
from trainer.token_shelf import TokenShelf, room_for, shelf_of, stored_tensor, token_bytes
from trainer.treatment import Treat


@dataclass(frozen=True)
class TokenRoom:
    """Memory for some shards' tokens."""

    shelf: TokenShelf
    shard_tokens: int

    def announce(self, shard: int) -> None:
        """Nothing: the tokens of a shard are one file, which is read in one go."""


@dataclass(frozen=True)
class StreamedTokens:
    """The examples of one split by their place in the cache, one text each.

    Parameters
    ----------
    cache, layers
        Where the tokens are and which layers are read.
    places
        Row of each example in the cache, [rows].
    y, text_ids
        Targets and texts, [rows].
    block_shards
        Shards of a block.
    treat
        What is done to the tokens of a batch; None for nothing.
    ahead
        Whether a thread reads a block while the one before it is trained on.
    """

    cache: Cache
    layers: tuple[int, ...]
    places: NDArray[np.int64]
    y: Tensor
    text_ids: list[str]
    block_shards: int
    treat: Treat | None = None
    ahead: bool = False

    def treated(self, treat: Treat) -> StreamedTokens:
        """The same examples, treated as they are taken."""
        return replace(self, treat=treat)

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

    def order(self) -> Int[Tensor, " rows"]:
        """Shard by shard, and within a shard as they are."""
        return torch.from_numpy(np.argsort(self.places // self.cache.header.shard_rows, kind="stable"))

    def shuffled(self, batch_size: int, seed: int, balanced: bool = False) -> StreamedBatches:
        """Batches for training; `UserError` for balanced ones, which would read the shards in any order."""
        if balanced:
            raise UserError(
                "parameter train.recipe.imbalance",
                expected="'weights' or 'none' where token states do not fit in memory",
                found="'sampling'",
                next_step="take 'weights', or raise train.memory_budget",
            )
        return StreamedBatches(self, batch_size, seed)

    def shards(self) -> list[int]:
        """Shards that hold an example of this split."""
        found: list[int] = np.unique(self.places // self.cache.header.shard_rows).tolist()
        return found

    def read(self, shards: Sequence[int], into: TokenRoom | None = None) -> TokenRows:
        """The examples of these shards, shard after shard; in the memory of `into`, which must hold them."""
        room, size = self.room(len(shards)) if into is None else into, self.cache.header.shard_rows
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
        """Memory for so many shards."""
        tokens = largest_shard(self.cache)
        return TokenRoom(room_for(self.cache, len(self.layers), shards, tokens), tokens)


def largest_shard(cache: Cache) -> int:
    """Tokens of the shard that has most."""
    counts, starts = cache.token_counts(), range(0, cache.header.texts, cache.header.shard_rows)
    return int(np.add.reduceat(counts, list(starts), dtype=np.int64).max())


def token_shards_in(budget: int, cache: Cache, layers: int) -> int:
    """Shards of a block so that streaming stays within `budget` bytes; `UserError` where not even single ones do."""
    return fitting_shards(budget, token_bytes(cache, layers) * largest_shard(cache))
