"""What the report recommends: a control that wins, a head that earns its place, and the simpler one where they tie."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tests.trainer.report.made_up import set_head, write_everything
from trainer.report.evaluation import read_results
from trainer.report.recommendation import Recommendation, model_size, recommended

Outcomes = dict[str, bool | None]


def advise(folder: Path, over_last: Outcomes, over_chosen: Outcomes, chosen: str = "cayley") -> Recommendation:
    """The recommendation where these heads and controls are better (or worse) than `last` and than the chosen one."""
    results = write_everything(folder, chosen=chosen)[0] if not (folder / "results").exists() else folder / "results"
    rows = [
        {
            "head": head, "baseline": baseline, "seeds": 5, "rows": 445, "difference_points": sign * 2.0,
            "low_points": sign * 2.0 - 1.5, "high_points": sign * 2.0 + 1.5, "p": 0.01, "p_holm": 0.04,
            "mcnemar_p": None, "better": better,
        }
        for baseline, outcomes in {"last": over_last, chosen: over_chosen}.items()
        for head, better in outcomes.items()
        if (sign := 1 if better else -1)
    ]  # fmt: skip
    pl.DataFrame(rows, infer_schema_length=None).write_csv(results / "comparison.csv")
    return recommended(read_results(results))


WINS: Outcomes = {"last": False, "words": False, "majority": False}


def test_a_head_that_beats_the_last_layer_and_the_controls_is_recommended(tmp_path: Path) -> None:
    found = advise(tmp_path, {"cayley": True}, WINS)
    assert found.sentence == "Use the head cayley: it beats the last layer and all simpler controls significantly."
    assert (found.head, found.control, found.notes) == ("cayley", False, [])
    assert found.details == ["cayley: graph encoder, layers on a Cayley graph of SL(2, Z_n)."]


def test_a_control_that_ties_is_recommended_since_it_is_simpler(tmp_path: Path) -> None:
    found = advise(tmp_path, {"cayley": True}, WINS | {"words": None})
    assert found.sentence == (
        "Use a linear model on words (words): the chosen head, cayley, does not beat it significantly."
    )
    assert found.control
    assert found.details == [
        "It needs no language model.",
        "Difference on test, cayley minus words: +2.0 points (95\u00a0% interval +0.5 to +3.5).",
    ]


def test_a_control_that_is_significantly_better_wins(tmp_path: Path) -> None:
    found = advise(tmp_path, {"cayley": True}, WINS | {"words": True})
    assert found.sentence == "Use a linear model on words (words): it beats the chosen head, cayley, significantly."
    assert "cayley minus words: −2.0 points (95\u00a0% interval −3.5 to −0.5)." in found.details[-1]


def test_the_last_layer_is_recommended_where_no_head_beats_it(tmp_path: Path) -> None:
    found = advise(tmp_path, {"cayley": None, "fc": None}, {"last": None, "words": False, "majority": False})
    assert found.sentence == "Use a linear probe on the last layer (last): no head beats it significantly."
    assert not found.control
    found = advise(tmp_path, {"cayley": None, "fc": True}, {"last": None, "words": False, "majority": False})
    assert found.reason == "the chosen head, cayley, does not beat it significantly"


def test_the_last_layer_is_judged_as_the_verdict_has_it(tmp_path: Path) -> None:
    """Against `last` the corrected p is below 0.05, against the chosen head, with more heads to compare, it is not."""
    assert advise(tmp_path, {"cayley": True}, WINS | {"last": None}).head == "cayley"


def test_where_words_and_the_last_layer_tie_the_one_without_a_model_is_recommended(tmp_path: Path) -> None:
    assert advise(tmp_path, {"cayley": None}, {"last": None, "words": None, "majority": False}).head == "words"


def test_a_head_no_better_than_guessing_is_not_recommended(tmp_path: Path) -> None:
    found = advise(tmp_path, {"cayley": None}, WINS | {"majority": None})
    assert found.sentence == (
        "Use none of these heads: the chosen head, cayley, is not significantly better than guessing from the labels’ "
        "frequencies."
    )


def test_the_last_layer_chosen(tmp_path: Path) -> None:
    outcomes: Outcomes = {"cayley": None, "words": False, "majority": False}
    found = advise(tmp_path, {}, outcomes, chosen="last")
    assert found.reason == "it was chosen on validation, and no head beats it significantly"


def controls(folder: Path, **changes: object) -> Path:
    """Results whose control `words` is another one: on a cache, with these figures."""
    results = write_everything(folder)[0]
    for name in ("leaderboard.csv", "runs.csv"):
        table = pl.read_csv(results / name, infer_schema=False)
        table.with_columns(pl.col("head").replace("words", "minilm")).write_csv(results / name)
    set_head(results, "minilm", summary="minilm: linear model on layer 'final'", **changes)
    return results


@pytest.mark.parametrize(
    ("parameters", "share", "recommended_head"),
    [
        (2_000, 2_000 / 23_000_000 * 100, "minilm"),  # a smaller model
        (2_000, 2_000 / 134_515_008 * 100, "minilm"),  # the same one, and fewer parameters
        (400_000, 400_000 / 134_515_008 * 100, "cayley"),  # the same one, and more
        (2_000, 2_000 / 500_000_000 * 100, "cayley"),  # a larger model
    ],
)
def test_a_tie_goes_to_what_is_simpler(tmp_path: Path, parameters: int, share: float, recommended_head: str) -> None:
    controls(tmp_path, parameters=parameters, share_percent=share)
    found = advise(tmp_path, {"cayley": True}, {"last": False, "minilm": None, "majority": False})
    assert found.head == recommended_head
    if found.head == "minilm":
        assert found.details[0] == "minilm: linear model on layer 'final'."
        smaller = "Its model has 23\u00a0M parameters instead of 135\u00a0M."
        assert (smaller in found.details) == (parameters / share * 100 < 100e6)


def test_fine_tuning_is_never_simpler(tmp_path: Path) -> None:
    results = controls(tmp_path, parameters=2_000, share_percent=0.001)
    for name in ("leaderboard.csv", "runs.csv"):
        table = pl.read_csv(results / name, infer_schema=False)
        table.with_columns(pl.col("head").replace("minilm", "lora")).write_csv(results / name)
    outcomes: Outcomes = {"last": False, "lora": None, "majority": False}
    assert advise(tmp_path, {"cayley": True}, outcomes).head == "cayley"
    assert advise(tmp_path, {"cayley": True}, outcomes | {"lora": True}).head == "lora"


def test_a_control_ahead_on_test_is_named_though_it_is_not_recommended(tmp_path: Path) -> None:
    controls(tmp_path, parameters=2_000, share_percent=0.0001, test_low=0.9, test_score=0.91, test_high=0.92)
    found = advise(tmp_path, {"cayley": True}, {"last": False, "minilm": None, "majority": False})
    assert found.head == "cayley"
    (note,) = found.notes
    assert note.startswith("The control minilm is ahead of the chosen head, cayley, on test: 91.0\u00a0% against 8")
    assert note.endswith("(not significantly).")


def test_without_a_comparison_scores_are_all_there_is(tmp_path: Path) -> None:
    results = write_everything(tmp_path)[0]
    (results / "comparison.csv").unlink()
    found = recommended(read_results(results))
    assert found.reason.endswith("whether it beats the last layer significantly was not tested")
    set_head(results, "words", test_low=0.99, test_score=0.99, test_high=0.99)
    found = recommended(read_results(results))
    assert found.head == "words"
    assert found.details[-1].endswith("points, not tested.")


def test_a_model_s_size_follows_from_the_share() -> None:
    row = {"head": "fc", "control": False, "parameters": 500, "share_percent": 0.05}
    assert model_size(row) == pytest.approx(1_000_000)
    assert model_size(row | {"share_percent": None}) is None
    assert model_size({"head": "words", "control": True, "parameters": 5, "share_percent": None}) == 0
