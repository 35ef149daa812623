"""Seconds of one epoch of a head that reads tokens, against a bare loop; and what a token takes.

    OMP_NUM_THREADS=2 python -m benchmarks.token_heads [--quick]

On made-up token states of the size of Emotion under MiniLM, 16,000 texts of 22 tokens on average and 7 layers of 384
values, in memory: at full width in float16, and on a basis of rank 64 in int8. The head is `bottleneck` behind a reader
of rank 16, batches of 64. `trainer.fit` and a loop of the same steps alternate until their ratio agrees
(`benchmarks.steady`); a machine that is too noisy ends with exit code 1.

The last line is JSON: `seconds_per_epoch` and `bytes_per_token` by choice, and `overhead` (time more than the bare
loop's) with its spread.
"""

from __future__ import annotations

import argparse
import time
from statistics import median
from typing import Any

import torch

from benchmarks.steady import ENOUGH, QUICK_ENOUGH, report, rounds_until_steady
from ilse.core.machine.hardware import native_bfloat16
from ilse.core.machine.memory import OF_BATCHES, keep_freed_memory
from trainer.config import OF_TOKENS, Recipe
from trainer.fitting.fit import fit
from trainer.fitting.flat import FlatParameters
from trainer.fitting.losses import training_losses
from trainer.heads import build_head
from trainer.objectives import MultiClass
from trainer.rows.token_rows import TokenRows
from trainer.rows.token_shelf import TokenShelf
from trainer.treatment import Treatment, TreatmentOptions

TEXTS, QUICK_TEXTS, TOKENS, LAYERS, BATCH = 16_000, 512, 22, 7, 64
SHARD = 256
LABELS = tuple("abcdef")
CHOICES: dict[str, tuple[int, torch.dtype]] = {"float16": (384, torch.float16), "rank64_int8": (64, torch.int8)}


def main() -> None:
    """Runs the rounds and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute or two: 512 texts, few rounds")
    quick = parser.parse_args().quick
    keep_freed_memory(OF_BATCHES)  # as `ilse train` does
    turns = Turns(QUICK_TEXTS if quick else TEXTS)
    rounds = rounds_until_steady(turns.round, *((2, 6) if quick else (3, 9)), QUICK_ENOUGH if quick else ENOUGH)
    report(turns.summary(rounds.medians(3)), rounds)


class Turns:
    """Both ways for each choice, one after the other."""

    def __init__(self, texts: int) -> None:
        self._rows = {name: made_up(texts, *choice) for name, choice in CHOICES.items()}
        self._seconds: dict[str, list[float]] = {name: [] for name in CHOICES}

    def round(self) -> dict[str, float]:
        """Choice → time of `fit` over that of the bare loop."""
        ratios = {}
        for name, rows in self._rows.items():
            took, least = ours(rows), bare(rows)
            self._seconds[name].append(took)
            ratios[f"{name}_ratio"] = took / least
        return ratios

    def summary(self, ratios: dict[str, float]) -> dict[str, Any]:
        """The figures of all rounds."""
        return {
            "seconds_per_epoch": {name: round(median(values), 2) for name, values in self._seconds.items()},
            "bytes_per_token": {
                name: rows.shelf.values[0].numel() * rows.shelf.values.element_size()
                for name, rows in self._rows.items()
            },
            "overhead": {name: round(ratios[f"{name}_ratio"] - 1, 3) for name in self._rows},
            "threads": torch.get_num_threads(),
        }


def made_up(texts: int, width: int, kind: torch.dtype) -> TokenRows:
    """Examples whose texts have from 2 to 42 tokens, standardised as they are taken."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(2, 2 * TOKENS - 1, (texts,), generator=generator)
    shape = (int(lengths.sum()), LAYERS, width)
    values = torch.empty(shape, dtype=kind)
    for part in values.split(8192):
        part.copy_(torch.randn(part.shape, generator=generator).mul_(40 if kind is torch.int8 else 1).clamp_(-127, 127))
    slots, scales = torch.arange(texts) // SHARD, torch.full((-(-texts // SHARD), LAYERS, width), 0.05)
    shelf = TokenShelf(values, lengths.cumsum(0) - lengths, lengths, slots, scales if kind is torch.int8 else None)
    y = torch.randint(len(LABELS), (texts,), generator=generator)
    treatment = Treatment(TreatmentOptions(), LAYERS, width)
    return TokenRows(shelf, torch.arange(texts), y, [""] * texts).treated(treatment.in_place)


def ours(rows: TokenRows) -> float:
    """Seconds of an epoch by `trainer.fit`: of two epochs less one, so that its start and end are left out."""
    few = rows.take(torch.arange(1))

    def seconds(epochs: int) -> float:
        recipe = Recipe.model_validate(OF_TOKENS | {"epochs": epochs, "batch_size": BATCH})
        return float(fit(head_for(rows), rows, few, MultiClass(LABELS), recipe, 0, "cpu").seconds)

    first = seconds(1)
    return seconds(2) - first


def bare(rows: TokenRows) -> float:
    """Seconds of an epoch of the same steps without Lightning."""
    recipe = Recipe.model_validate(OF_TOKENS | {"batch_size": BATCH})
    head, objective = head_for(rows), MultiClass(LABELS)
    flat, mixed = FlatParameters(head), native_bfloat16("cpu")
    optimizer = torch.optim.AdamW([flat.vector], lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True)
    batches = rows.shuffled(BATCH, 0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=recipe.learning_rate, total_steps=len(batches))
    started = time.perf_counter()
    for x, y in batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            loss = training_losses(head.supervised(x), y, objective, recipe.smoothing).sum()
        flat.zero_gradients()
        loss.backward()
        flat.gather_gradients(1, recipe.gradient_clip)
        optimizer.step()
        schedule.step()
    return time.perf_counter() - started


def head_for(rows: TokenRows) -> Any:
    """An untrained `bottleneck` behind a reader."""
    torch.manual_seed(0)
    width = rows.shelf.values.shape[2]
    return build_head("bottleneck", layers=LAYERS, dim=width, out=len(LABELS), tokens={})


if __name__ == "__main__":
    main()
