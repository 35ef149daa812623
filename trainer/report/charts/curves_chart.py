"""Losses by epoch."""

from __future__ import annotations

import math

import altair as alt
import polars as pl

from trainer.report.charts.parts import Chart, by_head, data, layered, spec, tips
from trainer.report.theme import ACCENT, INK, MUTED


def curves_charts(curves: pl.DataFrame, runs: pl.DataFrame, heads: list[str], labels: int) -> tuple[list[Chart], float]:
    """One chart for each head: training and validation loss of every seed. Also the loss above which they are cut.

    They share a scale, so that heads compare. Losses above twice that of guessing, ln(labels), are cut: one head that
    diverges would flatten all others. With `labels` 0, where the loss is no cross-entropy of labels, none is.
    """
    # a head that is no longer compared may have left its curve behind
    curves = curves.filter(pl.col("head").is_in(heads))
    losses = pl.concat([curves["train_loss"], curves["val_loss"]]).drop_nulls()
    highest = float(losses.max() or 1.0)  # type: ignore[arg-type]
    top = min(highest, 2 * math.log(max(labels, 2))) if labels else highest
    grouped = {str(name): rows.sort("seed", "epoch") for (name,), rows in by_head(curves)}
    best = runs.select("head", "seed", pl.col("best_epoch").alias("epoch")).join(curves, on=["head", "seed", "epoch"])
    shown = [head for head in heads if head in grouped]
    return [_curves_chart(head, grouped[head], best.filter(pl.col("head") == head), top) for head in shown], top


def _curves_chart(head: str, rows: pl.DataFrame, best: pl.DataFrame, top: float) -> Chart:
    y = alt.Y("loss:Q", scale=alt.Scale(domain=[0, top]), axis=alt.Axis(title="loss", tickCount=4))
    axis = alt.Axis(title="epoch", tickMinStep=1, tickCount=5, grid=False)
    x = alt.X("epoch:Q", scale=alt.Scale(nice=False), axis=axis)
    chosen = best.select("seed", "epoch", "val_score", pl.col("val_loss").alias("loss"))
    drawn = layered(
        _losses(rows, "train_loss").mark_line(color=MUTED, strokeDash=[3, 2], strokeWidth=1, clip=True).encode(x, y),
        _losses(rows, "val_loss").mark_line(color=ACCENT, strokeWidth=1.5, opacity=0.8, clip=True).encode(x, y),
        alt.Chart(data(chosen.to_dicts())).mark_circle(color=INK, size=34, opacity=1, clip=True).encode(
            x, y, tooltip=tips("seed", "epoch", "val_score")
        ),
    )  # fmt: skip
    epochs = best["epoch"].sort().to_list()
    end = rows.filter(pl.col("epoch") == pl.col("epoch").max().over("seed"))
    kept = f"epochs kept {', '.join(map(str, epochs))}" if epochs else "no epoch kept"
    train, val = (_median(end, column) for column in ("train_loss", "val_loss"))
    words = f"{head}: {kept}; median losses at the end {train} train, {val} validation."
    return Chart(head, spec(drawn, 170), words)


def _losses(rows: pl.DataFrame, column: str) -> alt.Chart:
    table = rows.select("seed", "epoch", pl.col(column).round(5).alias("loss"))
    return alt.Chart(data(table.to_dicts())).encode(detail="seed:N")


def _median(rows: pl.DataFrame, column: str) -> str:
    value = rows[column].median()
    return f"{value:.3f}" if isinstance(value, float) else "–"
