"""The tables against NumPy, and their order."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.controls import CONTROLS
from trainer.heads import HEADS
from trainer.objectives import MultiClass
from trainer.results.leaderboard import Run, as_text, layer_table, leaderboard, metrics, runs_table, weight_table


def run(head: str = "last", seed: int = 0, **values: Any) -> Run:
    facts: dict[str, Any] = {
        "best_epoch": 3, "val_score": 0.5, "val_loss": 1.0, "test_score": 0.5, "parameters": 10,
        "model_parameters": 1000, "train_seconds": 1.0, "layer_names": ["embeddings", "block 0"],
        "layers_scored": [0, 1],
        "layer_scores": None, "layer_weights": None,
    }  # fmt: skip
    return Run(head=head, seed=seed, **{**facts, **values})


FIGURES = st.fixed_dictionaries({
    "head": st.sampled_from(list(HEADS)), "val_score": st.floats(0, 1), "test_score": st.floats(0, 1),
    "val_loss": st.floats(0, 9), "train_seconds": st.floats(0, 99),
})  # fmt: skip
DRAWN = st.lists(FIGURES, min_size=1)


def runs_of(drawn: list[dict[str, Any]]) -> list[Run]:
    return [run(seed=seed, **figures) for seed, figures in enumerate(drawn)]


@given(drawn=DRAWN)
@settings(deadline=None)
def test_a_row_holds_the_middle_and_the_range_over_the_seeds(drawn: list[dict[str, Any]]) -> None:
    runs = runs_of(drawn)
    table = leaderboard(runs)
    assert table["rank"].to_list() == list(range(1, len(table) + 1))
    assert table["chosen"].to_list() == [True] + [False] * (len(table) - 1)
    assert set(table["head"]) == {one.head for one in runs}
    last = [one.test_score for one in runs if one.head == "last"]
    for row in table.iter_rows(named=True):
        same = [one for one in runs if one.head == row["head"]]
        assert row["seeds"] == len(same)
        for split, middle in (("val", np.median), ("test", np.mean)):
            values = [getattr(one, f"{split}_score") for one in same]
            found = [row[f"{split}_{name}"] for name in ("score", "low", "high")]
            assert found == pytest.approx([middle(values), np.min(values), np.max(values)])
            assert found[1] <= found[0] <= found[2]
        assert row["train_seconds"] == pytest.approx(np.median([one.train_seconds for one in same]))
        assert row["share_percent"] == pytest.approx(1.0)
        assert row["summary"] == HEADS[row["head"]].summary
        if last:
            assert row["gain_points"] == pytest.approx(100 * (row["test_score"] - np.mean(last)))
        else:
            assert row["gain_points"] is None


@given(drawn=DRAWN, seed=st.integers(0, 9))
@settings(deadline=None)
def test_test_figures_order_nothing(drawn: list[dict[str, Any]], seed: int) -> None:
    runs = runs_of(drawn)
    shuffled = np.random.default_rng(seed).permutation([one.test_score for one in runs])
    others = [
        Run(**{**vars(one), "test_score": float(test)}) for one, test in zip(runs, shuffled, strict=True)
    ]  # fmt: skip
    kept = ["rank", "head", "chosen", "val_score", "val_low", "val_high"]
    assert leaderboard(runs).select(kept).equals(leaderboard(others).select(kept))


def test_ties_go_to_the_lower_loss_then_to_fewer_parameters() -> None:
    runs = [
        run("fc", val_score=0.7, val_loss=0.1, test_score=1.0),
        run("mlp", val_score=0.8, val_loss=0.9, parameters=5),
        run("last", val_score=0.8, val_loss=0.5, parameters=7),
        run("mean", val_score=0.8, val_loss=0.5, parameters=6),
    ]
    for order in (runs, runs[::-1]):
        assert leaderboard(order)["head"].to_list() == ["mean", "last", "mlp", "fc"]


def test_the_gain_is_empty_without_last() -> None:
    table = leaderboard([run("mean"), run("fc")])
    assert table["gain_points"].to_list() == [None, None]
    assert metrics(table, MultiClass(("a",)), ("a",), {})["chosen"]["gain_over_last_points"] is None
    assert "None" not in as_text(table, "accuracy")
    assert pl.read_csv(table.write_csv().encode())["gain_points"].to_list() == [None, None]


@pytest.mark.parametrize("parameters", [1, 99_999_999, 100_000_000, 123_456_789_012])
@pytest.mark.parametrize("seconds", [0.0, 99_999.96, 9_999_999.0])
@pytest.mark.parametrize("test", [0.0, 1.0])
def test_the_text_fits_a_terminal(parameters: int, seconds: float, test: float) -> None:
    heads = [
        run(head, s, parameters=parameters, train_seconds=seconds, test_score=test if head == "last" else 1 - test)
        for head in HEADS
        for s in range(10 if head == "last" else 100)
    ]
    lines = as_text(leaderboard(heads), "spearman").splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) == len(HEADS) + 3
    assert {len(line) for line in lines[:-2]} == {77}
    assert all(len(line.split()) == 9 for line in lines[1:-2])
    assert "10 to 100 seeds" in lines[-2]
    assert lines[-1] == "Of several seeds: the median on validation, the mean on test."


def test_the_text_says_what_the_table_says() -> None:
    text = as_text(
        leaderboard([run("last", test_score=0.5), run("cayley", test_score=0.625, parameters=12345)]), "accuracy"
    )
    assert text.splitlines()[2].split() == ["cayley", "50.0", "62.5", "62.5", "to", "62.5", "+12.5", "12,345", "1.0"]
    assert "Accuracy in %, 1 seed; gain: points over 'last'." in text


def control(name: str, **values: Any) -> Run:
    return run(name, control="a control", best_epoch=None, val_loss=None, model_parameters=0, **values)


def test_a_control_has_its_rank_and_the_best_head_is_chosen() -> None:
    runs = [control("words", val_score=0.9), run("last", val_score=0.8), run("mean", val_score=0.7)]
    for order in (runs, runs[::-1]):
        table = leaderboard(order)
        assert table.select("rank", "head", "control", "chosen").rows() == [
            (1, "words", True, False), (2, "last", False, True), (3, "mean", False, False),
        ]  # fmt: skip
        assert table["share_percent"].to_list() == pytest.approx([None, 1.0, 1.0])
        assert table["summary"][0] == "a control"
        found = metrics(table, MultiClass(("a", "b")), ("a", "b"), {})
        assert (found["chosen"]["head"], list(found["heads"]), list(found["controls"])) == (
            "last", ["last", "mean"], ["words"],
        )  # fmt: skip


def test_a_tie_goes_to_what_tells_its_loss() -> None:
    runs = [control("words"), run("last", parameters=99), control("majority", parameters=1)]
    assert leaderboard(runs)["head"].to_list() == ["last", "majority", "words"]


def test_the_text_with_our_controls_fits_a_terminal_too() -> None:
    lines = as_text(leaderboard([run("last"), *(control(name) for name in CONTROLS)]), "accuracy").splitlines()
    assert max(map(len, lines)) <= 80
    assert len({len(line) for line in lines[:6]}) == 1
    assert lines[-1].startswith("Controls, never chosen: ")


def test_layers_come_from_the_probes_alone() -> None:
    runs = [run("last"), run("best", 0, layer_scores=[0.1, 0.5]), run("best", 1, layer_scores=[0.3, 0.6])]
    table = layer_table(runs)
    assert table.columns == ["layer", "name", "val_score", "val_low", "val_high"]
    assert table.rows() == [(0, "embeddings", 0.2, 0.1, 0.3), (1, "block 0", 0.55, 0.5, 0.6)]
    assert layer_table([run("last")]).is_empty()


def test_weights_come_from_the_heads_that_learn_them() -> None:
    runs = [
        run("last"), run("weighted", 0, layer_weights=[0.25, 0.75]), run("weighted", 1, layer_weights=[0.75, 0.25]),
        run("mlp", 0, layer_weights=[1.0, 0.0]),
    ]  # fmt: skip
    table = weight_table(runs)
    assert table.columns == ["head", "layer", "name", "weight", "low", "high"]
    assert table.rows() == [
        ("weighted", 0, "embeddings", 0.5, 0.25, 0.75),
        ("weighted", 1, "block 0", 0.5, 0.25, 0.75),
        ("mlp", 0, "embeddings", 1.0, 1.0, 1.0),
        ("mlp", 1, "block 0", 0.0, 0.0, 0.0),
    ]
    assert weight_table([run("last")]).is_empty()


def test_runs_are_listed_one_by_one() -> None:
    table = runs_table([run("last", 0), run("last", 1, val_score=0.25)])
    assert table["seed"].to_list() == [0, 1]
    assert table["val_score"].to_list() == [0.5, 0.25]


def test_the_metric_holds_what_the_table_says() -> None:
    table = leaderboard([run("last"), run("fc", val_score=0.75, test_score=0.25)])
    found = metrics(table, MultiClass(("a", "b")), ("a", "b"), {"test_rows": 7})
    assert found["chosen"] == {
        "head": "fc", "val_score": 0.75, "test_score": 0.25, "gain_over_last_points": -25.0,
    }  # fmt: skip
    assert (found["test_rows"], found["labels"], list(found["heads"])) == (7, ["a", "b"], ["fc", "last"])
    assert found["heads"]["last"].keys() == {
        "seeds", "val_score", "val_low", "val_high", "test_score", "test_low", "test_high", "parameters",
        "train_seconds",
    }  # fmt: skip
