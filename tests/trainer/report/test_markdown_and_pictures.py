"""The report's siblings: Markdown for a pull request, and every chart as a file."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import polars as pl
import pytest
from click.testing import CliRunner

from ilse.cli import main
from ilse.core.files.ownership import PICTURES
from tests.trainer.report.made_up import HOSTILE, edit, write_everything, write_results
from trainer.report import as_markdown, as_pictures


def test_markdown_has_headline_leaderboard_and_comparison(tmp_path: Path) -> None:
    results, _, _ = write_everything(tmp_path)
    lines = as_markdown(results, tmp_path / "report.md").read_text().splitlines()
    best = pl.read_csv(results / "leaderboard.csv").row(0, named=True)
    score, gain = f"{100 * best['test_score']:.1f}\u00a0%", best["gain_points"]
    assert lines[0].startswith("**Use the head cayley: it beats the last layer significantly.** ")
    assert lines[2].startswith(f"Chosen on validation: **cayley**, **{score}** accuracy on test (95 % interval ")
    assert lines[2].endswith(
        f"Gain over last: {gain:+.1f} points (95 % interval {gain - 2.9:+.1f} to {gain + 2.8:+.1f}), "
        "statistically significant. Holm-corrected p = 0.001."
    )
    tables = [line.split(" | ") for line in lines if line.startswith("|")]
    assert {len(row) for row in tables[:12]} == {7}
    assert len(tables) == (2 + 10) + (2 + 9)
    assert any("| majority (control) |" in line for line in lines)


def test_markdown_of_an_old_evaluation_says_what_is_missing(tmp_path: Path) -> None:
    results, _ = write_results(tmp_path)
    text = as_markdown(results, tmp_path / "report.md").read_text()
    assert "points, not tested. The evaluation has no comparison of heads (comparison.csv)." in text
    assert "The heads were not compared (`comparison.csv` is missing)." in text


def test_a_name_is_no_markup(tmp_path: Path) -> None:
    results, _ = write_results(tmp_path)
    for table in ("leaderboard.csv", "runs.csv"):
        edit(results / table, head=pl.col("head").replace("fc", f"a|b`{HOSTILE}[x](y) @you"))
    text = as_markdown(results, tmp_path / "report.md").read_text()
    assert "<script" not in text
    assert r"| a\|b\`&lt;/script&gt;&lt;script&gt;alert\(1\)&lt;/script&gt;\[x\]\(y\) \@you |" in text


@pytest.mark.slow
def test_every_chart_becomes_a_picture_in_the_light_scheme(tmp_path: Path) -> None:
    results, facts, _ = write_everything(tmp_path)
    for path in (results / "curves").glob("*.csv"):
        path.unlink() if path.stem not in ("cayley", "fc") else None
    names = {path.name for path in as_pictures(results, facts, tmp_path / "figures").iterdir()}
    assert PICTURES.foreign(tmp_path / "figures") is None
    assert {"comparison-1.svg", "cost-2.png", "curves-2.svg", "graph-1.png", "cka-1.svg"} <= names
    assert {path.removesuffix(".svg") for path in names if path.endswith(".svg")} == {
        path.removesuffix(".png") for path in names if path.endswith(".png")
    }
    for path in (tmp_path / "figures").glob("*.svg"):
        assert "var(--" not in path.read_text()
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
    assert all(p.read_bytes()[:4] == b"\x89PNG" for p in (tmp_path / "figures").glob("*.png"))


def test_the_command_writes_what_is_asked(tmp_path: Path) -> None:
    results, _, texts = write_everything(tmp_path)
    options = ["--results", results, "--data", tmp_path, "--out", tmp_path / "r.html", "--texts", texts]
    done = CliRunner().invoke(main, ["report", *map(str, options), "--markdown", str(tmp_path / "r.md")])
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == [str(tmp_path / "r.html"), str(tmp_path / "r.md")]
    assert "A headline of some words" in (tmp_path / "r.html").read_text()
