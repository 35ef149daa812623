"""How far apart two caches are, as rows of a table and on the screen. A figure that is missing has the reason there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

COLUMNS: dict[str, Any] = {
    "layer": pl.Int64,
    "name": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "error": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "texts": pl.Int64,
    "excluded": pl.Int64,
    "note": pl.String,
}
SHOWN = {"cka": "CKA", "neighbours": "neighbours", "row_error": "row error", "largest_row_error": "largest"}
"""Metric of a layer → the head of its column on the screen."""


@dataclass(frozen=True)
class Figure:
    """A metric of a layer, or of a head's answers, which have none.

    Parameters
    ----------
    layer
        Its place among the caches' layers; None of a head.
    metric
        Which.
    value
        None where there is none, and `note` says why.
    texts
        Of so many texts, or examples.
    error
        The standard error of a figure of a sample; None of what is exact for these texts.
    low, high
        The 95 % interval of what is an estimate for other examples.
    excluded
        Texts left out, and `note` says why.
    """

    layer: int | None
    metric: str
    value: float | None
    texts: int
    error: float | None = None
    low: float | None = None
    high: float | None = None
    excluded: int = 0
    note: str = ""


def frame(figures: Iterable[Figure], names: Sequence[str]) -> pl.DataFrame:
    """A row a figure, in the order given; figures of a head have no layer and no name."""
    rows = [{**asdict(one), "name": None if one.layer is None else names[one.layer]} for one in figures]
    return pl.DataFrame(rows, schema=COLUMNS)


def lines(table: pl.DataFrame) -> list[str]:
    """One line per layer, then each note once; `-` where there is no figure."""
    of_layers = table.filter(pl.col("layer").is_not_null())
    names = dict(of_layers.select("layer", "name").unique().iter_rows())
    cells = {(row["layer"], row["metric"]): row for row in of_layers.iter_rows(named=True)}
    width = max(map(len, names.values()))
    told = [f"{'':>3} {'':{width}}" + "".join(f"{head:>18}" for head in SHOWN.values())]
    for layer in sorted(names):
        told.append(f"{layer:>3} {names[layer]:{width}}" + "".join(f"{_cell(cells[layer, m]):>18}" for m in SHOWN))
    for note in of_layers.filter(pl.col("note") != "")["note"].unique(maintain_order=True).to_list():
        of = of_layers.filter(pl.col("note") == note)
        metrics = [SHOWN[metric] for metric in of["metric"].unique(maintain_order=True).to_list()]
        layers = of["layer"].unique().sort().to_list()
        which = "all layers" if len(layers) == len(names) > 1 else f"layer {', '.join(map(str, layers))}"
        told.append(f"{', '.join(metrics)}, {which}: {note}")
    return told


def _cell(row: dict[str, Any]) -> str:
    if row["value"] is None:
        return "-"
    shown = f"{row['value']:.4f}" if row["metric"] in ("cka", "neighbours") else f"{row['value']:.3g}"
    return shown if row["error"] is None else f"{shown} ± {row['error']:.2g}"
