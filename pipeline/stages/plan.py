"""`ilse plan` for the model and texts that are here: what the run of `ilse extract` will take."""

from __future__ import annotations

import time
from pathlib import Path

from pipeline.cluster.executor import open_executor
from pipeline.config import ExtractParams
from pipeline.forecast.estimate import Estimate, estimate
from pipeline.stages.extract import compute_of, header_of, read_text_ids, request_of
from pipeline.work.shard import prepare_worker


def plan(params: ExtractParams, texts: Path) -> Estimate:
    """Loads the model on a worker as the run would, calibrates, and writes nothing."""
    started = time.perf_counter()
    count = len(read_text_ids(texts))
    compute = compute_of(params)
    with open_executor(params.cluster) as executor:
        facts = executor.call(prepare_worker, params.model, compute)
        ready = time.perf_counter() - started
        request, header = request_of(params, facts), header_of(params, facts, count)
        return estimate(executor, params, compute, request, header, facts, texts, ready)
