"""The stage that goes ahead of an extraction."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from ilse.cli import main
from pipeline.config import ModelParams
from pipeline.model.identity import model_identity


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Callable[[str], Path]) -> Path:
    model = {"path": str(tiny_model("llama"))}
    caches = {"other": {"model": {**model, "untrained": 3}}, "gone": {"model": {"path": "gone"}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"extract": {"model": model}, "control_caches": caches}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def identify(*options: str) -> Result:
    return CliRunner().invoke(main, ["identify", *options])


def test_it_writes_the_identity_that_a_cache_would_have(project: Path) -> None:
    assert identify().exit_code == 0
    found = json.loads((project / "data" / "model.json").read_text())
    path = Path(yaml.safe_load((project / "params.yaml").read_text())["extract"]["model"]["path"])
    assert found == {"model": path.name} | model_identity(ModelParams(path=path))
    assert identify("--section", "control_caches.other", "--out", "other.json").exit_code == 0
    other = json.loads((project / "other.json").read_text())
    assert (other["sha256"], other["untrained"]) == (found["sha256"], "3")


def test_a_model_that_is_missing_stops_the_run_and_leaves_the_earlier_file(project: Path) -> None:
    (project / "model.json").write_text("{}")
    result = identify("--section", "control_caches.gone", "--out", "model.json")
    assert result.exit_code == 2
    assert "error: model gone" in result.output
    assert "nothing there" in result.output
    assert (project / "model.json").read_text() == "{}"
