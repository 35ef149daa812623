"""Seconds of one epoch of training: the Cayley-Encoder against its published formulation, and Lightning's share.

    python -m benchmarks.training [--quick]

On made-up rows of the size of Banking77 under SmolLM2-135M, [8502 x 31 x 576] in 77 classes, batches of 64,
alternating A B C A B C:

(a) the published formulation: a torch-geometric graph object for every example, its collation, GIN by messages along
    the (doubled) edges, virtual nodes and all, float32; a plain loop;
(b) ours in float32; (c) ours at `compute_type: auto`; both by `trainer.fit`, validation left out of the time.

Then `weighted` by `trainer.fit` against a bare loop of the same steps. The last line is JSON: `seconds_per_epoch` of
each, `cayley_speedup` (a over c), `cayley_speedup_float32` (a over b), `roofline_fraction_float32` (the encoder's
matrix products per second over this machine's 2048³ product), `lightning_overhead` (time more than the bare loop's).

(a) needs torch-geometric: pip install -e '.[bench]'.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.config import Recipe
from trainer.fit import candidate_losses, clip_gradients, fit
from trainer.heads import EncoderHead, Head, build_head
from trainer.heads.cayley import cayley_adjacency, smallest_modulus
from trainer.heads.graph import GraphEncoder
from trainer.rows import IndexBatches, Rows

LAYERS, DIM, CLASSES, BATCH = 31, 576, 77, 64
ROWS, QUICK_ROWS = 8502, 512
HIDDEN, BLOCKS = 256, 2
PUBLISHED = {"hidden": HIDDEN, "blocks": BLOCKS, "mlp_layers": 1, "dropout": 0.1}


def main() -> None:
    """Runs the rounds and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="end within a minute: 512 rows, one round")
    quick = parser.parse_args().quick
    rows = made_up(QUICK_ROWS if quick else ROWS)
    ways: dict[str, Callable[[], float]] = {
        "published": Published(rows).epoch,
        "cayley_float32": lambda: ours("cayley", PUBLISHED, rows, "float32"),
        "cayley_auto": lambda: ours("cayley", PUBLISHED, rows, "auto"),
        "weighted": lambda: ours("weighted", {}, rows, "float32"),
        "weighted_bare": lambda: bare("weighted", {}, rows),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 if quick else 3):
        for name, way in ways.items():
            seconds[name] += [way() for _ in range(5 if name.startswith("weighted") else 1)]
    found = {name: median(values) for name, values in seconds.items()}
    print(json.dumps(_summary(found, len(rows.y))))


def _summary(found: dict[str, float], rows: int) -> dict[str, Any]:
    return {
        "seconds_per_epoch": {name: round(value, 3) for name, value in found.items()},
        "cayley_speedup": round(found["published"] / found["cayley_auto"], 2),
        "cayley_speedup_float32": round(found["published"] / found["cayley_float32"], 2),
        "roofline_fraction_float32": round(rows * _products() / found["cayley_float32"] / _peak(), 3),
        "lightning_overhead": round(found["weighted"] / found["weighted_bare"] - 1, 3),
    }


def made_up(rows: int) -> Rows:
    """Standard normal rows and labels; what is learned does not matter here."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, LAYERS, DIM, generator=generator)
    return Rows(x, torch.randint(CLASSES, (rows,), generator=generator), [])


def ours(name: str, options: dict[str, Any], rows: Rows, compute_type: str) -> float:
    """Seconds of an epoch by `trainer.fit`: of three epochs less one, so that its start and end are left out."""
    few = Rows(rows.x[:1], rows.y[:1], [])
    took = []
    for epochs in (1, 3) if name == "weighted" else (1, 2):
        torch.manual_seed(0)
        recipe = Recipe.model_validate({"epochs": epochs, "batch_size": BATCH, "compute_type": compute_type})
        head = build_head(name, options, layers=LAYERS, dim=DIM, out=CLASSES)
        took.append((epochs, fit(head, rows, few, recipe, 0, "cpu").seconds))
    (fewer, less), (more, longer) = took
    return (longer - less) / (more - fewer)


def bare(name: str, options: dict[str, Any], rows: Rows) -> float:
    """Seconds of an epoch of the same steps without Lightning."""
    torch.manual_seed(0)
    recipe = Recipe(batch_size=BATCH)
    head = build_head(name, options, layers=LAYERS, dim=DIM, out=CLASSES)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=1e-2, fused=True)
    batches = IndexBatches(rows, BATCH, 0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=len(batches))
    started = time.perf_counter()
    for x, y in batches:
        loss = candidate_losses(head(x), y, recipe.label_smoothing).sum()
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(head, 1, recipe.gradient_clip)
        optimizer.step()
        schedule.step()
    return time.perf_counter() - started


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
    from trainer.heads.graph import needed_nodes

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
