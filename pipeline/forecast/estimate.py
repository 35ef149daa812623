"""Estimates a run before it starts: its size, its memory, and its time from a calibration."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ilse.core.errors import UserError
from pipeline.capture.reader import Request
from pipeline.cluster.executor import Executor
from pipeline.cluster.machine import cores
from pipeline.config import ClusterParams, ExtractParams
from pipeline.forecast.calibration import SAMPLE_TEXTS, SECONDS, Calibration, calibrate, sample_texts
from pipeline.forecast.costs import Memory, Workload, disk_bytes, peak_memory
from pipeline.forecast.machines import CHECK_RATE
from pipeline.forecast.quote import duration, size, storage_line, token_line, workload_document
from pipeline.forecast.room import shortage
from pipeline.forecast.todo import ToDo
from pipeline.forecast.workload import sampled_workload
from pipeline.model.load import Compute, ModelFacts
from pipeline.store import CacheHeader

FINISH_SECONDS = 1.0
"""Index, statistics, the move into place, the workers' end; an assumption. Reading it all once more is apart."""

BUSY = ". Other processes used this machine meanwhile: without them the run is faster, perhaps several times"
BUSY_SHARE = 0.75
"""Least share of the CPU time that the calibration's threads should have got; an idle machine gave 0.9 and more."""


@dataclass(frozen=True)
class Estimate:
    """What an extraction takes, by the cost model and a calibration."""

    work: Workload
    memory: Memory
    facts: ModelFacts
    calibration: Calibration
    workers: int
    """Copies of the model."""
    speed: float
    """How many times as fast as one worker all of them are."""
    ready_seconds: float
    """Seconds from the start until the model is loaded, measured."""
    to_do: ToDo | None = None
    """The texts that are computed, where earlier caches lend the rows of the others; None: all."""
    lacking: UserError | None = None
    """What to say of a run that its workers' memory can't hold; None where it may."""

    @property
    def share(self) -> float:
        """Share of all tokens that run through the model, 0 to 1."""
        return self.to_do.share if self.to_do else 1.0

    @property
    def tokens_read(self) -> int:
        """Tokens of all texts as the model reads them; overlapping windows read some twice."""
        return round(self.work.tokens * self.calibration.tokens_read / self.calibration.tokens)

    @property
    def compute_seconds(self) -> float:
        """The forward passes, padding included, and what shapes cost that come for the first time."""
        sample, repeats = self.calibration, self.share * self.work.texts / self.calibration.texts
        passes = sample.padded_tokens * repeats / sample.padded_rate
        # Twice the texts bring fewer than twice the shapes; a square root is what headlines showed.
        new = max(0.0, sample.shapes * math.sqrt(repeats) - sample.shapes_seen)
        return passes / self.speed + new * sample.first_seconds

    @property
    def beside_seconds(self) -> float:
        """Tokenising and writing."""
        reading = self.work.tokens / self.calibration.tokenise_rate
        return (reading + self.work.values / self.calibration.write_rate) / self.speed

    @property
    def parts(self) -> dict[str, float]:
        """Seconds by what they go to; on a CPU nothing overlaps for free, beside a GPU the slower of two counts."""
        gpu = self.facts.device != "cpu"
        beside = max(0.0, self.beside_seconds - self.compute_seconds) if gpu else self.beside_seconds
        return {
            "starting and loading": self.ready_seconds,
            "calibration": self.calibration.seconds,
            "computing": self.compute_seconds,
            "tokenising and writing": beside,
            "finishing": FINISH_SECONDS + disk_bytes(self.work) / CHECK_RATE,
        }

    @property
    def seconds(self) -> float:
        """Seconds of the whole run."""
        return sum(self.parts.values())

    def lines(self) -> list[str]:
        """The first lines that a run prints."""
        work, facts, sample = self.work, self.facts, self.calibration
        error = float(f"{200 * sample.spread:.1g}")
        about = f" (± {error:g} %, from {sample.texts:,} of them)" if sample.spread else ""
        rate = self.share * self.tokens_read / self.compute_seconds
        lent = f"; {self.to_do.texts:,} texts to compute, an earlier cache holds the others" if self.to_do else ""
        windows = round(work.texts * sample.windows / sample.texts)
        read = f"; the model reads {self.tokens_read:,} in {windows:,} windows" if windows > work.texts else ""
        memory = self.memory
        return [
            f"model    {facts.name}: {facts.architecture}, {facts.parameters / 1e6:,.1f} M parameters, "
            f"{len(facts.layers)} layers of width {facts.dim}; {facts.compute_type} on {facts.device}",
            f"texts    {work.texts:,} of {work.tokens_per_text:.1f} tokens{about}: {work.tokens:,} tokens, "
            f"{work.shards:,} shards of {work.shard_rows} texts{read}",
            f"disk     {storage_line(work)}",
            f"tokens   {token_line(work)}",
            f"memory   {size(memory.total)} for each of {self.workers} worker(s): weights {size(memory.weights)}, "
            f"a batch {size(memory.activations)}, shards {size(memory.shards)}, libraries {size(memory.runtime)}"
            + (f". Too much: {self.lacking.where}: {self.lacking.next_step}" if self.lacking else ""),
            f"time     about {duration(self.seconds)}: "
            + ", ".join(f"{name} {duration(seconds)}" for name, seconds in self.parts.items())
            + f"; {rate:,.0f} tokens/s"
            + lent
            + (BUSY if sample.cpu_share < BUSY_SHARE else ""),
        ]

    def document(self) -> dict[str, Any]:
        """The estimate as plain JSON."""
        return {
            **workload_document(self.work),
            "model": self.facts.name,
            "compute_type": self.facts.compute_type,
            "device": self.facts.device,
            "memory_bytes": self.memory.total,
            "workers": self.workers,
            "tokens_read": self.tokens_read,
            "texts_to_compute": self.to_do.texts if self.to_do else self.work.texts,
            "tokens_standard_error": self.calibration.spread,
            "seconds": round(self.seconds, 2),
            "seconds_by_part": {name: round(seconds, 2) for name, seconds in self.parts.items()},
            "calibration": asdict(self.calibration),
        }


def estimate(
    executor: Executor,
    params: ExtractParams,
    compute: Compute,
    request: Request,
    header: CacheHeader,
    facts: ModelFacts,
    texts: Path,
    ready_seconds: float,
    to_do: ToDo | None = None,
    seconds: float = SECONDS,
) -> Estimate:
    """The estimate of a run whose workers have loaded the model, from `seconds` of computing on one of them.

    `ready_seconds`: from the start of the run until now; `to_do`: what is computed, None for all texts.
    """
    sample = sample_texts(texts, header.texts)
    if to_do is not None:  # a calibration is no longer than the work is worth; one batch is always run
        seconds *= min(1.0, to_do.texts / SAMPLE_TEXTS)
    found = executor.call(calibrate, params.model, compute, request, header, sample, seconds)
    work = sampled_workload(header, facts, request, found.tokens, found.texts)
    memory = peak_memory(work, found.batch)
    workers, speed = _speed(params.cluster, facts.device, found.threads, executor.workers)
    together = workers if params.cluster.kind == "local" else 1
    lacking = shortage(memory, found.batch, found.room, together, found.longest)
    return Estimate(work, memory, facts, found, workers, speed, ready_seconds, to_do, lacking)


def _speed(cluster: ClusterParams, device: str, threads: int, connected: int) -> tuple[int, float]:
    """Copies of the model, and how many times as fast as the calibrated one they are together.

    Workers on one machine share its cores: two with all of them are no faster than one. Elsewhere `connected` workers
    are there, and those that were asked for will come.
    """
    if cluster.kind == "synchronous":
        return 1, 1.0
    if cluster.kind == "local":
        if device != "cpu":
            return cluster.workers, 1.0  # `local` gives all of them the same device
        return cluster.workers, float(max(1, min(cluster.workers, cores() / threads)))
    workers = max(cluster.workers, connected)
    return workers, float(workers)
