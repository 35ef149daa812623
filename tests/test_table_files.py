"""Paths are literal: no name of a file or folder is taken for a pattern, a home or an object store."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from ilse.core.files.table_files import read_csv, read_parquet, scan_parquet

ROOT = Path(__file__).parent.parent
HELPER = ROOT / "ilse" / "core" / "files" / "table_files.py"
PACKAGES = ("benchmarks", "docs", "finetune", "ilse", "inference", "pipeline", "trainer")
READERS = ("scan_", "read_")
"""How Polars' functions begin that take a path for a pattern."""
NAMES = ["a [1]", "*", "?", "a {b,c}", "~", "s3:", "file:b", "a%20b", "a\\[b]", "[!x]", "**"]


@pytest.mark.parametrize("name", NAMES)
def test_a_path_is_read_as_it_stands(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of that name and as a file of that name, beside files that a pattern would find."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for folder in ("a 1", "home", "a b", "x"):
        for file in ("a 1", "b", "x"):
            (tmp_path / folder).mkdir(exist_ok=True)
            pl.DataFrame({"a": ["another"]}).write_parquet(tmp_path / folder / f"{file}.parquet")
            (tmp_path / folder / f"{file}.csv").write_text("a\nanother\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    parquet, csv = (Path(name) / f"{name}.{ending}" for ending in ("parquet", "csv"))
    with open(tmp_path / parquet, "wb") as file_:
        pl.DataFrame({"a": ["this"]}).write_parquet(file_)
    (tmp_path / csv).write_text("a\nthis\n")
    for read in (scan_parquet(parquet).collect(), read_parquet(str(parquet), columns=["a"]), read_csv(csv)):
        assert read["a"].to_list() == ["this"]


def paths_for_patterns(tree: ast.AST) -> Iterator[str]:
    """Calls that would take a path for a pattern: Polars' readers, but of bytes in memory, and the module `glob`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("glob", "polars"):
            yield f"line {node.lineno}: from {node.module}"
        if isinstance(node, ast.Import) and any(alias.name == "glob" for alias in node.names):
            yield f"line {node.lineno}: import glob"
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        of_polars = isinstance(node.func.value, ast.Name) and node.func.value.id in ("pl", "polars")
        in_memory = bool(node.args) and ast.unparse(node.args[0]).startswith("io.BytesIO(")
        if of_polars and node.func.attr.startswith(READERS) and not in_memory:
            yield f"line {node.lineno}: {ast.unparse(node.func)}"


@pytest.mark.parametrize("package", PACKAGES)
def test_no_reader_of_polars_is_given_a_path(package: str) -> None:
    found = {
        str(path.relative_to(ROOT)): calls
        for path in sorted((ROOT / package).rglob("*.py"))
        if path != HELPER and (calls := list(paths_for_patterns(ast.parse(path.read_text(encoding="utf-8")))))
    }
    assert not found, "use ilse.core.files.table_files"


@pytest.mark.parametrize(
    ("line", "calls"),
    [
        ("pl.scan_csv(path)", 1),
        ("polars.read_ndjson(path)", 1),
        ("from glob import glob", 1),
        ("import os, glob", 1),
        ("pl.read_csv(io.BytesIO(data))", 0),
        ("scan_parquet(path)", 0),
    ],
)
def test_such_calls_are_found(line: str, calls: int) -> None:
    assert len(list(paths_for_patterns(ast.parse(line)))) == calls
