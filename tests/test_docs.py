"""The committed documents that are written by programs are up to date."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

for package in ("polars", "pydantic", "torch"):
    pytest.importorskip(package, reason="the parameters' structures need the extras 'params' and 'torch'")

DOCS = Path(__file__).parent.parent / "docs"


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "make_parameters.py"))


def test_the_parameters_document_is_up_to_date(made: dict[str, Any]) -> None:
    found = (DOCS / "parameters.md").read_text(encoding="utf-8")
    assert found == made["document"](), "run: python docs/make_parameters.py"


def test_every_key_of_params_yaml_is_documented() -> None:
    text = (DOCS / "parameters.md").read_text(encoding="utf-8")
    document = yaml.safe_load((DOCS.parent / "params.yaml").read_text(encoding="utf-8"))
    assert document.keys() == {"fetch", "prepare", "extract", "control_caches", "train", "controls", "lora", "tune"}
    document |= document.pop("control_caches")  # each is a section like 'extract'
    for section in document.values():
        for key in section.keys() - document["fetch"].keys():
            assert f"| `{key}` |" in text


def test_every_key_says_what_it_means(made: dict[str, Any]) -> None:
    rows = [line for line in made["document"]().splitlines() if line.startswith("| `")]
    assert len(rows) > 60
    silent = [row for row in rows if not row.rstrip("| ").split("|")[-1].strip() or row.endswith("|  |")]
    assert not [row for row in silent if not row.startswith("| `kind` |")]


def test_every_link_leads_to_a_heading(made: dict[str, Any]) -> None:
    text = made["document"]()
    headings = {re.sub(r"[^\w -]", "", line.lstrip("# ").lower()) for line in text.splitlines() if line[:1] == "#"}
    links = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert links
    assert links <= {heading.replace(" ", "-") for heading in headings}


def test_the_accuracy_document_is_what_the_results_say() -> None:
    """The figures themselves come from benchmarks that take hours; here only that page and results are of one run."""
    made = runpy.run_path(str(DOCS / "make_accuracy.py"))
    found = (DOCS / "accuracy.md").read_text(encoding="utf-8")
    assert found == made["document"](), "run: python -m docs.make_accuracy"


def test_the_document_of_layer_choice_is_what_the_results_say() -> None:
    made = runpy.run_path(str(DOCS / "make_layer_choice.py"))
    found = (DOCS / "layer-choice.md").read_text(encoding="utf-8")
    assert found == made["document"](), "run: python -m docs.make_layer_choice"


def test_the_document_of_architectures_is_what_the_results_say() -> None:
    made = runpy.run_path(str(DOCS / "make_architectures.py"))
    found = (DOCS / "architectures.md").read_text(encoding="utf-8")
    assert found == made["document"](), "run: python -m docs.make_architectures"


def test_the_table_of_every_command_is_what_the_results_say() -> None:
    made = runpy.run_path(str(DOCS / "make_faults.py"))
    found = (DOCS / "faults.md").read_text(encoding="utf-8")
    assert found == made["document"](), "run: python -m docs.make_faults"


def test_the_document_of_presets_is_up_to_date() -> None:
    pytest.importorskip("ruamel.yaml", reason="presets are read with it")
    made = runpy.run_path(str(DOCS / "make_presets.py"))
    found = (DOCS / "presets.md").read_text(encoding="utf-8")
    assert found == made["document"](), "run: python docs/make_presets.py"
    assert found.count("| `tasks/") + found.count("| `models/") == len(list(DOCS.parent.glob("pipeline/configs/*/*")))
