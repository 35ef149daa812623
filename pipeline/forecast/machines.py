"""How long a workload takes on machines from two cores to a thousand GPUs, and which of their limits binds.

Nothing here is measured on the machines it names, the first one apart: peaks are the vendors' data-sheet figures, rates
and utilisation are assumptions that the table states. docs/scaling.md discusses them.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.forecast.costs import Memory, Workload, disk_bytes, flops, peak_memory

TOKENISE_RATE = 250_000
"""Tokens a second and core. Measured on two cores: 240,000 with headlines, 600,000 with texts of 80 tokens."""
ENCODE_RATE = 50e6
"""Values a second and core: conversion, statistics, checksums, read-back. Measured: 54 million in float16."""
REQUEST_RATE = 3_500
"""Objects a second into one prefix (Amazon S3's stated floor; others are of that order)."""
TASK_RATE = 1_000
"""Tasks a second through one scheduler (distributed's documentation: about 1 ms a task)."""
TASK_SHARDS = 8
"""Shards of a task in a long run, as in pipeline/stages/extract.py."""
ROUND_TRIP = 0.02
"""Seconds of one small request to an object store; an assumption."""
AT_ONCE = 16
"""Requests of the main process in flight, as in pipeline/work/scratch.py."""
SERIAL_REQUESTS = 2 / AT_ONCE
"""Round trips a shard from the main process: it reads the record and deletes it at the end, some shards at once."""
CHECK_RATE = 1e9
"""Bytes a second that one process reads and checksums: a local cache is read once more before it moves into place."""
START_SECONDS = 30
"""Workers starting, imports and the device's own start; an assumption."""
PRICES = "November 2026"
"""Date of the assumed prices in dollars per hour. They are of the order of on-demand prices; replace them by your own.
"""


@dataclass(frozen=True)
class Machine:
    """One row of the table: nodes that are alike, each with its share of the devices.

    One node keeps its cache on its own disk; several write to an object store.
    """

    name: str
    nodes: int
    devices: int
    """GPUs over all nodes; a CPU counts as one device a node."""
    peak: float
    """Dense bfloat16 matrix products, operations a second and device."""
    utilisation: float
    """Share of the peak that model operations reach during extraction; assumed."""
    memory: float
    """Bytes a device."""
    disk_rate: float
    """Local disk, bytes per second and node."""
    network_rate: float
    """Into an object store, bytes per second and node."""
    cores: int
    """Host cores a node."""
    dollars_per_hour: float
    """Price of all nodes, assumed."""
    batch_tokens: int = 16_384
    gpu: bool = True

    @property
    def write_rate(self) -> float:
        """Bytes a second over all nodes: the slower of disk and network, since a cache may go to either."""
        return self.nodes * min(self.disk_rate, self.network_rate)


# Peaks: two cores measured (2048³ product, AMD EPYC with AVX-512 BF16); 32 cores with AMX: 1,024 operations a cycle and
# core at 2.0 GHz; GPUs: NVIDIA's data sheets, without sparsity. A node of 8 uploads 3.25 GB/s: 10 G tokens × 6 layers ×
# 8,192 × 2 bytes in 3.5 days, which is what Activault reports, upload being its limit.
MACHINES = (
    Machine("2 cores", 1, 1, 0.8e12, 0.5, 24e9, 0.34e9, 0.5e9, 2, 0.10, 1024, gpu=False),
    Machine("32 cores, AMX", 1, 1, 65e12, 0.4, 128e9, 1e9, 1.25e9, 32, 1.60, 4096, gpu=False),
    Machine("L4", 1, 1, 121e12, 0.4, 24e9, 1e9, 1e9, 4, 0.80),
    Machine("A10G", 1, 1, 70e12, 0.4, 24e9, 1e9, 1e9, 4, 1.20),
    Machine("A100-80", 1, 1, 312e12, 0.4, 80e9, 2e9, 2e9, 12, 2.00),
    Machine("H100", 1, 1, 989e12, 0.4, 80e9, 3e9, 3e9, 16, 3.00),
    Machine("8 x H100", 1, 8, 989e12, 0.4, 80e9, 8e9, 3.25e9, 96, 24.00),
    Machine("64 x H100", 8, 64, 989e12, 0.4, 80e9, 8e9, 3.25e9, 96, 192.00),
    Machine("1000 x H100", 125, 1000, 989e12, 0.4, 80e9, 8e9, 3.25e9, 96, 3000.00),
)


@dataclass(frozen=True)
class Times:
    """Seconds of each part of a run. What overlaps costs as much as its slowest part."""

    load: float
    compute: float
    write: float
    tokenise: float
    requests: float
    schedule: float
    finish: float
    """Seconds in which the main process works alone, before or after the workers do."""

    @property
    def overlapping(self) -> dict[str, float]:
        """The parts that run at the same time, by name."""
        return {
            "compute": self.compute,
            "writing": self.write,
            "tokenising": self.tokenise,
            "requests": self.requests,
            "scheduler": self.schedule,
        }

    @property
    def binding(self) -> str:
        """The part that the run waits for."""
        parts = {"loading": self.load, **self.overlapping, "finishing": self.finish}
        return max(parts, key=lambda name: parts[name])

    @property
    def seconds(self) -> float:
        """Seconds of the whole run."""
        return self.load + max(self.overlapping.values()) + self.finish


def times(work: Workload, machine: Machine) -> Times:
    """The parts of a run of `work` on `machine`, whether or not it fits there."""
    several, cores = machine.nodes > 1, machine.nodes * machine.cores
    # Each node reads the model from its own disk, where several have to copy it first.
    copy = work.model_bytes / machine.network_rate if several else 0.0
    return Times(
        load=START_SECONDS + copy + work.model_bytes / machine.disk_rate,
        compute=flops(work) / (machine.devices * machine.peak * machine.utilisation),
        write=max(disk_bytes(work) / machine.write_rate, work.values / (cores * ENCODE_RATE)),
        tokenise=work.tokens / (cores * TOKENISE_RATE),
        # The shard's files and its record.
        requests=(work.objects + work.shards) / REQUEST_RATE if several else 0.0,
        schedule=work.shards / TASK_SHARDS / TASK_RATE,
        finish=work.shards * SERIAL_REQUESTS * ROUND_TRIP if several else disk_bytes(work) / _check_rate(machine),
    )


def _check_rate(machine: Machine) -> float:
    return min(machine.disk_rate, CHECK_RATE)


def need(work: Workload, machine: Machine) -> int:
    """Bytes of the machine's memory that one worker takes: a GPU's own, or a CPU's main memory."""
    memory: Memory = peak_memory(work, machine.batch_tokens)
    return memory.device if machine.gpu else memory.total


def fits(work: Workload, machine: Machine) -> bool:
    """Whether one device holds the whole model, as it must: a model is not split over devices."""
    return need(work, machine) <= machine.memory


def dollars(work: Workload, machine: Machine) -> float:
    """Rent of the whole run at the assumed price."""
    return times(work, machine).seconds / 3600 * machine.dollars_per_hour
