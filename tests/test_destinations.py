"""An output that can't be written is said at once, by every command that makes one, and nothing is left of asking."""

from __future__ import annotations

import subprocess
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from ilse.cli import main
from ilse.core.errors import UserError
from ilse.core.files.destinations import Destination, Kind, require_writable
from ilse.core.files.ownership import CACHE

WRITES_NOTHING = {"plan", "inspect", "verify", "push"}
WRITES_AT_ONCE = {"init", "preset"}
"""Into the project's own two files, and computes nothing before."""
GIVEN = {
    "fetch": ["model"],
    "subset": ["cache.zarr"],
    "predict": ["head"],
    "pull": ["owner/name"],
    "export": ["head", "--to", "torch"],
    "compare": ["a=results"],
}
"""What a command wants to be told beside its output."""


def outputs() -> list[tuple[str, str]]:
    """Every command with each of its outputs; an argument by its own name."""
    every = [(name, param) for name, command in main.commands.items() for param in command.params]
    return [(name, param.opts[0]) for name, param in every if any(map(is_destination, types_of(param)))]


def types_of(param: click.Parameter) -> list[click.ParamType]:
    return getattr(param.type, "types", [param.type])


def is_destination(kind: click.ParamType) -> bool:
    return isinstance(kind, Destination)


def call(command: str, option: str, place: Path) -> list[str]:
    given = [*GIVEN.get(command, []), *(["out"] if command == "subset" and option != "out" else [])]
    before = {"--examples": ["examples.parquet"]}.get(option, []) if command == "subset" else []
    required = ["--out", "exported"] if command == "export" and option != "--out" else []
    named = [option, *before, str(place)] if option.startswith("--") else [str(place)]
    return [command, *given, *required, *named]


def test_every_command_that_computes_looks_at_its_outputs_first() -> None:
    looked_at = {command for command, _ in outputs()}
    assert looked_at | WRITES_NOTHING | WRITES_AT_ONCE == set(main.commands)
    assert not looked_at & (WRITES_NOTHING | WRITES_AT_ONCE)
    named = {(name, param.opts[0]) for name, command in main.commands.items() for param in command.params}
    for option in ("--out", "--figures", "--scratch", "--markdown"):
        assert {pair for pair in named if pair[1] == option} <= set(outputs())


@pytest.mark.parametrize("place", ["a file's", "/proc"])
@pytest.mark.parametrize(("command", "option"), outputs())
def test_an_output_that_cannot_be_written_is_said_before_anything_else(
    command: str, option: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is there to be read either, so that anything else would be said of an input."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("text")
    target = Path("/proc/none/out.csv") if place == "/proc" else tmp_path / "file" / "out.csv"
    result = CliRunner().invoke(main, call(command, option, target))
    assert result.exit_code == 2
    assert f"destination {target}" in result.stderr
    assert "in a place that can be written" in result.stderr
    assert f"with {option}" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("path", "kind", "found"),
    [
        ("new", "file", None),
        ("new", "folder", None),
        ("a/b/c", CACHE, None),
        ("folder/new", "file", None),
        ("folder", "folder", None),
        ("folder", CACHE, None),
        ("file", "file", None),
        ("folder", "file", "a folder of this name"),
        ("file", "folder", "a file of this name"),
        ("file", CACHE, "a file of this name"),
        ("file/a/b", "folder", "file, which is not a folder"),
        ("nowhere/a", "file", "nowhere, which is not a folder"),
        ("n" * 250, "file", "File name too long"),
        (".", CACHE, "the working directory"),
        ("..", CACHE, "the working directory"),
        (".", "folder", None),
    ],
)
def test_what_may_be_made_where(
    path: str, kind: Kind, found: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("text")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    if found is None:
        require_writable(Path(path), kind)
    else:
        with pytest.raises(UserError, match=found):
            require_writable(Path(path), kind)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_read_only_disk_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting needs root")
    try:
        with pytest.raises(UserError, match="Read-only file system"):
            require_writable(folder / "new" / "cache.zarr", CACHE)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_url_is_left_to_the_store_and_completion_asks_nothing() -> None:
    assert Destination(CACHE, str).convert("s3://bucket/cache.zarr", None, None) == "s3://bucket/cache.zarr"
    completing = click.Context(main, resilient_parsing=True)
    assert Destination("file").convert("/proc/none/a", None, completing) == Path("/proc/none/a")


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("extract --out x --scratch x/scratch", "--out"),
        ("extract --out x --scratch x", "--out"),
        ("extract --out data/scratch/x", "--out"),
        ("extract --out x --figures x/extract.json", "--out"),
        ("extract --figures params.yaml", "--figures"),
        ("extract --out data/texts --texts data/texts/texts.parquet", "--out"),
        ("identify --out params.yaml", "--out"),
        ("subset data/cache.zarr data/cache.zarr/small", "out"),
        ("subset link.zarr data/cache.zarr/small", "out"),
        ("subset data/cache.zarr small --examples a.parquet ./a.parquet", "--examples"),
        ("predict head --input data/../new.csv --out new.csv", "--out"),
        ("predict head --input texts.csv --out hard.csv", "--out"),
        ("export head --to torch --out head/exported", "--out"),
        ("report --texts texts.parquet --out texts.parquet", "--out"),
        ("report --out a --markdown a", "--out"),
        ("report --figures a --markdown a/report.md", "--figures"),
    ],
)
def test_no_output_is_an_input_or_holds_one(
    words: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "link.zarr").symlink_to("data/cache.zarr")
    (tmp_path / "texts.csv").symlink_to("hard.csv")
    result = CliRunner().invoke(main, words.split())
    assert result.exit_code == 2
    assert "destination " in result.stderr
    assert f"choose another one with {option}\n" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "link.zarr", "texts.csv"]


@pytest.mark.parametrize("path", ["out", "out/texts.parquet", {"train": "a.csv", "test": "out/examples.parquet"}])
def test_no_table_is_written_over_the_data_set(path: str | dict[str, str], tmp_path: Path) -> None:
    from pipeline.stages.prepare import PrepareParams, prepare

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "texts.parquet").write_bytes(b"mine")
    inside = {name: str(tmp_path / one) for name, one in path.items()} if isinstance(path, dict) else tmp_path / path
    params = PrepareParams.model_validate({"path": inside if isinstance(inside, dict) else str(inside)})
    with pytest.raises(UserError, match=r"destination .*(texts|examples).parquet(.|\n)*prepare.path"):
        prepare(params, tmp_path / "out")
    assert (tmp_path / "out" / "texts.parquet").read_bytes() == b"mine"


@pytest.mark.parametrize(("command", "option"), outputs())
def test_an_address_is_no_place_of_this_machine(
    command: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Path` would make folders of its parts, with the password as a name."""
    if (command, option) == ("extract", "--out"):
        pytest.skip("a cache may lie at an address")
    monkeypatch.chdir(tmp_path)
    given = call(command, option, Path("x"))
    given[-1] = "postgresql://user:secret-one@host/db"
    done = CliRunner().invoke(main, given)
    assert done.exit_code == 2
    assert "expected: a file or folder of this machine" in done.output
    assert "secret-one" not in done.output
    assert not list(tmp_path.iterdir())
