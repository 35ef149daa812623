"""The parts and their borders, read from the import statements: a `sys.modules` check would prove nothing."""

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
    "ilse.core.errors",
    "ilse.core.files.json_files",
    "ilse.core.secrets",
    "pipeline.store",
}
TRAINER_MUST_NOT_IMPORT = {"transformers", "tokenizers", "dask", "distributed", "gguf", "accelerate", "huggingface_hub"}


ORDER = {
    "ilse.core": 0,
    "pipeline": 1,
    "trainer": 2,
    "ilse.predict": 3,
    "ilse.finetune": 3,
    "ilse": 4,
    "ilse.cli": 5,
}
"""Part → its level: it imports parts of lower levels alone."""
ROOTS = ("ilse", "pipeline", "trainer")


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


def part_of(module: str) -> str | None:
    """Which of the parts in `ORDER` a module belongs to, if any: the most specific one."""
    return max((part for part in ORDER if module == part or module.startswith(f"{part}.")), key=len, default=None)


@pytest.mark.parametrize(
    "path", [path for root in ROOTS for path in python_files(root)], ids=lambda path: str(path.relative_to(ROOT))
)
def test_every_part_imports_only_those_below_it(path: Path) -> None:
    own = part_of(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    assert own
    below = {part for name in imported(path) if (part := part_of(name)) not in (None, own)}
    allowed = {part for part, level in ORDER.items() if level < ORDER[own]}
    if own != "ilse":  # its file has the version, and imports nothing before it is asked to
        allowed |= {"ilse"}
    assert below <= allowed


@pytest.mark.parametrize("root", ROOTS)
def test_no_two_modules_of_a_root_share_a_name_that_puzzles(root: str) -> None:
    names = [path.stem for path in python_files(root) if path.stem != "__init__"]
    assert sorted({name for name in names if names.count(name) > 1} - {"base", "config"}) == []


@pytest.mark.parametrize("root", ROOTS)
def test_no_folder_holds_more_modules_than_one_can_survey(root: str) -> None:
    folders = {path.parent for path in python_files(root)}
    modules = {folder: [path for path in folder.glob("*.py") if path.stem != "__init__"] for folder in folders}
    assert {folder.name: len(found) for folder, found in modules.items() if len(found) > 18} == {}


def test_the_parameters_of_fine_tuning_are_read_without_its_packages() -> None:
    """`ilse evaluate` reads them where the extra 'train' alone is installed."""
    third_party = {name.split(".")[0] for name in imported(ROOT / "ilse" / "finetune" / "config.py")}
    assert third_party == {"__future__", "typing", "pydantic", "ilse"}


def test_only_evaluation_opens_the_test_split() -> None:
    assert callers_of(".held_out") == ["trainer/stages/evaluate.py"]


def test_what_is_to_be_answered_is_asked_for_where_it_is_answered() -> None:
    """The door without targets: those who answer, and those who check that the answers are to these examples."""
    controls = [f"controls/{name}" for name in ("majority", "probe", "words")]
    asked = [f"trainer/{name}.py" for name in ("artifacts/answers", *controls, "stages/control", "stages/evaluate")]
    assert callers_of(".unlabelled") == [*asked, "ilse/finetune/examples.py", "ilse/finetune/lora.py"]


def callers_of(door: str) -> list[str]:
    paths = (*python_files("trainer"), *python_files("ilse/finetune"))
    files = [path for path in paths if door in path.read_text(encoding="utf-8")]
    return [str(path.relative_to(ROOT)) for path in files]
