"""The metrics as rows of a table and on the screen; if a figure is missing, its row says why."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

COLUMNS: dict[str, Any] = {
    "layer": pl.Int64,
    "name": pl.String,
    "metric": pl.String,
    "other": pl.Int64,
    "value": pl.Float64,
    "error": pl.Float64,
    "texts": pl.Int64,
    "excluded": pl.Int64,
    "note": pl.String,
}
SHOWN = {
    "entropy_centred": "entropy",
    "effective_rank_centred": "rank",
    "anisotropy": "anisotropy",
    "cosine": "cosine",
    "norm": "norm",
    "massive": "massive",
    "dimension": "dimension",
    "cka_last": "CKA last",
    "infonce": "InfoNCE",
    "lidar": "LiDAR",
    "dime": "DiME",
    "prompt_entropy": "prompt",
    "curvature": "curvature",
    "fisher": "Fisher",
    "silhouette": "silhouette",
    "probe": "probe",
}
"""Metric → the head of its column on the screen; the file has them all."""


@dataclass(frozen=True)
class Figure:
    """A metric of a layer.

    Parameters
    ----------
    layer
        Its place among the cache's layers.
    metric
        Which.
    value
        None where there is none, and `note` says why.
    texts
        Of so many texts.
    error
        The standard error of an average or an estimate; None of what is exact for these texts.
    excluded
        Texts left out, and `note` says why.
    other
        Of `cka`, the layer that it is compared with.
    """

    layer: int
    metric: str
    value: float | None
    texts: int
    error: float | None = None
    excluded: int = 0
    note: str = ""
    other: int | None = None


def frame(figures: Iterable[Figure], names: Sequence[str]) -> pl.DataFrame:
    """A row a figure, in the order given."""
    rows = [{**asdict(figure), "name": names[figure.layer]} for figure in figures]
    return pl.DataFrame(rows, schema=COLUMNS)


def with_suggested(table: pl.DataFrame, layers: Sequence[int]) -> pl.DataFrame:
    """Adds a row `suggested` per layer, 1 for the suggested layers and else 0, before the rows of pairs."""
    names = dict(table.select("layer", "name").iter_rows())
    figures = [Figure(layer, "suggested", float(layer in layers), 0) for layer in sorted(names)]
    rows = frame(figures, [names[layer] for layer in sorted(names)])
    single = pl.col("other").is_null()
    return pl.concat([table.filter(single), rows, table.filter(~single)])


def lines(table: pl.DataFrame) -> list[str]:
    """One line per layer with what `SHOWN` names, then each note once; `-` where there is no figure."""
    single = table.filter(pl.col("other").is_null())
    present = set(single["metric"].to_list())
    metrics = [name for name in SHOWN if name in present]
    values = {(row["layer"], row["metric"]): row["value"] for row in single.iter_rows(named=True)}
    names = dict(single.select("layer", "name").unique().iter_rows())
    width = max(map(len, names.values()))
    told = [f"{'':>3} {'':{width}}" + "".join(f"{SHOWN[metric]:>11}" for metric in metrics)]
    for layer in sorted(names):
        cells = (values.get((layer, metric)) for metric in metrics)
        row = "".join(f"{'-' if value is None else format(value, '.4g'):>11}" for value in cells)
        told.append(f"{layer:>3} {names[layer]:{width}}{row}")
    notes = single.filter(pl.col("note") != "")
    for note in notes["note"].unique(maintain_order=True).to_list():
        of = notes.filter(pl.col("note") == note)
        which = ", ".join(of["metric"].unique(maintain_order=True).to_list())
        layers = of["layer"].unique().sort().to_list()
        of_layers = "all layers" if len(layers) == len(names) > 1 else f"layer {', '.join(map(str, layers))}"
        told.append(f"{which}, {of_layers}: {note}")
    return told
