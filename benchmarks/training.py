"""Seconds of one epoch of training: the Cayley-Encoder against its published formulation, and Lightning's share.

    python -m benchmarks.training [--quick]

On made-up rows of the size of Banking77 under SmolLM2-135M, [8502 x 31 x 576] in 77 classes, batches of 64,
alternating A B C A B C:

(a) the published formulation: a torch-geometric graph object for every example, its collation, GIN by messages along
    the (doubled) edges, virtual nodes and all, float32; a plain loop, in a process of its own;
(b) ours in float32; (c) ours at `compute_type: auto`; both by `trainer.fit`, validation left out of the time.

Then `weighted` by `trainer.fit` against a bare loop of the same steps; and `weighted` and `cayley` from a float16 cache
on disk, all rows in memory against streaming within a budget of 200 MB, standardised both ways, each in a process of
its own. Rounds go on until the figures agree (`benchmarks.steady`); a machine that is too noisy ends with exit code 1.

The last line is JSON: `seconds_per_epoch` of each, `cayley_speedup` (a over c), `cayley_speedup_float32` (a
over b), `roofline_fraction_float32` (the encoder's matrix products per second over this machine's 2048³ product),
`lightning_overhead` (time more than the bare loop's), `streaming_fraction` (speed of streaming over that in memory) by
head, `streaming_megabytes` (peak resident memory of streaming, libraries and all), `libraries_megabytes` (what the
libraries take alone), and the spread of each ratio.

(a) needs torch-geometric: pip install -e '.[bench]'.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.steady import ENOUGH, QUICK_ENOUGH, Rounds, report, rounds_until_steady
from ilse.core.machine.memory import OF_BATCHES, keep_freed_memory
from pipeline import store
from trainer.config import Recipe
from trainer.fitting.fit import fit
from trainer.fitting.flat import FlatParameters
from trainer.heads import EncoderHead, Head, build_head
from trainer.heads.graphs.cayley import cayley_adjacency, smallest_modulus
from trainer.heads.graphs.encoder import GraphEncoder
from trainer.objectives import MultiClass
from trainer.rows.in_memory import IndexBatches, Rows
from trainer.rows.stored import gather
from trainer.rows.stream import StreamedRows, shards_in
from trainer.treatment import Treatment, TreatmentOptions

LAYERS, DIM, CLASSES, BATCH = 31, 576, 77, 64
ROWS, QUICK_ROWS = 8502, 512
HIDDEN, BLOCKS = 256, 2
SHARD_ROWS, BUDGET = 256, 200_000_000
STREAMED = ("weighted", "cayley")
MEASURABLE = 0.2
"""Seconds that the end of a fit may differ by, beside the time that is measured."""
PUBLISHED = {"hidden": HIDDEN, "blocks": BLOCKS, "mlp_layers": 1, "dropout": 0.1}


def main() -> None:
    """Runs the rounds and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute or two: 512 rows, few rounds")
    parser.add_argument("--child", nargs=3, metavar=("CACHE", "HEAD", "BUDGET"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    keep_freed_memory(OF_BATCHES)  # as `ilse train` does
    if given.child:
        print(json.dumps(from_cache(given.child[0], given.child[1], int(given.child[2]))))
        return
    quick, enough = given.quick, QUICK_ENOUGH if given.quick else ENOUGH
    rows = made_up(QUICK_ROWS if quick else ROWS)
    turns = Turns(rows)
    ratios = rounds_until_steady(turns.round, *((2, 6) if quick else (5, 15)), enough)
    turns.end()
    with tempfile.TemporaryDirectory() as name:
        streaming = Streaming(write_cache(rows, Path(name) / "cache.zarr"))
        fractions = rounds_until_steady(streaming.round, *((2, 6) if quick else (3, 9)), enough)
    report(_summary(turns.seconds, ratios) | streaming.summary(fractions), ratios, fractions)


class Turns:
    """Every way to train, one after the other."""

    def __init__(self, rows: Rows) -> None:
        self.seconds: dict[str, list[float]] = {}
        """Of an epoch: way → one value a round."""
        self._work = len(rows.y) * _products()
        self._apart = Apart(len(rows.y))
        self._ways: dict[str, Callable[[], float]] = {
            "published": self._apart.epoch,
            "cayley_float32": lambda: ours("cayley", PUBLISHED, rows, "float32"),
            "cayley_auto": lambda: ours("cayley", PUBLISHED, rows, "auto"),
            "weighted": lambda: ours("weighted", {}, rows, "float32"),
            "weighted_bare": lambda: bare("weighted", {}, rows),
        }

    def round(self) -> dict[str, float]:
        """The ratios of one round."""
        took = {
            name: median([way() for _ in range(5 if name.startswith("weighted") else 1)])
            for name, way in self._ways.items()
        }
        for name, value in took.items():
            self.seconds.setdefault(name, []).append(value)
        return {
            "cayley_speedup": took["published"] / took["cayley_auto"],
            "cayley_speedup_float32": took["published"] / took["cayley_float32"],
            "roofline_fraction_float32": self._work / took["cayley_float32"] / _peak(),
            "lightning_ratio": took["weighted"] / took["weighted_bare"],
        }

    def end(self) -> None:
        """Lets the rows and the other process go: what follows measures memory."""
        self._apart.end()
        self._ways.clear()


def _summary(seconds: dict[str, list[float]], ratios: Rounds) -> dict[str, Any]:
    found = ratios.medians(3)
    return {
        "seconds_per_epoch": {name: round(median(values), 3) for name, values in seconds.items()},
        "lightning_overhead": round(found.pop("lightning_ratio") - 1, 3),
        **found,
    }


def made_up(rows: int) -> Rows:
    """Standard normal rows and labels; what is learned does not matter here."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, LAYERS, DIM, generator=generator)
    return Rows(x, torch.randint(CLASSES, (rows,), generator=generator), [])


def classes() -> MultiClass:
    """What is learned."""
    return MultiClass(tuple(map(str, range(CLASSES))))


def ours(name: str, options: dict[str, Any], rows: Rows | StreamedRows, compute_type: str) -> float:
    """Seconds of an epoch by `trainer.fit`: of several epochs less one, so that its start and end are left out.

    As many as can be told from that start: an epoch of `weighted` takes milliseconds.
    """
    few = Rows(torch.zeros(1, LAYERS, DIM), torch.zeros(1, dtype=torch.long), [])

    def seconds(epochs: int) -> float:
        torch.manual_seed(0)
        recipe = Recipe.model_validate({"epochs": epochs, "batch_size": BATCH, "compute_type": compute_type})
        head = build_head(name, options, layers=LAYERS, dim=DIM, out=CLASSES)
        return float(fit(head, rows, few, classes(), recipe, 0, "cpu").seconds)

    first, more = seconds(1), 1
    while (rest := seconds(1 + more) - first) < MEASURABLE:
        more *= 4
    return rest / more


def bare(name: str, options: dict[str, Any], rows: Rows) -> float:
    """Seconds of an epoch of the same steps without Lightning."""
    torch.manual_seed(0)
    recipe = Recipe(batch_size=BATCH)
    head = build_head(name, options, layers=LAYERS, dim=DIM, out=CLASSES)
    flat = FlatParameters(head)
    optimizer = torch.optim.AdamW([flat.vector], lr=1e-3, weight_decay=1e-2, fused=True)
    batches, objective = IndexBatches(rows, BATCH, 0), classes()
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=len(batches))
    started = time.perf_counter()
    for x, y in batches:
        loss = objective.losses(head(x), y, recipe.smoothing).sum()
        flat.zero_gradients()
        loss.backward()
        flat.gather_gradients(1, recipe.gradient_clip)
        optimizer.step()
        schedule.step()
    return time.perf_counter() - started


def write_cache(rows: Rows, path: Path) -> Path:
    """The rows in a finished float16 cache."""
    names = tuple(f"layer {layer}" for layer in range(LAYERS))
    spec = store.CaptureSpec(
        model={"sha256": "00"}, tokenizer="11", layers=names, dim=DIM, max_tokens=16, template="{text}",
        compute_type="float32", storage_type="float16",
    )  # fmt: skip
    header = store.CacheHeader(spec, len(rows.y), SHARD_ROWS, "made up", 1, {})
    location, ids = store.Location(path), store.text_id_rows([f"{i:032x}" for i in range(len(rows.y))])
    store.create(location, header, ids)
    records = []
    for shard in range(header.shards):
        place = header.rows_of(shard)
        size = place.stop - place.start
        values = {"mean": rows.x[place].numpy()}
        records.append(
            store.write_shard(location, header, shard, store.ShardRows(ids[place], [3] * size, [False] * size, values))
        )
    store.finish(location, header, ids, records)
    return path


class Streaming:
    """Training from a cache, all rows in memory against streamed ones, each in a process of its own."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._peak = self._libraries = 0.0

    def round(self) -> dict[str, float]:
        """Head → speed of streaming over that in memory."""
        return {f"streaming_{head}": self._seconds(head, 0) / self._seconds(head, BUDGET) for head in STREAMED}

    def _seconds(self, head: str, budget: int) -> float:
        command = [sys.executable, "-m", "benchmarks.training", "--child", str(self._cache), head, str(budget)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        figures = json.loads(done.stdout.splitlines()[-1])
        if budget:
            self._peak = max(self._peak, figures["peak_megabytes"])
            self._libraries = figures["libraries_megabytes"]
        return float(figures["seconds"])

    def summary(self, fractions: Rounds) -> dict[str, Any]:
        """The figures of all rounds."""
        found = fractions.medians()
        return {
            "streaming_fraction": {head: found[f"streaming_{head}"] for head in STREAMED},
            "streaming_budget_megabytes": BUDGET / 1e6,
            "streaming_megabytes": round(self._peak),
            "libraries_megabytes": round(self._libraries),
        }


def from_cache(path: str, name: str, budget: int) -> dict[str, float]:
    """Seconds of an epoch of training from a cache, and the peak memory of this process; budget 0: all in memory."""
    libraries = _peak_rss()
    cache = store.open_cache(path)
    layers, places = tuple(range(LAYERS)), np.arange(cache.header.texts)
    y = torch.arange(cache.header.texts) % CLASSES
    rows: Rows | StreamedRows
    if budget:
        source = StreamedRows(cache, layers, places, y, [], shards_in(budget, cache, layers, "mean"))
        rows = source.treated(Treatment(TreatmentOptions(), LAYERS, DIM).in_place)
    else:
        rows = Rows(gather(cache, places), y, [])
    seconds = ours(name, PUBLISHED if name == "cayley" else {}, rows, "auto")
    return {"seconds": seconds, "peak_megabytes": _peak_rss(), "libraries_megabytes": libraries}


def _peak_rss() -> float:
    """Megabytes since this program began; what `getrusage` says includes the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e3


class Apart:
    """`Published` in a process of its own, as a user would run it: this one keeps freed memory."""

    def __init__(self, rows: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        context.Process(target=_epochs, args=(rows, theirs), daemon=True).start()
        theirs.close()

    def epoch(self) -> float:
        """Seconds."""
        self._pipe.send(None)
        seconds: float = self._pipe.recv()
        return seconds

    def end(self) -> None:
        """Has the process end."""
        self._pipe.close()


def _epochs(rows: int, pipe: Connection) -> None:
    published = Published(made_up(rows))
    while True:
        try:
            pipe.recv()
        except EOFError:  # nobody asks any more
            return
        pipe.send(published.epoch())


class Published:
    """The published formulation, from its description: graph objects, collation, messages along edges."""

    def __init__(self, rows: Rows) -> None:
        from torch_geometric.data import Data

        adjacency = cayley_adjacency(smallest_modulus(LAYERS))
        once = adjacency.nonzero().T
        edges = torch.cat([once, once.flip(0)], dim=1)  # each generator adds both directions
        virtual = len(adjacency) - LAYERS
        padded = functional.pad(rows.x, (0, 0, 0, virtual))
        real = torch.arange(len(adjacency)) < LAYERS
        self._graphs = [
            Data(x=x, edge_index=edges, y=y, real=real) for x, y in zip(padded, rows.y.unsqueeze(1), strict=True)
        ]
        torch.manual_seed(0)
        self._head = _MessagePassing()
        self._optimizer = torch.optim.Adam(self._head.parameters(), lr=1e-3, weight_decay=1e-4)

    def epoch(self) -> float:
        """Seconds."""
        from torch_geometric.loader import DataLoader

        started = time.perf_counter()
        for batch in DataLoader(self._graphs, batch_size=BATCH, shuffle=True):
            loss = functional.cross_entropy(self._head(batch), batch.y)
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
        return time.perf_counter() - started


class _MessagePassing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        from torch_geometric.nn import GINConv, global_mean_pool

        self.project = nn.Linear(DIM, HIDDEN)
        self.convs = nn.ModuleList(
            GINConv(nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.ReLU()), train_eps=True) for _ in range(BLOCKS)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(HIDDEN) for _ in range(BLOCKS))
        self.readout = nn.Linear(HIDDEN, CLASSES)
        self.pool = global_mean_pool

    def forward(self, batch: Any) -> Tensor:
        h = functional.dropout(self.project(batch.x).relu(), 0.1, self.training)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            h = functional.dropout(norm(conv(h, batch.edge_index)), 0.1, self.training)
        pooled = self.pool(h[batch.real], batch.batch[batch.real])
        logits: Tensor = self.readout(pooled)
        return logits


def _products() -> float:
    """Operations of one example's matrix products, forward and backward (three times forward, but for the input)."""
    head = build_head("cayley", PUBLISHED, layers=LAYERS, dim=DIM, out=CLASSES)
    assert isinstance(head, EncoderHead)
    assert isinstance(head.encoder, GraphEncoder)
    sizes = _node_counts(head)
    project = 2 * 2 * LAYERS * DIM * HIDDEN
    blocks = sum(3 * 2 * rows * HIDDEN * HIDDEN for _, rows in pairwise(sizes))
    mixing = sum(2 * 2 * rows * nodes * HIDDEN for nodes, rows in pairwise(sizes))
    return project + blocks + mixing + 3 * 2 * HIDDEN * CLASSES


def _node_counts(head: Head) -> list[int]:
    from trainer.heads.graphs.encoder import needed_nodes

    return needed_nodes(cayley_adjacency(smallest_modulus(head.spec.layers)), head.spec.layers, BLOCKS)


def _peak() -> float:
    """Operations per second of a 2048³ matrix product in float32."""
    a, b = (torch.randn(2048, 2048) for _ in range(2))
    times = []
    for _ in range(9):
        started = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - started)
    return 2 * 2048**3 / median(times)


if __name__ == "__main__":
    main()
