"""What `dvc plots show` draws with the project's templates, by a real DVC repository."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

main = pytest.importorskip("dvc.cli", reason="the plots are DVC's").main
Repo = pytest.importorskip("dvc.repo").Repo
vl_convert = pytest.importorskip("vl_convert")

ROOT = Path(__file__).parent.parent
TEMPLATES = ROOT / ".dvc" / "plots"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty DVC repository with the project's templates, and the current folder."""
    Repo.init(str(tmp_path), no_scm=True).close()
    shutil.copytree(TEMPLATES, tmp_path / ".dvc" / "plots")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drawn(folder: Path, name: str, table: dict[str, list[Any]], axes: dict[str, str]) -> Any:
    """The Vega-Lite specification that DVC makes of a table."""
    pl.DataFrame(table).write_csv(folder / f"{name}.csv")
    plot = {f"{name}.csv": {"template": name, **axes}}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"plots": [plot]}))
    assert main(["plots", "show", "--quiet", "--out", "shown"]) == 0
    page = (folder / "shown" / "index.html").read_text(encoding="utf-8")
    found = re.search(r"var spec = (\{.*?\});\s*vegaEmbed", page, re.DOTALL)
    assert found, "the page has a plot"
    return json.loads(found[1])


def lines(spec: Any) -> list[list[float]]:
    """Of every line that a browser would show, where its points are along x."""
    svg = str(vl_convert.vegalite_to_svg(json.dumps(spec)))
    paths = re.findall(r'<path aria-label[^>]*aria-roledescription="line mark"[^>]* d="([^"]*)"', svg)
    return [[float(x) for x in re.findall(r"[ML]([\d.]+)", path)] for path in paths]


def test_every_seed_has_a_curve_of_its_own(folder: Path) -> None:
    """And epochs, which DVC reads as words, are in the order of numbers."""
    epochs = list(range(12))
    table = {"seed": [0] * 12 + [1] * 12, "epoch": epochs * 2, "val_score": [e / 12 for e in epochs] * 2}
    curves = lines(drawn(folder, "curves", table, {"x": "epoch", "y": "val_score"}))
    assert [len(curve) for curve in curves] == [12, 12]
    assert all(curve == sorted(curve) for curve in curves)


def test_layers_are_drawn_with_their_range(folder: Path) -> None:
    layers = list(range(12))
    ends = {"val_low": [0.5 - i / 100 for i in layers], "val_high": [0.5 + i / 50 for i in layers]}
    table = {"layer": layers, "name": [f"block {i}" for i in layers], "val_score": [0.5] * 12, **ends}
    spec = drawn(folder, "layers", table, {"x": "layer", "y": "val_score"})
    (line,) = lines(spec)
    assert len(line) == 12
    assert line == sorted(line)
    assert 'aria-roledescription="area mark"' in vl_convert.vegalite_to_svg(json.dumps(spec))


def test_the_pipeline_names_templates_that_there_are() -> None:
    named = re.findall(r"template: (\w+)", (ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    assert set(named) == {"confusion", *(path.stem for path in TEMPLATES.glob("*.json"))}
