"""`ilse layers`: measures each layer's representation from a cache alone, and suggests which layers to keep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from ilse.core.errors import UserError
from ilse.core.files.atomic import replacing
from pipeline.store import open_cache
from trainer.cache_drift.comparing import Drift, compare
from trainer.cache_drift.row_differences import Options as Comparing
from trainer.layer_metrics.advice import LEAST_TEXTS, Advice, advise
from trainer.layer_metrics.labels import read_labels
from trainer.layer_metrics.measuring import Options
from trainer.layer_metrics.survey import Survey, survey
from trainer.layer_metrics.table import lines, with_suggested
from trainer.layer_metrics.viewing import Viewed


def measure(place: str, examples: Path | None, options: Options, views: Sequence[str] = ()) -> Survey:
    """The figures of the cache at `place`, those of labels too where `examples` are given, and of caches of views.

    Raises `UserError` for what `open_cache`, `read_labels`, `Viewed` and reading refuse, and for options out of range.
    """
    for name, value, least in (("texts", options.texts, 1), ("alpha", options.alpha, 0.0)):
        if not least <= value < float("inf"):
            raise _refused(f"option {name}", f"a number of at least {least:g}", f"{value:g}", "correct it")
    cache = open_cache(place)
    cache.statistics(options.pooling)  # refuses a pooling that is not there, before anything is read
    viewed = Viewed(cache, views) if views else None
    return survey(cache, None if examples is None else read_labels(cache, examples), options, viewed)


def layers(
    place: str, examples: Path | None, out: Path, options: Options, suggest: bool, views: Sequence[str] = ()
) -> list[str]:
    """Writes the table to `out`, and returns it for the screen; with `suggest` what to keep too."""
    if suggest and examples is None:
        raise _refused("option --suggest", "--examples: labels tell which layers to keep", "none", "name the examples")
    found = measure(place, examples, options, views)
    advice = _advice(found, examples) if suggest else None
    table = found.table if advice is None else with_suggested(found.table, advice.layers)
    write(table, out)
    told = lines(table)
    if "prompt_entropy" not in found.table["metric"]:
        told.append("no token states in this cache: prompt entropy, curvature and token anisotropy are left out")
    if not views:
        told.append("no --views of the texts: InfoNCE, LiDAR and DiME are left out")
    told.append(f"all {len(table):,} figures: {out}")
    return told + ([] if advice is None else _suggested(found, place, advice))


def compared(
    a: str, b: str, options: Comparing, head: Path | None, examples: Path | None, tolerance: float | None, out: Path
) -> Drift:
    """How far two caches are apart; writes the table to `out`. Raises `UserError` as `compare` does."""
    found = compare(a, b, options, head, examples, tolerance)
    write(found.table, out)
    return found


def write(table: pl.DataFrame, out: Path) -> None:
    """Writes the table in one step: Parquet or JSON lines by the file's ending, else CSV."""
    with replacing(out) as file:
        if out.suffix == ".parquet":
            table.write_parquet(file)
        elif out.suffix == ".jsonl":
            table.write_ndjson(file)
        else:
            table.write_csv(file)


def _advice(found: Survey, examples: Path | None) -> Advice:
    advice = None if found.probed is None else advise(found.probed)
    if advice is None:
        texts = 0 if found.probed is None else len(found.probed.y)
        expected = f"at least {LEAST_TEXTS} validation texts with a label to choose by, and two labels in training"
        raise _refused(f"examples {examples}", expected, f"{texts} that were probed", "leave --suggest out")
    return advice


def _suggested(found: Survey, place: str, advice: Advice) -> list[str]:
    names = found.table.filter(pl.col("metric") == "probe")["name"].to_list()
    return ["", *advice.lines(names, place)]


def _refused(where: str, expected: str, found: str, next_step: str) -> UserError:
    return UserError(where, expected=expected, found=found, next_step=next_step)
