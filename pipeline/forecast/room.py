"""Checks whether a run fits into a worker's memory, and which batch would."""

from __future__ import annotations

from dataclasses import dataclass

from ilse.core.errors import UserError
from pipeline.forecast.costs import Memory
from pipeline.forecast.quote import size

CLEARLY = 1.2
"""How many times its room a need has to be before a run is refused. Of batches of 16 to 65 thousand tokens the forecast
was 15 % above what the process then took."""


@dataclass(frozen=True)
class Room:
    """What one worker can put its work into, in bytes. All of it, used or free: a need beyond that never fits."""

    main: int
    """Main memory, as far as the worker's machine, container or Dask lets it have it."""
    device: int | None = None
    """Memory of the worker's GPU, if the model runs on one."""

    def shared(self, workers: int) -> Room:
        """The part of one of this many workers on a machine."""
        return Room(self.main // workers, self.device)

    @property
    def stretched(self) -> Room:
        """The largest need that may still fit; anything above clearly does not."""
        return Room(int(CLEARLY * self.main), None if self.device is None else int(CLEARLY * self.device))


def room_here(device: str) -> Room:
    """The room of the worker that calls."""
    import torch

    from pipeline.cluster.machine import memory

    on_gpu = device.startswith("cuda")
    return Room(memory(), int(torch.cuda.mem_get_info(torch.device(device))[1]) if on_gpu else None)


def most_tokens(need: Memory, batch: int, room: Room) -> int:
    """Tokens of the largest batch that there is room for, where one of `batch` tokens takes `need`; 0: for none."""
    beside = need.shards + need.runtime
    if room.device is None:
        left = room.main - need.weights - beside
    else:
        left = room.device - need.weights if room.main >= beside else 0
    return max(0, left * batch // need.activations)


def shortage(need: Memory, batch: int, room: Room, workers: int, longest: int) -> UserError | None:
    """The error of a run that can't fit, None for one that may.

    `workers` are those that share the machine, `room` is all of it; `batch` and `longest` are the tokens of the largest
    batch and of the longest text, which is a batch by itself if need be.
    """
    one = room.shared(workers)
    if most_tokens(need, batch, one.stretched) >= batch:
        return None
    most = most_tokens(need, batch, one)
    has, takes = (one.main, need.total) if one.device is None else (one.device, need.device)
    key, cure = _cure(need, batch, room, workers, longest, most)
    return UserError(
        key,
        expected=f"what fits into {size(has)}, the memory of {_whom(room, workers)}",
        found=f"a need of {size(takes)}: weights {size(need.weights)}, a batch of {batch:,} tokens "
        f"{size(need.activations)}, shards {size(need.shards)}, libraries {size(need.runtime)}",
        next_step=f"{cure}, and run the same command again; finished shards are kept",
    )


def _whom(room: Room, workers: int) -> str:
    if room.device is not None:
        return "the worker's GPU"
    return "the worker's machine" if workers == 1 else f"each of {workers} workers on this machine"


def _cure(need: Memory, batch: int, room: Room, workers: int, longest: int, most: int) -> tuple[str, str]:
    """The parameter to change, and how."""
    if most >= longest:
        fitting = round_down(most)
        return "extract.batch_tokens", f"set it to {fitting} or less"
    fewer = next((n for n in range(workers - 1, 0, -1) if most_tokens(need, batch, room.shared(n)) >= longest), None)
    if fewer is not None:
        return "extract.cluster.workers", f"set it to {fewer}"
    if need.shards > need.weights + need.runtime:
        return "extract.shard_rows", "set a smaller one, or keep fewer layers or poolings"
    return "extract.model", "take a machine with more memory, or a smaller model"


def round_down(count: int) -> int:
    """The power of two at or below it: batches of such sizes are what people set."""
    return 1 << max(0, count.bit_length() - 1)
