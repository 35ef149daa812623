"""Tokens per second of extraction against the loop that people write today, alternating in one run, A B C D A B C D.

    python -m benchmarks.extraction [--quick]

(a) the plain loop: data set order, batches of 32, padded to the longest, `output_hidden_states=True`, float32;
(b) the same, sorted by length;
(c) ours in float32; (d) ours at `compute_type: auto`; on the long texts both with `compile: true` too, as a run of more
than minutes would have it.

Ours is the worker's whole function: reading, tokenising, computing, pooling, writing, reading back, checksums. The
plain loop tokenises, computes and pools, and writes nothing. Each runs in a process of its own, which keeps its model.

The last line is JSON. `speedup_over_naive` is (d) over (a), `speedup_same_dtype` (c) over (a), both on headlines.
`roofline_fraction` and `roofline_fraction_float32` are the model's arithmetic per second of (d) and (c), on texts cut
at 128 tokens with compiled blocks, over this machine's 2048³ matrix product in that type as PyTorch computes it;
`…_eager` without compiling, `…_of_best` over the faster of PyTorch's and oneDNN's product (they differ in float32,
where PyTorch asks MKL). `seconds_before_first_text` is what each way takes until it is warm: loading, proving,
compiling. Rounds go on until the ratios agree (`benchmarks.steady`); a machine that is too noisy ends with exit code 1.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.demo import demo_params, demo_texts, first_texts, plain_copy, read_texts
from benchmarks.steady import ENOUGH, QUICK_ENOUGH, report, rounds_until_steady
from pipeline.config import ModelParams

PLAIN = ("naive", "sorted")
OURS = ("float32", "auto")
COMPILED = tuple(f"{way} compiled" for way in OURS)
BATCH = 32
CUT = 128


@dataclass(frozen=True)
class Setting:
    """What every process is told."""

    model: ModelParams
    texts: dict[str, Path]
    """Name of the table → file, `headlines` and `articles`."""
    shard_rows: int
    threads: int


def main() -> None:
    """Prepares the texts, runs the rounds and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few texts and rounds: a minute or two")
    quick = parser.parse_args().quick
    headlines, articles = (256, 16) if quick else (1_024, 64)
    params = demo_params()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables = {
            "headlines": first_texts(
                demo_texts(folder / "short", whole=False), headlines, folder / "headlines.parquet"
            ),
            "articles": first_texts(demo_texts(folder / "long", whole=True), articles, folder / "articles.parquet"),
        }
        setting = Setting(plain_copy(params.model, folder / "model"), tables, params.shard_rows, _cores())
        compare(setting, quick)


def compare(setting: Setting, quick: bool) -> None:
    """Prints medians over the rounds; a round's speeds stand side by side, and so do their ratios."""
    processes = {way: _start(way, setting) for way in (*PLAIN, *OURS, *COMPILED)}
    figures: dict[str, list[float]] = {}

    def a_round() -> dict[str, float]:
        rates = {
            f"{table} {way}": ask(table)
            for table in setting.texts
            for way, ask in processes.items()
            if table == "articles" or way not in COMPILED
        }
        rates |= {f"{peak} {way}": processes[way](peak) for way in OURS for peak in ("peak", "peak onednn")}
        for name, rate in rates.items():
            figures.setdefault(name, []).append(rate)
        return {
            "speedup_over_naive": rates["headlines auto"] / rates["headlines naive"],
            "speedup_same_dtype": rates["headlines float32"] / rates["headlines naive"],
            "roofline_fraction": rates["articles auto compiled"] / rates["peak auto"],
            "roofline_fraction_float32": rates["articles float32 compiled"] / rates["peak float32"],
        }

    rounds = rounds_until_steady(a_round, *((2, 4) if quick else (3, 9)), QUICK_ENOUGH if quick else ENOUGH)
    facts = {way: ask("facts") for way, ask in processes.items()}
    report(_summary({name: median(values) for name, values in figures.items()}, facts), rounds)


def _summary(rate: dict[str, float], facts: dict[str, Any]) -> dict[str, Any]:
    flops = facts["auto"]["flops_per_token"]
    document: dict[str, Any] = {
        f"tokens_per_second_{name.replace(' ', '_')}": round(rate[name], 1) for name in rate if "peak" not in name
    }
    document |= {
        "speedup_over_naive": round(rate["headlines auto"] / rate["headlines naive"], 2),
        "speedup_same_dtype": round(rate["headlines float32"] / rate["headlines naive"], 2),
        "speedup_over_sorted": round(rate["headlines auto"] / rate["headlines sorted"], 2),
    }
    for way, ending in (("auto", ""), ("float32", "_float32")):
        reached, peak = rate[f"articles {way} compiled"] * flops, rate[f"peak {way}"]
        document[f"roofline_fraction{ending}"] = round(reached / peak, 3)
        document[f"roofline_fraction{ending}_eager"] = round(rate[f"articles {way}"] * flops / peak, 3)
        document[f"roofline_fraction{ending}_of_best"] = round(reached / max(peak, rate[f"peak onednn {way}"]), 3)
        document[f"peak_gflops{ending}"] = round(peak / 1e9)
        document[f"peak_gflops{ending}_onednn"] = round(rate[f"peak onednn {way}"] / 1e9)
    document["native_bfloat16"] = facts["auto"]["compute_type"] == "bfloat16"
    document["peak_rss_megabytes"] = {way: facts[way]["rss_megabytes"] for way in facts}
    document["seconds_before_first_text"] = {way: facts[way]["seconds_to_warm"] for way in facts}
    return document


def _start(way: str, setting: Setting) -> Callable[[str], Any]:
    """A process that keeps its model and answers one question at a time."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    context.Process(target=_serve, args=(way, setting, theirs), daemon=True).start()
    assert ours.recv() == "ready"

    def ask(question: str) -> Any:
        ours.send(question)
        return ours.recv()

    return ask


def _serve(way: str, setting: Setting, line: Connection) -> None:
    import torch

    started = time.perf_counter()
    torch.set_num_threads(setting.threads)
    run, facts = _plain(way, setting) if way in PLAIN else _ours(way, setting)
    facts["seconds_to_warm"] = round(time.perf_counter() - started, 1)
    line.send("ready")
    while True:
        try:
            question = line.recv()
        except EOFError:  # the main process has ended
            return
        if question == "facts":
            rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
            line.send({**facts, "rss_megabytes": round(rss)})
        elif question.startswith("peak"):
            line.send(_peak(facts["compute_type"], onednn="onednn" in question))
        else:
            line.send(run(question))


def _plain(way: str, setting: Setting) -> tuple[Callable[[str], float], dict[str, Any]]:
    """The loop of today, in float32."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(setting.model.path, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(setting.model.path)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    @torch.inference_mode()
    def run(table: str) -> float:
        texts, tokens, rows = read_texts(setting.texts[table]), 0, []
        started = time.perf_counter()
        if way == "sorted":
            texts = sorted(texts, key=len, reverse=True)
        for start in range(0, len(texts), BATCH):
            batch = tokenizer(
                texts[start : start + BATCH], padding=True, truncation=True, max_length=CUT, return_tensors="pt"
            )
            states = model(**batch, output_hidden_states=True).hidden_states
            mask = batch["attention_mask"].unsqueeze(-1).float()
            rows.append(torch.stack([(state * mask).sum(1) / mask.sum(1) for state in states], dim=1))
            tokens += int(batch["attention_mask"].sum())
        torch.cat(rows)
        return tokens / (time.perf_counter() - started)

    run("headlines")
    return run, {"compute_type": "float32"}


def _ours(way: str, setting: Setting) -> tuple[Callable[[str], float], dict[str, Any]]:
    """The worker's function, from the table to the shards on disk."""
    from pipeline import store
    from pipeline.config import ExtractParams
    from pipeline.stages.extract import compute_of, header_of, read_text_ids, request_of
    from pipeline.work.scratch import Scratch
    from pipeline.work.shard import Job, compute_shards, prepare_worker

    params = ExtractParams(
        model=setting.model,
        max_tokens=CUT,
        compute_type=way.removesuffix(" compiled"),
        compile=way in COMPILED,
        threads=setting.threads,
        shard_rows=setting.shard_rows,
    )
    compute = compute_of(params)
    facts = prepare_worker(params.model, compute)
    request = request_of(params, facts)
    folder = Path(tempfile.mkdtemp())

    def run(table: str) -> float:
        texts = setting.texts[table]
        ids = read_text_ids(texts)
        header = header_of(params, facts, len(ids))
        scratch = Scratch(store.Location(folder / "cache"), store.Location(folder))
        store.create(scratch.cache, header, ids)
        job = Job(params.model, compute, request, header, texts, scratch, (), "")
        started = time.perf_counter()
        receipts = compute_shards(job, range(header.shards))
        seconds = time.perf_counter() - started
        shutil.rmtree(folder)
        return sum(receipt.tokens for receipt in receipts) / seconds

    run("articles" if way in COMPILED else "headlines")
    # A causal token sees half of a text: products of queries, keys and values with `CUT` / 2 others.
    attention = 4 * (CUT // 2) * facts.dim * (len(facts.layers) - 1)
    return run, {"compute_type": facts.compute_type, "flops_per_token": facts.flops_per_token + attention}


def _peak(compute_type: str, onednn: bool) -> float:
    """Operations per second of a 2048³ matrix product."""
    import torch

    size = 2048
    a, b = (torch.randn(size, size).to(getattr(torch, compute_type)) for _ in range(2))
    product = torch.nn.functional.linear
    if onednn:
        from ilse.core.machine.linear import linear as product
    times = []
    with torch.inference_mode():
        for _ in range(9):
            started = time.perf_counter()
            product(a, b, None)
            times.append(time.perf_counter() - started)
    return 2 * size**3 / median(times)


def _cores() -> int:
    from pipeline.cluster.machine import cores

    return cores()


if __name__ == "__main__":
    main()
