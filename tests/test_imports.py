"""The border between the halves, read from the import statements (style: a `sys.modules` check would prove nothing)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STORE_MAY_IMPORT = {
    "numpy",
    "google_crc32c",
    "zarr",
    "obstore",
    "tenacity",
    "ilse.errors",
    "ilse.reading",
    "ilse.secrets",
    "pipeline.store",
}
TRAINER_MUST_NOT_IMPORT = {"transformers", "tokenizers", "dask", "distributed", "gguf", "accelerate", "huggingface_hub"}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def python_files(package: str) -> list[Path]:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    return files


@pytest.mark.parametrize("path", python_files("trainer"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_trainer_knows_the_store_and_nothing_else_of_the_pipeline(path: Path) -> None:
    names = imported(path)
    assert not {name.split(".")[0] for name in names} & TRAINER_MUST_NOT_IMPORT
    of_pipeline = {name for name in names if name.split(".")[0] == "pipeline"}
    assert all(name == "pipeline.store" or name.startswith("pipeline.store.") for name in of_pipeline)


@pytest.mark.parametrize("path", python_files("pipeline/store"), ids=lambda path: path.name)
def test_the_store_imports_numpy_and_zarr_and_little_more(path: Path) -> None:
    import sys

    third_party = {name for name in imported(path) if name.split(".")[0] not in sys.stdlib_module_names}
    assert all(any(name == ok or name.startswith(f"{ok}.") for ok in STORE_MAY_IMPORT) for name in third_party)


@pytest.mark.parametrize("path", python_files("pipeline"), ids=lambda path: str(path.relative_to(ROOT)))
def test_the_pipeline_does_not_know_the_trainer(path: Path) -> None:
    assert not {name for name in imported(path) if name.split(".")[0] == "trainer"}


@pytest.mark.parametrize("package", ["pipeline", "trainer"])
def test_neither_half_knows_what_puts_them_together(package: str) -> None:
    names = {name for path in python_files(package) for name in imported(path)}
    assert names
    assert not {name for name in names if name.split(".")[0] == "inference"}


@pytest.mark.parametrize("package", ["ilse", "pipeline", "trainer"])
def test_nothing_but_the_command_line_knows_fine_tuning(package: str) -> None:
    knowing = [path for path in python_files(package) if any(name.startswith("finetune") for name in imported(path))]
    assert knowing == ([ROOT / "ilse" / "cli.py"] if package == "ilse" else [])


def test_the_parameters_of_fine_tuning_are_read_without_its_packages() -> None:
    """`ilse evaluate` reads them where the extra 'train' alone is installed."""
    third_party = {name.split(".")[0] for name in imported(ROOT / "finetune" / "config.py")}
    assert third_party == {"__future__", "typing", "pydantic", "ilse"}


def test_only_evaluation_opens_the_test_split() -> None:
    assert callers_of(".held_out") == ["trainer/evaluate.py"]


def test_what_is_to_be_answered_is_asked_for_where_it_is_answered() -> None:
    """The door without targets: those who answer, and those who check that the answers are to these examples."""
    who_answers = ["control", "controls/majority", "controls/probe", "controls/words"]
    asked = [f"trainer/{name}.py" for name in ("answers", *who_answers, "evaluate")]
    assert callers_of(".unlabelled") == [*asked, "finetune/examples.py", "finetune/lora.py"]


def callers_of(door: str) -> list[str]:
    paths = (*python_files("trainer"), *python_files("finetune"))
    files = [path for path in paths if door in path.read_text(encoding="utf-8")]
    return [str(path.relative_to(ROOT)) for path in files]
