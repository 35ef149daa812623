"""The stages of `dvc.yaml`: what they depend on follows from the imports."""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("ruamel.yaml", reason="they are written with it")

from ilse.core.errors import UserError
from ilse.core.params import Section, load_section

ROOT = Path(__file__).parent.parent
MADE = runpy.run_path(str(ROOT / "docs" / "make_stages.py"))
STAGES: dict[str, dict[str, Any]] = {
    name: stage.get("do", stage) for name, stage in yaml.safe_load(MADE["STAGES"].read_text())["stages"].items()
}


def command(stage: str) -> str:
    return STAGES[stage]["cmd"].split()[1]


def covered(path: str, names: list[str]) -> bool:
    return any(path == name or path.startswith(f"{name}/") for name in names)


@pytest.mark.parametrize("written", ["stages", "template"])
def test_the_files_are_what_the_imports_make_of_them(written: str) -> None:
    found = MADE[{"stages": "STAGES", "template": "TEMPLATE"}[written]].read_text(encoding="utf-8")
    assert found == MADE[written](), "run: python docs/make_stages.py"


def test_a_module_deep_down_and_one_imported_in_a_function_count() -> None:
    """By hand, for two that were missing: `train` reaches the first over three modules."""
    assert "trainer/fitting/flat.py" in MADE["sources"]("train")
    assert covered("pipeline/store/encoding.py", MADE["sources"]("lora"))


LOADED = """
import sys
from pathlib import Path
{imports}
files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
print(*(Path(file).relative_to({root!r}) for file in files if file and Path({root!r}) in Path(file).parents))
"""


@pytest.mark.parametrize("stage", ["extract", "train"])
def test_no_module_of_ours_that_python_loads_is_missing(stage: str) -> None:
    """The slow twin: the modules that are there after a command's imports, whoever asked for them."""
    for package in ("transformers", "lightning"):
        pytest.importorskip(package, reason="needs the extras 'extract' and 'train'")
    files = (ROOT / "ilse" / "cli").glob("*_commands.py")
    nodes = (node for file in files for node in ast.parse(file.read_text(encoding="utf-8")).body)
    body = next(node for node in nodes if isinstance(node, ast.FunctionDef) and node.name == command(stage))
    imports = "\n".join(ast.unparse(node) for node in body.body if isinstance(node, ast.ImportFrom))
    code = LOADED.format(imports=imports, root=str(ROOT))
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    known = [*STAGES[stage]["deps"], *MADE["HOW_NOT_WHAT"]]
    loaded_files = [name for name in loaded.stdout.split() if not name.endswith("__init__.py")]
    modules = [name for name in loaded_files if name.split("/")[0] in MADE["SOURCES"]]
    assert len(modules) > 5
    assert not [name for name in modules if not covered(name, known)]


def test_what_is_no_module_counts_too() -> None:
    files = [file for file in (ROOT / "trainer").rglob("*") if file.suffix in (".j2", ".js", ".css")]
    assert files
    assert all(covered(file.relative_to(ROOT).as_posix(), STAGES["report"]["deps"]) for file in files)


def test_what_is_left_out_is_there() -> None:
    """An entry whose module has moved would leave out nothing, or a namesake."""
    assert [name for name in MADE["HOW_NOT_WHAT"] if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("suffix", ["", "_control"])
def test_what_goes_ahead_changes_whenever_the_extraction_does(suffix: str) -> None:
    """DVC removes a changed stage's outputs first: the cache is safe as long as this one stops the run before."""
    ahead, stage = STAGES[f"identify{suffix}"], STAGES[f"extract{suffix}"]
    (output,) = [next(iter(out)) for out in ahead["outs"]]
    assert output in stage["deps"]
    assert {*stage["deps"]} - {output} <= {*ahead["deps"]}
    assert stage["params"] == ahead["params"]
    assert any(".model.path" in dependency for dependency in ahead["deps"])
    assert not any(".model.path" in dependency for dependency in stage["deps"])


NAMES = ["a;touch hacked", "b$(touch hacked)", "c`touch hacked`", "d e", "../e", "-f", "g.h", "i\n"]


@pytest.mark.parametrize("written", ["STAGES", "TEMPLATE"])
def test_what_a_command_takes_from_the_parameters_stands_in_quotes(written: str) -> None:
    stages = yaml.safe_load(MADE[written].read_text())["stages"].values()
    commands = [stage.get("do", stage)["cmd"] for stage in stages]
    assert sum("${" in one for one in commands) == 6
    assert [one for one in commands if "${" in re.sub(r"'[^']*'", "", one)] == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("section", ["fetch", "control_caches"])
def test_a_name_that_is_more_than_a_name_is_refused(section: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({section: {name: {}}, "prepare": {}}))
    with pytest.raises(UserError, match=rf"section '{section}'(.|\n)*letters, digits(.|\n)*another name"):
        load_section("prepare", Section, tmp_path / "params.yaml")


def test_no_name_runs_in_the_shell_of_dvc(tmp_path: Path) -> None:
    """The first command that meets it refuses it, and the shell has not run it before."""
    pytest.importorskip("dvc", reason="needs the extra 'dvc'")
    pytest.importorskip("transformers", reason="needs the extra 'extract'")
    stage = yaml.safe_load(MADE["TEMPLATE"].read_text())["stages"]["fetch"]
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"fetch": stage}}))
    artifact = {"kind": "path", "path": "params.yaml"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"fetch": dict.fromkeys(NAMES[:3], artifact)}))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1"}
    for command in (["init", "--no-scm", "-q"], ["repro", "--keep-going"]):
        done = subprocess.run(["dvc", *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stderr.count("names of letters, digits") == 3
    assert not (tmp_path / "hacked").exists()
