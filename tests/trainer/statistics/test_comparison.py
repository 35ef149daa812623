"""The table of a comparison against its parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from ilse.core.errors import UserError
from trainer.statistics import (
    compare_accuracy,
    compare_figure,
    difference,
    holm,
    mcnemar_over_seeds,
    of_figure,
    of_rows,
)

COLUMNS = [
    "head", "baseline", "seeds", "rows", "difference_points", "low_points", "high_points", "p", "p_holm", "mcnemar_p",
    "better",
]  # fmt: skip


@pytest.fixture
def right() -> dict[str, np.ndarray]:
    """A baseline, a head that is alike, one that is better, and one that is worse and has fewer seeds."""
    generator = np.random.default_rng(0)
    hard = generator.random(400) < 0.3
    noise = {"last": (3, 0.02), "mlp": (3, 0.02), "weighted": (3, 0.0), "mean": (2, 0.2)}
    heads = {name: ~hard ^ (generator.random((seeds, 400)) < share) for name, (seeds, share) in noise.items()}
    heads["weighted"] = heads["last"] | (generator.random((3, 400)) < 0.2)
    return heads


def test_a_row_a_head_but_the_baseline(right: dict[str, np.ndarray]) -> None:
    table = compare_accuracy(right, ["last"])
    assert table.columns == COLUMNS
    assert table["head"].to_list() == ["mlp", "weighted", "mean"]
    found = [difference(of_rows(right[name]), of_rows(right["last"])) for name in table["head"]]
    corrected = holm([one.p for one in found])
    for row, one, p_holm in zip(table.iter_rows(named=True), found, corrected, strict=True):
        known = (100 * one.difference, 100 * one.low, 100 * one.high, one.p, p_holm)
        assert tuple(row[name] for name in COLUMNS[4:9]) == pytest.approx(known)
        assert row["mcnemar_p"] == pytest.approx(mcnemar_over_seeds(right[row["head"]], right["last"]))
        assert (row["baseline"], row["rows"]) == ("last", 400)
    assert table["seeds"].to_list() == [3, 3, 2]
    assert table["better"].to_list() == [None, True, False]


def test_paired_seeds_are_passed_on(right: dict[str, np.ndarray]) -> None:
    three = {name: of_head for name, of_head in right.items() if name != "mean"}
    table = compare_accuracy(three, ["last"], paired_seeds=True)
    found = [difference(of_rows(three[n]), of_rows(three["last"]), paired_seeds=True) for n in table["head"]]
    assert table["p"].to_list() == pytest.approx([one.p for one in found])
    assert table["p"].to_list() != compare_accuracy(three, ["last"])["p"].to_list()


def test_better_is_said_after_the_correction() -> None:
    """One head that is significant by itself is not so any more among five."""
    generator = np.random.default_rng(1)
    base = generator.random((1, 200)) < 0.5
    ahead = base.copy()
    ahead[0, np.flatnonzero(~base[0])[:6]] = True
    alone = compare_accuracy({"last": base, "mlp": ahead}, ["last"])
    assert alone["better"].to_list() == [True]
    among = {f"other {i}": base ^ (generator.random((1, 200)) < 0.05) for i in range(4)}
    table = compare_accuracy({"last": base, "mlp": ahead, **among}, ["last"])
    assert table.row(0, named=True)["p"] == alone["p"][0] < 0.05 < table["p_holm"][0]
    assert table["better"].to_list() == [None] * 5


def test_a_baseline_alone_makes_an_empty_table(right: dict[str, np.ndarray]) -> None:
    table = compare_accuracy({"last": right["last"]}, ["last"])
    assert table.columns == COLUMNS
    assert len(table) == 0


def error_of(predicted: np.ndarray, y: np.ndarray) -> float:
    return -float(np.abs(predicted - y).mean())


def test_any_figure() -> None:
    generator = np.random.default_rng(2)
    y = generator.standard_normal(150)
    predicted = {name: y + s * generator.standard_normal((3, 150)) for name, s in (("last", 1.0), ("mlp", 0.5))}
    table = compare_figure(predicted, y, error_of, ["last"], resamples=100, seed=7)
    found = difference(*(of_figure(predicted[n], y, error_of, resamples=100, seed=7) for n in ("mlp", "last")))
    assert table.columns == COLUMNS
    assert table.row(0)[4:8] == pytest.approx((100 * found.difference, 100 * found.low, 100 * found.high, found.p))
    assert table.row(0, named=True)["mcnemar_p"] is None
    assert table["better"].to_list() == [True]
    again = compare_figure(predicted, y, error_of, ["last"], resamples=100, seed=7)
    assert table.equals(again)


def test_more_baselines_cost_no_more_figures() -> None:
    y = np.arange(50.0)
    noise = np.random.default_rng(0)
    predicted = {name: y + noise.normal(size=(2, 50)) for name in ("last", "mlp", "set")}
    calls = [0]

    def counted(some: Any, targets: Any) -> float:
        calls[0] += 1
        return float(np.abs(some - targets).mean())

    tables = [compare_figure(predicted, y, counted, [one], resamples=20) for one in ("last", "mlp")]
    apart, calls[0] = calls[0], 0
    both = compare_figure(predicted, y, counted, ["last", "mlp"], resamples=20)
    assert both.equals(pl.concat(tables))
    assert calls[0] == apart / 2


def test_a_figure_of_labels_has_mcnemars_test_too(right: dict[str, np.ndarray]) -> None:
    y = np.ones(400)
    predicted = {name: of_head.astype(float) for name, of_head in right.items()}
    table = compare_figure(predicted, y, error_of, ["last"], right, resamples=300)
    known = compare_accuracy(right, ["last"])
    assert table["mcnemar_p"].to_list() == known["mcnemar_p"].to_list()
    assert table["difference_points"].to_list() == pytest.approx(known["difference_points"].to_list())
    assert table["low_points"].to_list() == pytest.approx(known["low_points"].to_list(), rel=0.2)


def refused(right: dict[str, Any], baseline: str) -> str:
    with pytest.raises(UserError) as caught:
        compare_accuracy(right, [baseline])
    return str(caught.value)


def test_a_baseline_that_is_no_head(right: dict[str, np.ndarray]) -> None:
    assert refused(right, "weigthed") == (
        "baseline 'weigthed'\n  expected: one of last, mlp, weighted, mean\n  found:    no head 'weigthed'\n"
        "  next:     did you mean 'weighted'?"
    )
    assert "choose one of the heads above" in refused(right, "zzz")
    assert "one of the heads, and there are none" in refused({}, "last")


def test_a_head_on_other_examples(right: dict[str, np.ndarray]) -> None:
    assert refused(right | {"mlp": right["mlp"][:, 1:]}, "last") == (
        "head 'mlp'\n  expected: predictions of 400 examples\n  found:    399\n"
        "  next:     evaluate the heads again, all on the same examples"
    )


def test_the_head_that_is_not_finite_is_named(right: dict[str, np.ndarray]) -> None:
    scores = {name: of_head.astype(float) for name, of_head in right.items()}
    scores["mlp"][1, 2] = np.nan
    with pytest.raises(UserError, match="head 'mlp'\n  expected: finite numbers"):
        compare_figure(scores, np.ones(400), error_of, ["last"])
