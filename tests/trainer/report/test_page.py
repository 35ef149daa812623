"""The page's figures, sentences and errors, on a made-up evaluation."""

from __future__ import annotations

import json
import re
from pathlib import Path

import polars as pl
import pytest

from ilse.core.errors import UserError
from tests.trainer.report.made_up import (
    HOSTILE,
    TEST_ROWS,
    edit,
    page_of,
    set_head,
    words,
    write_everything,
    write_results,
)
from trainer.report import report
from trainer.report.evaluation import read_results
from trainer.report.findings import ties
from trainer.results.intervals import wilson


def test_every_figure_of_the_leaderboard_is_on_the_page(tmp_path: Path) -> None:
    text = words(page_of(tmp_path))
    for row in pl.read_csv(tmp_path / "results" / "leaderboard.csv").to_dicts():
        assert f"{row['head']}{'chosen' if row['chosen'] else ''}{row['summary']}" in text
        for split in ("val", "test"):
            low, high = row[f"{split}_low"], row[f"{split}_high"]
            assert f"{100 * row[f'{split}_score']:.1f} {100 * low:.1f}–{100 * high:.1f}" in text
        assert f"{row['parameters']:,}" in text


def test_the_first_sentence_names_head_accuracy_range_and_gain(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    best = pl.read_csv(tmp_path / "results" / "leaderboard.csv").row(0, named=True)
    heading = words(re.search(r"<h1>.*?</h1>", page, re.DOTALL).group())  # type: ignore[union-attr]
    assert heading == (
        f"cayley, the head chosen on validation, has {100 * best['test_score']:.1f} % accuracy on test "
        f"({100 * best['test_low']:.1f}–{100 * best['test_high']:.1f} % over 5 seeds), "
        f"{best['gain_points']:.1f} points better than the last layer alone."
    )


@pytest.mark.parametrize(
    ("gain", "sentence"),
    [
        (-1.234, ", 1.2 points worse than the last layer alone."),
        (0.04, ", no better than the last layer alone."),
        (-0.04, ", no better than the last layer alone."),
    ],
)
def test_a_head_that_gains_nothing_is_said_to_gain_nothing(tmp_path: Path, gain: float, sentence: str) -> None:
    results, facts = write_results(tmp_path)
    set_head(results, "cayley", gain_points=gain)
    assert sentence in words(report(results, facts, tmp_path / "r.html").read_text())


def test_without_last_the_gain_is_unknown(tmp_path: Path) -> None:
    results, facts = write_results(tmp_path)
    board = pl.read_csv(results / "leaderboard.csv").filter(pl.col("head") != "last")
    board.with_columns(gain_points=pl.lit(None, pl.Float64)).write_csv(results / "leaderboard.csv")
    text = words(report(results, facts, tmp_path / "r.html").read_text())
    assert "; how the last layer alone does was not measured." in text
    assert "The last layer alone (" not in text


def test_last_itself_chosen(tmp_path: Path) -> None:
    text = words(page_of(tmp_path, chosen="last"))
    assert "no head over more layers did better on validation than this one, the last layer alone." in text
    assert "came out higher on test" in text


def test_a_simpler_head_whose_range_meets_the_chosen_ones_ties(tmp_path: Path) -> None:
    results, facts = write_results(tmp_path)
    set_head(results, "cayley", test_low=0.85, test_score=0.86, test_high=0.87)
    for head in ("fc", "set", "weighted", "mean", "mlp", "best", "last"):
        set_head(results, head, test_low=0.70, test_score=0.75, test_high=0.80)
    assert ties(read_results(results)) == []
    assert "No head with fewer parameters reaches" in words(report(results, facts, tmp_path / "r.html").read_text())
    set_head(results, "mean", test_high=0.85)
    assert [row["head"] for row in ties(read_results(results))] == ["mean"]
    text = words(report(results, facts, tmp_path / "r.html").read_text())
    assert "This simpler head ties with it, their ranges over seeds overlap on test: mean (2,885 parameters," in text


def test_a_comparison_with_the_chosen_head_settles_ties_in_place_of_ranges(tmp_path: Path) -> None:
    results, facts, _ = write_everything(tmp_path)
    table = pl.read_csv(results / "comparison.csv", infer_schema=False)
    alike = {"mean": "", "mlp": "true"}
    others = pl.concat([table.filter(pl.col("head") != "cayley"), table.head(1).with_columns(head=pl.lit("last"))])
    with_chosen = others.with_columns(
        pl.lit("cayley").alias("baseline"), pl.col("head").replace_strict(alike, default="false").alias("better")
    )
    pl.concat([table, with_chosen]).write_csv(results / "comparison.csv")
    assert [row["head"] for row in ties(read_results(results))] == ["mean"]
    text = words(report(results, facts, tmp_path / "r.html").read_text())
    assert "the test split does not tell them apart (Holm-corrected p of 0.05 or more): mean (2,885 parameters," in text
    pl.concat([table, with_chosen.with_columns(better=pl.lit("false"))]).write_csv(results / "comparison.csv")
    assert "The test split tells every head with fewer parameters from it." in words(
        report(results, facts, tmp_path / "r.html").read_text()
    )


def test_one_seed_leaves_ties_open(tmp_path: Path) -> None:
    text = words(page_of(tmp_path, seeds=1))
    assert "(one seed)" in text
    assert "whether a simpler head does as well is not known" in text


def test_cayley_losing_is_said(tmp_path: Path) -> None:
    text = words(page_of(tmp_path, chosen="mean"))
    assert re.search(r"cayley was not chosen: it is number 2 of 8 on validation and has 8\d\.\d % on test,", text)
    assert "cayley was not chosen" not in words(page_of(tmp_path / "wins"))


def test_the_interval_is_wilsons(tmp_path: Path) -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I: 81/263 and 15/148, score method without correction.
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15 / 148, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    set_to = 383 / TEST_ROWS
    results, facts = write_results(tmp_path)
    set_head(results, "cayley", test_score=set_to)
    low, high = wilson(set_to, TEST_ROWS)
    text = words(report(results, facts, tmp_path / "r.html").read_text())
    assert "445 rows, so one row is 0.22 points and the 95 % Wilson interval of" in text
    assert f"this figure is {100 * low:.1f}–{100 * high:.1f} %. The last layer alone (" in text
    near = pl.read_csv(results / "leaderboard.csv").filter(pl.col("test_score").is_between(low, high)).height - 1
    assert f" lies outside it. {near} of the other 7 heads lie inside, so this" in text


def test_a_hostile_label_stays_text(tmp_path: Path) -> None:
    names = [HOSTILE, "<img src=x onerror=alert(2)>", "'\"]}&", "", "NA"]
    page = page_of(tmp_path, labels=names)
    assert HOSTILE not in page
    assert "<img src=x" not in page
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page, flags=re.DOTALL)
    assert sum("application/json" not in attributes for attributes, _ in scripts) == 3
    specs = [json.loads(body) for attributes, body in scripts if "application/json" in attributes]
    assert any(HOSTILE in json.dumps(spec) for spec in specs), "the label must reach the chart unharmed"


def test_the_page_names_no_address_to_load(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    outside = re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)
    assert "http" not in outside.replace("http-equiv", "")
    assert re.findall(r"(?:src|href)=\"(?!#)([^\"]*)", outside) == ["data:,"]
    assert "url(" not in outside
    assert len(page) < 2_000_000


def test_equal_inputs_give_equal_bytes_and_nothing_else_is_left(tmp_path: Path) -> None:
    results, facts = write_results(tmp_path)
    out = tmp_path / "pages" / "report.html"
    assert report(results, facts, out) == out
    first = out.read_bytes()
    report(results, facts, out)
    assert out.read_bytes() == first
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]


@pytest.mark.parametrize("name", ["leaderboard.csv", "runs.csv", "confusion.csv", "metrics.json"])
def test_a_missing_file_names_its_stage(tmp_path: Path, name: str) -> None:
    results, facts = write_results(tmp_path)
    (results / name).unlink()
    with pytest.raises(UserError, match=rf"{name}(?s:.*)no such file(?s:.*)run 'ilse evaluate' first"):
        report(results, facts, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("name", "heading", "reason"),
    [
        (
            "layers.csv",
            "Accuracy of each single layer",
            "layers.csv is missing or empty. It has rows when the head ‘best’",
        ),
        (
            "weights.csv",
            "Learned layer weights",
            "weights.csv is missing or empty. It has rows when a head that learns",
        ),
        ("curves", "Training", "the folder curves is missing or empty. The stage ‘ilse train’ writes it."),
        ("extract", "The run", "the figures of ‘ilse extract’ are missing. Run that stage"),
    ],
)
def test_a_file_that_may_be_missing_is_explained(tmp_path: Path, name: str, heading: str, reason: str) -> None:
    results, facts = write_results(tmp_path)
    assert reason not in words(report(results, facts, tmp_path / "r.html").read_text())
    for path in [facts["extract"]] if name == "extract" else [*results.glob(f"{name}/*"), results / name]:
        path.rmdir() if path.is_dir() else path.unlink()
    text = words(report(results, facts, tmp_path / "r.html").read_text())
    assert heading in text
    assert reason in text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("runs.csv", "", "columns head, seed"),
        ("runs.csv", "head,seed\nmean,0\n", "best_epoch"),
        ("confusion.csv", "actual,predicted\n", "only a header"),
        ("weights.csv", "head,layer,name,weight,low,high\nweighted,0,final,heavy,0,1\n", "heavy"),
        ("metrics.json", "{", "figures of 'ilse evaluate'"),
        ("metrics.json", '{"chosen": {}}', "chosen.head: Field required"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    results, facts = write_results(tmp_path)
    (results / name).write_text(text)
    with pytest.raises(UserError, match=rf"{name}(?s:.*){re.escape(message)}(?s:.*)run the stage that writes it again"):
        report(results, facts, tmp_path / "r.html")


def test_files_of_two_runs_are_refused(tmp_path: Path) -> None:
    results, facts = write_results(tmp_path)
    set_head(results, "cayley", chosen="false")
    set_head(results, "mean", chosen="True")
    with pytest.raises(UserError, match=r"leaderboard\.csv chooses mean, metrics\.json cayley"):
        report(results, facts, tmp_path / "r.html")


def test_losses_that_json_cannot_hold_do_not_break_the_page(tmp_path: Path) -> None:
    results, facts = write_results(tmp_path)
    diverged = pl.lit("nan"), pl.lit("inf")
    edit(results / "curves" / "fc.csv", train_loss=diverged[0], val_loss=diverged[1])
    page = report(results, facts, tmp_path / "r.html").read_text()
    specs = re.findall(r"<script type=\"application/json\"[^>]*>(.*?)</script>", page, flags=re.DOTALL)
    assert all("NaN" not in spec and "Infinity" not in spec for spec in specs)


def test_a_curve_of_a_head_no_longer_compared_changes_nothing(tmp_path: Path) -> None:
    results, facts = write_results(tmp_path)
    before = report(results, facts, tmp_path / "r.html").read_bytes()
    old = (results / "curves" / "fc.csv").read_text().replace("fc,", "dropped,").replace(",0.", ",2.")
    (results / "curves" / "dropped.csv").write_text(old)
    assert report(results, facts, tmp_path / "r.html").read_bytes() == before


def page_with(folder: Path, name: str, **columns: pl.Expr) -> str:
    """The text of a page with every table, of which one is edited first."""
    results, facts, texts = write_everything(folder)
    if columns:
        edit(results / name, **columns)
    return words(report(results, facts, folder / "r.html", texts).read_text())


def of(head: str, column: str, value: object) -> pl.Expr:
    return pl.when(pl.col("head") == head).then(pl.lit(str(value))).otherwise(pl.col(column))


def test_with_a_comparison_the_first_sentence_gives_intervals_and_the_corrected_p(tmp_path: Path) -> None:
    results, facts, _ = write_everything(tmp_path)
    best = pl.read_csv(results / "leaderboard.csv").row(0, named=True)
    low, high = wilson(best["test_score"], TEST_ROWS)
    page = report(results, facts, tmp_path / "r.html").read_text()
    heading = words(re.search(r"<h1>.*?</h1>", page, re.DOTALL).group())  # type: ignore[union-attr]
    gain = best["gain_points"]
    assert heading == (
        f"cayley, the head chosen on validation, has {100 * best['test_score']:.1f} % accuracy on test (95 % interval "
        f"{100 * low:.1f}–{100 * high:.1f} %), {gain:+.1f} points over last (95 % interval {gain - 2.9:+.1f} to "
        f"{gain + 2.8:+.1f}, Holm-corrected p = 0.001)."
    )
    assert "The interval of the difference contains 0" not in words(page)


def test_an_interval_that_contains_0_is_said_plainly(tmp_path: Path) -> None:
    text = page_with(tmp_path, "comparison.csv", low_points=of("cayley", "low_points", -0.4))
    assert "The interval of the difference contains 0: on this test split it is open whether cayley is better" in text


def test_a_difference_that_correction_takes_away_is_said_plainly(tmp_path: Path) -> None:
    text = page_with(tmp_path, "comparison.csv", p_holm=of("cayley", "p_holm", 0.21))
    assert "Corrected for the number of heads compared, the difference could be chance (p = 0.210)." in text


def test_a_tie_stands_right_below_the_first_sentence(tmp_path: Path) -> None:
    results, facts, _ = write_everything(tmp_path)
    set_head(results, "cayley", test_low=0.80)
    page = report(results, facts, tmp_path / "r.html").read_text()
    tied = [row["head"] for row in ties(read_results(results))]
    assert len(tied) > 1
    assert f"{len(tied)} simpler heads tie with it: {', '.join(tied)}." in words(page[: page.index("<dl")])


def test_without_a_comparison_the_page_says_so(tmp_path: Path) -> None:
    text = words(page_of(tmp_path))
    assert "without comparison.csv no interval of a difference is known" in text
    assert "Not here: comparison.csv is missing or empty." in text


def test_controls_are_marked_and_no_tie(tmp_path: Path) -> None:
    results, facts, _ = write_everything(tmp_path)
    set_head(results, "words", test_low=0.80, test_score=0.99, test_high=0.99, parameters=5)
    text = words(report(results, facts, tmp_path / "r.html").read_text())
    assert "wordscontrolbag of words" in text
    assert "The one with the highest figure on test, words, has 99.0 %" in text
    assert "words" not in {row["head"] for row in ties(read_results(results))}
    assert "words (99.0 %) came out higher" not in text


def test_a_control_is_never_the_chosen_head(tmp_path: Path) -> None:
    results, facts, _ = write_everything(tmp_path)
    set_head(results, "cayley", control="true")
    with pytest.raises(UserError, match=r"leaderboard\.csv(?s:.*)a chosen head that is no control(?s:.*)cayley"):
        report(results, facts, tmp_path / "r.html")


def test_a_control_far_below_is_named_and_not_drawn(tmp_path: Path) -> None:
    text = page_with(tmp_path, "")
    assert text.count("Too far below to be drawn, and in the table: majority (22.9 %).") == 3


def test_what_the_layers_did_is_shown_or_how_to_make_it_said(tmp_path: Path) -> None:
    with_tables = page_with(tmp_path / "with", "")
    without = words(page_of(tmp_path / "without"))
    for name in ("leave_one_out", "attribution", "inputs", "cka", "classes"):
        absent = f"analysis/{name}.csv is missing or empty. ‘ilse analyse’ makes it."
        assert absent in without
        assert absent not in with_tables
    assert "Points that cayley loses on validation when one layer is left out" in with_tables


def test_calibration_is_shown_with_its_error(tmp_path: Path) -> None:
    text = page_with(tmp_path, "")
    assert "In 10 bins of confidence, cayley has an expected calibration error of 4." in text
    assert "ECE, the expected calibration error on test" in text
    assert "calibration.csv is missing or empty" in words(page_of(tmp_path / "without"))


def test_texts_of_examples_are_shown_escaped_and_short(tmp_path: Path) -> None:
    results, facts, texts = write_everything(tmp_path)
    swapped = [pl.read_parquet(results / "predictions" / f"{name}.parquet") for name in ("last", "cayley")]
    for name, table in zip(("cayley", "last"), swapped, strict=True):
        table.with_columns(text_id=pl.col("text_id").str.replace("^0{31}4$", "0" * 32)).write_parquet(
            results / "predictions" / f"{name}.parquet"
        )
    # row 4 differs between the two heads and now has the hostile text of row 0
    page = report(results, facts, tmp_path / "r.html", texts).read_text()
    assert HOSTILE not in page
    quoted = [words(quote) for quote in re.findall(r"<blockquote>.*?</blockquote>", page, re.DOTALL)]
    hostile = next(quote for quote in quoted if quote.startswith(HOSTILE))
    assert len(hostile) <= 300
    assert hostile.endswith("…")


def test_the_graph_is_drawn_where_cayley_is_compared(tmp_path: Path) -> None:
    assert "Cayley graph of SL(2, Z_4): 48 vertices and 96 edges; 31 vertices are layers, 17 are virtual." in page_with(
        tmp_path / "with", ""
    )
    results, facts = write_results(tmp_path, chosen="mean")
    for name in ("leaderboard.csv", "runs.csv"):
        pl.read_csv(results / name).filter(pl.col("head") != "cayley").write_csv(results / name)
    assert "The layer graph" not in words(report(results, facts, tmp_path / "r.html").read_text())


def test_the_whole_page_is_small_and_the_same_each_time(tmp_path: Path) -> None:
    results, facts, texts = write_everything(tmp_path)
    first = report(results, facts, tmp_path / "r.html", texts).read_bytes()
    assert report(results, facts, tmp_path / "r.html", texts).read_bytes() == first
    assert len(first) < 5_000_000
