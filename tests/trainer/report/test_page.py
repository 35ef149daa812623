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


def tiles(page: str) -> list[str]:
    """The three tiles' text."""
    return [words(tile).strip() for tile in re.findall(r'<div class="tile">.*?</div>', page, re.DOTALL)]


def heading(page: str) -> str:
    return words(re.search(r"<h1>.*?</h1>", page, re.DOTALL).group())  # type: ignore[union-attr]


def test_without_a_comparison_the_tiles_have_score_and_gain_and_no_verdict(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    best = pl.read_csv(tmp_path / "results" / "leaderboard.csv").row(0, named=True)
    low, high = wilson(best["test_score"], TEST_ROWS)
    assert heading(page) == (
        "Use the head cayley: it has the best validation score; whether it beats the last layer significantly was "
        "not tested."
    )
    assert tiles(page) == [
        f"Accuracy on test {100 * best['test_score']:.1f} %cayley, the head chosen on validation; 95 % interval "
        f"{100 * low:.1f}–{100 * high:.1f} %; mean of 5 seeds, {100 * best['test_low']:.1f}–"
        f"{100 * best['test_high']:.1f} %",
        f"Gain over the last layer {best['gain_points']:+.1f} pointsno interval: the heads were not compared",
        "Verdict Not testedThe evaluation has no comparison of heads (comparison.csv).",
    ]


def test_without_last_the_gain_is_unknown(tmp_path: Path) -> None:
    results, facts = write_results(tmp_path)
    board = pl.read_csv(results / "leaderboard.csv").filter(pl.col("head") != "last")
    board.with_columns(gain_points=pl.lit(None, pl.Float64)).write_csv(results / "leaderboard.csv")
    page = report(results, facts, tmp_path / "r.html").read_text()
    assert tiles(page)[1] == "Gain over the last layer –not measured: the head last was not evaluated"
    assert "The score of the last layer alone" not in words(page)


def test_last_itself_chosen(tmp_path: Path) -> None:
    page = page_of(tmp_path, chosen="last")
    assert heading(page) == "Use a linear probe on the last layer (last): it was chosen on validation."
    assert tiles(page)[1:] == [
        "Gain over the last layer –last is the chosen head itself",
        "Verdict No gainThe last layer itself has the best validation score of all heads.",
    ]
    assert "scored higher on test than the chosen head" in words(page)


def test_the_gain_is_one_figure_on_the_whole_page(tmp_path: Path) -> None:
    """Also where the leaderboard has another one, as that of an older version had."""
    results, facts, _ = write_everything(tmp_path)
    gain = dict(pl.read_csv(results / "comparison.csv").select("head", "difference_points").iter_rows())
    set_head(results, "cayley", gain_points=gain["cayley"] + 0.7)
    page = report(results, facts, tmp_path / "r.html").read_text()
    shown = f"{gain['cayley']:+.1f}"
    assert tiles(page)[1].startswith(f"Gain over the last layer {shown} points")
    assert f'<td data-label="Gain" data-value="{gain["cayley"]}">{shown}</td>' in page
    assert f"{gain['cayley'] + 0.7:+.1f}" not in words(page)


@pytest.mark.parametrize(("head", "seed"), [("cayley", 3), ("last", 0)])
def test_the_command_predicts_with_the_best_seed(tmp_path: Path, head: str, seed: int) -> None:
    results, facts = write_results(tmp_path, chosen=head)
    best = (pl.col("head") == head) & (pl.col("seed") == str(seed))
    edit(results / "runs.csv", val_score=pl.when(best).then(pl.lit("0.99")).otherwise("val_score"))
    page = report(results, facts, tmp_path / "r.html").read_text()
    assert f"<pre><code>ilse predict models/{head}/seed-{seed} --input new.txt</code></pre>" in page


def test_a_simpler_head_whose_range_meets_the_chosen_ones_ties(tmp_path: Path) -> None:
    results, facts = write_results(tmp_path)
    set_head(results, "cayley", test_low=0.85, test_score=0.86, test_high=0.87)
    for head in ("fc", "set", "weighted", "mean", "mlp", "best", "last"):
        set_head(results, head, test_low=0.70, test_score=0.75, test_high=0.80)
    assert ties(read_results(results)) == []
    assert "No head with clearly fewer parameters is within its range" in words(
        report(results, facts, tmp_path / "r.html").read_text()
    )
    set_head(results, "mean", test_high=0.85)
    assert [row["head"] for row in ties(read_results(results))] == ["mean"]
    text = words(report(results, facts, tmp_path / "r.html").read_text())
    assert "1 head with fewer parameters is within its range over seeds on test: mean (2,885 parameters," in text


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
    assert (
        "1 head with fewer parameters is not significantly worse (Holm-corrected p of 0.05 or more): mean (2,885"
        in text
    )
    pl.concat([table, with_chosen.with_columns(better=pl.lit("false"))]).write_csv(results / "comparison.csv")
    assert "No head with clearly fewer parameters does as well: each is significantly worse." in words(
        report(results, facts, tmp_path / "r.html").read_text()
    )


def test_one_seed_leaves_ties_open(tmp_path: Path) -> None:
    text = words(page_of(tmp_path, seeds=1))
    assert "; one seed Gain over" in text
    assert "it is not known whether a smaller head does as well" in text


def test_cayley_losing_is_said(tmp_path: Path) -> None:
    text = words(page_of(tmp_path, chosen="mean"))
    assert re.search(r"cayley ranks 2 of 8 on validation and has 8\d\.\d % on test,", text)
    assert "cayley ranks" not in words(page_of(tmp_path / "wins"))


def test_the_interval_is_wilsons(tmp_path: Path) -> None:
    # Newcombe 1998, Statistics in Medicine 17, table I: 81/263 and 15/148, score method without correction.
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15 / 148, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    set_to = 383 / TEST_ROWS
    results, facts = write_results(tmp_path)
    set_head(results, "cayley", test_score=set_to)
    low, high = wilson(set_to, TEST_ROWS)
    text = words(report(results, facts, tmp_path / "r.html").read_text())
    assert "The test set has 445 examples; one example is 0.22 points." in text
    sure = f"{100 * low:.1f}–{100 * high:.1f} %"
    assert f"interval of the chosen head’s accuracy (Wilson) is {sure}. The score of the last layer alone," in text
    near = pl.read_csv(results / "leaderboard.csv").filter(pl.col("test_score").is_between(low, high)).height - 1
    assert f" lies outside it. {near} of the 7 other heads have scores inside it, so this" in text


def test_a_hostile_label_stays_text(tmp_path: Path) -> None:
    names = [HOSTILE, "<img src=x onerror=alert(2)>", "'\"]}&", "", "NA"]
    page = page_of(tmp_path, labels=names)
    assert HOSTILE not in page
    assert "<img src=x" not in page
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page, flags=re.DOTALL)
    assert sum("application/json" not in attributes for attributes, _ in scripts) == 5
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
    ("name", "section", "reason"),
    [
        ("layers.csv", "layers", "Layer profile (layers.csv: train the head ‘best’, which probes every layer)"),
        ("weights.csv", "weights", "Layer weights (weights.csv: train a head that learns layer weights"),
        ("comparison.csv", None, "Differences with intervals (comparison.csv: run ‘ilse evaluate’)"),
        ("calibration.csv", "calibration", "Calibration (calibration.csv"),
        ("analysis/cka.csv", "similarity", "Layer similarity (analysis/cka.csv: run ‘ilse analyse’)"),
        ("analysis", "analysis", "Use of layers (analysis/leave_one_out.csv and others: run ‘ilse analyse’)"),
    ],
)
def test_a_section_with_nothing_to_show_is_left_out_with_its_link(
    tmp_path: Path, name: str, section: str | None, reason: str
) -> None:
    results, facts, texts = write_everything(tmp_path)
    before = report(results, facts, tmp_path / "r.html", texts).read_text()
    assert reason not in words(before)
    for path in [*results.glob(f"{name}/*"), results / name]:
        path.rmdir() if path.is_dir() else path.unlink()
    page = report(results, facts, tmp_path / "r.html", texts).read_text()
    assert reason in words(page)
    if section is not None:
        for trace in (f'href="#{section}"', f'id="{section}"'):
            assert trace in before
            assert trace not in page


def test_every_section_has_a_link_and_something_to_show(tmp_path: Path) -> None:
    for number, (results, facts, texts) in enumerate([
        write_everything(tmp_path / "whole"), (*write_results(tmp_path / "bare"), None)
    ]):  # fmt: skip
        page = report(results, facts, tmp_path / "r.html", texts).read_text()
        links = re.findall(r'<li><a href="#(\w+)">', page)
        sections = re.findall(r'<section aria-labelledby="(\w+)">(.*?)</section>', page, re.DOTALL)
        assert links == [name for name, _ in sections]
        assert len(links) == [16, 10][number]
        for name, body in sections:
            assert f'id="{name}"' in body
            assert any(part in body for part in ("data-spec", "<table", "<blockquote", "<dd>")), name
        assert "Not here" not in page
        assert "is missing or empty" not in page
        assert not re.search(r"</h3>\s*(<h[23]|</section>)|</h2>\s*</section>", page)


def test_without_a_stage_s_figures_it_has_no_part(tmp_path: Path) -> None:
    results, facts = write_results(tmp_path)
    assert "Stage <code>extract</code>" in report(results, facts, tmp_path / "r.html").read_text()
    facts["extract"].unlink()
    assert "Stage <code>extract</code>" not in report(results, facts, tmp_path / "r.html").read_text()


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


def test_with_a_comparison_the_tiles_give_intervals_and_the_corrected_p(tmp_path: Path) -> None:
    results, facts, _ = write_everything(tmp_path)
    gain = pl.read_csv(results / "leaderboard.csv").row(0, named=True)["gain_points"]
    page = report(results, facts, tmp_path / "r.html").read_text()
    assert heading(page) == "Use the head cayley: it beats the last layer significantly."
    assert tiles(page)[1:] == [
        f"Gain over the last layer {gain:+.1f} points95 % interval {gain - 2.9:+.1f} to {gain + 2.8:+.1f}",
        "Verdict Statistically significantHolm-corrected p = 0.001.",
    ]


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"low_points": -0.4, "p_holm": 0.08}, "The interval contains 0 (Holm-corrected p = 0.080)."),
        (
            {"p_holm": 0.21},
            "The interval excludes 0, but corrected for the number of heads compared it could be chance "
            "(Holm-corrected p = 0.210).",
        ),
    ],
)
def test_a_difference_that_could_be_chance_is_called_so(
    tmp_path: Path, columns: dict[str, float], sentence: str
) -> None:
    results, facts, _ = write_everything(tmp_path)
    changed = columns | {"better": ""}
    edit(results / "comparison.csv", **{name: of("cayley", name, value) for name, value in changed.items()})
    page = report(results, facts, tmp_path / "r.html").read_text()
    assert tiles(page)[2] == f"Verdict Not significantly different{sentence}"
    assert heading(page) == (
        "Use a linear probe on the last layer (last): the chosen head, cayley, does not beat it significantly."
    )


def test_controls_are_marked_and_no_tie(tmp_path: Path) -> None:
    results, facts, _ = write_everything(tmp_path)
    set_head(results, "words", test_low=0.80, test_score=0.99, test_high=0.99, parameters=5)
    text = words(report(results, facts, tmp_path / "r.html").read_text())
    assert "wordscontrolbag of words" in text
    assert "The best of them on test, words, has 99.0 %" in text
    assert "words" not in {row["head"] for row in ties(read_results(results))}
    assert "words (99.0 %) scored higher" not in text


def test_a_control_is_never_the_chosen_head(tmp_path: Path) -> None:
    results, facts, _ = write_everything(tmp_path)
    set_head(results, "cayley", control="true")
    with pytest.raises(UserError, match=r"leaderboard\.csv(?s:.*)a chosen head that is no control(?s:.*)cayley"):
        report(results, facts, tmp_path / "r.html")


def test_a_control_far_below_is_named_and_not_drawn(tmp_path: Path) -> None:
    text = page_with(tmp_path, "")
    assert text.count("Too low to be drawn (see the leaderboard): majority (22.9 %).") == 3


def test_how_heads_use_layers_is_shown_as_far_as_it_is_known(tmp_path: Path) -> None:
    results, facts, _ = write_everything(tmp_path)
    titles = {
        "leave_one_out": "Without one layer", "attribution": "Attribution", "inputs": "Weights by input",
        "classes": "Recall by label and layer",
    }  # fmt: skip
    page = report(results, facts, tmp_path / "r.html").read_text()
    assert "Points of validation score that cayley loses when one layer is left out" in page
    for name, title in titles.items():
        assert f"<h3>{title}</h3>" in page
        (results / "analysis" / f"{name}.csv").unlink()
        page = report(results, facts, tmp_path / "r.html").read_text()
        assert f"<h3>{title}</h3>" not in page
    assert 'id="analysis"' not in page


@pytest.mark.parametrize(
    ("add", "verdict", "mean"), [(0.0, "overconfident", "84.0"), (-0.16, "underconfident", "68.0")]
)
def test_calibration_is_shown_with_its_error_and_direction(tmp_path: Path, add: float, verdict: str, mean: str) -> None:
    results, facts, _ = write_everything(tmp_path)
    bins = {"rows": [200, 245], "confidence": [0.80 + add, 0.873 + add], "accuracy": [0.72, 0.793]}
    table = pl.DataFrame({"head": ["cayley"] * 2, "low": [0.0, 0.5], "high": [0.5, 1.0], **bins})
    table.write_csv(results / "calibration.csv")
    text = words(report(results, facts, tmp_path / "r.html").read_text())
    assert f"cayley is {verdict}: its mean confidence is {mean} %, its accuracy 76.0 %." in text
    assert "The expected calibration error (ECE) is 8.0 points." in text
    assert "Temperature scaling" in text
    assert "ECE: expected calibration error on test" in text


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
