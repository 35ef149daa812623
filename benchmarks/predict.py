"""What prediction costs: a head on the first layers against one on all of them, and memory by the input's length.

    python -m benchmarks.predict [--quick]

(a) `truncated_ratio`: seconds of a head on layers up to 12 of the demo's model (31 rows, 30 blocks) over those of the
same head on all layers, on headlines, from text to label. Each has a process of its own, with one thread, and they
take turns; medians over the rounds, of wall time and, `truncated_ratio_cpu`, of processor time. (b) `rss_growth`: peak
resident memory of `ilse predict` on the most headlines over that on the fewest, with a tiny model, each in a process
of its own. (c) `exits_ratio`: as (a), a head `exits` that lets texts leave early over the same one that lets none;
`exits_mean_layer` is the layer that they leave at on average. The heads' weights are random: nothing here depends on
them, but where texts leave. The last line is JSON.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.steady import ENOUGH, QUICK_ENOUGH, Rounds, report, rounds_until_steady

SIZES, QUICK_SIZES = (10_000, 100_000), (2_000, 10_000)
TEXTS, QUICK_TEXTS = 512, 128
ROUNDS, QUICK_ROUNDS = 9, 3
LAST = 12
"""The last layer that the head on the first ones reads."""
LABELS = ("a", "b", "c")
PATIENCE = 3
"""Exits in a row that have to agree before a text leaves; of random ones, some ten layers in."""


def main() -> None:
    """Runs all three and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer texts and rounds: a minute or two")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures = memory(folder, QUICK_SIZES if quick else SIZES)
        timed, rounds = timing(folder, QUICK_TEXTS if quick else TEXTS, quick)
    report(figures | timed, rounds)


def memory(folder: Path, sizes: tuple[int, ...]) -> dict[str, Any]:
    """Peak resident memory of `ilse predict` by the number of texts."""
    megabytes = {}
    for size in sizes:
        with _process() as process:
            megabytes[size] = process.submit(predict_headlines, folder, size).result()
        _say(f"{size} texts: {megabytes[size]} MB")
    return {"rss_growth": round(megabytes[sizes[-1]] / megabytes[sizes[0]], 3), "megabytes": megabytes}


def predict_headlines(folder: Path, size: int) -> float:
    """One prediction of `size` made-up headlines, in a fresh process; its peak in megabytes."""
    import resource

    from benchmarks.tiny import tiny_model, tiny_texts
    from ilse.core.files.table_files import scan_parquet
    from ilse.predict.command import predict
    from ilse.predict.inputs import Fields

    model = tiny_model(folder / "tiny")
    head = save(folder / "tiny head", model, range(3), "weighted", {})
    scan_parquet(tiny_texts(size, folder / "texts.parquet")).sink_csv(folder / f"{size}.csv")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    out = folder / f"{size} out.csv"
    predict(head, str(folder / f"{size}.csv"), out, None, Fields(), 1, model, folder / "none.yaml")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert peak > before, "making the texts took more than predicting them"
    with out.open() as rows:
        assert sum(1 for _ in rows) == size + 1
    return round(peak / 1e3, 1)


def timing(folder: Path, texts: int, quick: bool) -> tuple[dict[str, Any], Rounds]:
    """Heads in turn over the demo's model."""
    from benchmarks.demo import demo_params, demo_texts, first_texts, plain_copy

    table = first_texts(demo_texts(folder, whole=False), texts, folder / "some.parquet")
    with _process() as process:  # its memory goes before the others load theirs
        model = process.submit(plain_copy, demo_params().model, folder / "model").result().path
    ways = {
        "all": (range(31), "weighted", {}),
        "truncated": (range(LAST + 1), "weighted", {}),
        "never leaving": (range(31), "exits", {"sureness": "patience"}),
        "leaving": (range(31), "exits", {"sureness": "patience"}),
    }
    processes = {way: _process() for way in ways}
    for way, process in processes.items():
        process.submit(prepare, folder / way, model, *ways[way], table).result()
    taken: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}

    def a_round() -> dict[str, float]:
        for way, process in processes.items():
            taken[way].append(process.submit(seconds).result())
        last = {way: times[-1][0] for way, times in taken.items()}
        return {
            "truncated_ratio": last["truncated"] / last["all"],
            "exits_ratio": last["leaving"] / last["never leaving"],
        }

    least = QUICK_ROUNDS if quick else ROUNDS
    rounds = rounds_until_steady(a_round, least, 3 * least, QUICK_ENOUGH if quick else ENOUGH)
    mean_layer = processes["leaving"].submit(mean_layer_left).result()
    for process in processes.values():
        process.shutdown()
    wall, cpu = ({way: median(times[kind] for times in taken[way]) for way in ways} for kind in (0, 1))
    return {
        "truncated_ratio": round(wall["truncated"] / wall["all"], 3),
        "truncated_ratio_cpu": round(cpu["truncated"] / cpu["all"], 3),
        "exits_ratio": round(wall["leaving"] / wall["never leaving"], 3),
        "exits_ratio_cpu": round(cpu["leaving"] / cpu["never leaving"], 3),
        "exits_mean_layer": mean_layer,
        "texts": texts,
        "texts_per_second": {way: round(texts / taken, 1) for way, taken in wall.items()},
    }, rounds


class _Here:
    """What a process of the timing keeps."""

    predictor: Any
    texts: list[str]


def prepare(folder: Path, model: Path, layers: range, head: str, options: dict[str, Any], table: Path) -> None:
    """Loads model and head into this process, and predicts once: the first batch of each shape is slow."""
    from benchmarks.demo import read_texts
    from ilse.predict import Predictor

    _Here.predictor = Predictor.load(save(folder, model, layers, head, options), model, threads=1)
    if folder.name == "never leaving":
        _Here.predictor.leaving = None
    _Here.texts = read_texts(table)
    _Here.predictor.predictions(_Here.texts)


def seconds() -> tuple[float, float]:
    """Of wall time and of processor time that all texts take."""
    wall, cpu = time.perf_counter(), time.process_time()
    _Here.predictor.predictions(_Here.texts)
    return time.perf_counter() - wall, time.process_time() - cpu


def mean_layer_left() -> float:
    """The layer that texts leave at, on average."""
    import torch

    trained, texts = _Here.predictor.trained, _Here.texts
    with torch.inference_mode():
        rows = _Here.predictor.capture.rows(texts, texts)
        return round(float(trained.head.input_weights(trained.treatment(rows)).argmax(1).double().mean()), 1)


def save(folder: Path, model: Path, layers: range, name: str, options: dict[str, Any]) -> Path:
    """A head of random weights on some layers of a model, as trained on a cache of those. Exits leave by patience."""
    import torch

    from pipeline.config import ExtractParams, ModelParams
    from pipeline.model.load import Compute
    from pipeline.stages.extract import header_of
    from pipeline.work.shard import load_here
    from trainer.artifacts.artifact import HeadFacts, TrainedHead, save_head
    from trainer.heads import build_head
    from trainer.treatment import Treatment, TreatmentOptions

    torch.manual_seed(0)
    found = load_here(ModelParams(path=model), Compute("auto", "auto", 1, 1024, False, "hooks")).facts
    params = ExtractParams.model_validate({"model": {"path": model}, "layers": list(layers)})
    head = build_head(name, options, layers=len(layers), dim=found.dim, out=len(LABELS))
    if name == "exits":
        head.threshold.fill_(PATIENCE / len(layers))
    facts = HeadFacts(
        objective={"kind": "multi_class"}, labels=list(LABELS), capture=header_of(params, found, 1).capture,
        pooling=params.poolings[0], model_name=found.name, model_parameters=found.parameters, recipe={}, seed=0,
        best_epoch=0, val_score=0.0, val_loss=0.0, train_seconds=0.0,
    )  # fmt: skip
    save_head(folder, TrainedHead(Treatment(TreatmentOptions(), len(layers), found.dim), head, facts))
    return folder


def _process() -> ProcessPoolExecutor:
    """A fresh process, which does one thing after the other."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
