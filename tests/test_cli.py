"""The command line as a user meets it: real processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from ilse.cli import main

HEAVY = ("torch", "transformers", "dask", "distributed", "lightning", "polars", "pydantic", "zarr", "numpy")
MEASURES = ("lightning", "torchmetrics", "scipy", "sklearn", "transformers", "altair")
"""What trains, measures and draws: seconds, which nobody with a mistyped key waits for."""


def ilse(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ilse.cli", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


def test_help_lists_the_stages_in_order() -> None:
    result = ilse("--help")
    stages = ["init", "fetch", "prepare", "plan", "extract", "inspect", "verify", "train", "control", "tune", "lora"]
    stages += ["analyse", "evaluate", "report", "compare", "predict", "export"]
    places = [result.stdout.index(f"\n  {stage} ") for stage in stages]
    assert result.returncode == 0
    assert places == sorted(places)


@pytest.mark.parametrize(("module", "absent"), [("ilse.cli", HEAVY), ("trainer.config", MEASURES)])
def test_neither_help_nor_a_sections_check_imports_what_they_do_not_need(module: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([m for m in {absent!r} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_help_is_there_at_once() -> None:
    """Shows 0.5 s; measured 0.06 s. The bound is loose enough for a busy machine: the fastest of five counts."""
    times = []
    for _ in range(5):
        started = time.perf_counter()
        ilse("--help")
        times.append(time.perf_counter() - started)
    assert min(times) < 0.5


@pytest.mark.parametrize("command", list(main.commands))
def test_every_command_has_help(command: str) -> None:
    result = ilse(command, "--help")
    assert result.returncode == 0
    assert "Usage:" in result.stdout


@pytest.mark.parametrize("command", list(main.commands))
def test_help_is_whole_on_80_columns_and_says_what_every_option_is(command: str) -> None:
    """A line of `ilse --help` that ends in `...` leaves out what the command does."""
    one = main.commands[command]
    assert one.get_short_help_str(60)[-3:] != "...", one.help
    told = {option.opts[0]: option.help or "" for option in one.params if isinstance(option, click.Option)}
    short = {name: text for name, text in told.items() if len(text.split()) < 2 or text[-1] != "." or text[:3] == "Of "}
    assert short == {}


def test_a_command_ends_with_the_next_step_unless_its_output_is_data(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'extract'")
    rows = [f"text {i},{'ab'[i % 2]}" for i in range(60)]
    (tmp_path / "data.csv").write_text("\n".join(["text,label", *rows]))
    (tmp_path / "params.yaml").write_text("prepare: {path: data.csv}\n")
    prepared = ilse("prepare", cwd=tmp_path)
    assert "60 rows -> 60 examples, 60 distinct texts" in prepared.stdout.splitlines()
    assert prepared.stderr.startswith("next: ilse extract")
    asked = ["plan", "--parameters", "7B", "--layers", "33", "--dim", "4096"]
    assert ilse(*asked, cwd=tmp_path).stderr == "next: ilse extract\n"
    data = ilse(*asked, "--json", cwd=tmp_path)
    assert json.loads(data.stdout)
    assert data.stderr == ""


def assert_clear_error(result: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    for part in ("error: ", "expected: ", "found: ", "next: ", *parts):
        assert part in result.stderr


PARAMS = "prepare:\n  path: data.csv\n  {key}: 3\ntrain:\n  {key}: 3\nextract:\n  model: {{path: x}}\n  {key}: 3\n"


@pytest.mark.parametrize(
    ("arguments", "key", "near"),
    [
        (["prepare"], "sed", "did you mean 'seed'?"),
        (["extract"], "shard_row", "did you mean 'shard_rows'?"),
        (["train", "last"], "seed", "did you mean 'seeds'?"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(tmp_path: Path, arguments: list[str], key: str, near: str) -> None:
    if arguments[0] in ("prepare", "extract"):
        pytest.importorskip("transformers", reason="needs the extra 'extract'")
    (tmp_path / "params.yaml").write_text(PARAMS.format(key=key))
    assert_clear_error(ilse(*arguments, cwd=tmp_path), f"unknown key '{key}'", near)


def test_no_parameter_file(tmp_path: Path) -> None:
    assert_clear_error(ilse("train", "last", cwd=tmp_path), "no such file")


def test_a_missing_section(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("trian: {}\n")
    assert_clear_error(ilse("train", "last", cwd=tmp_path), "did you mean 'trian'?")


def test_broken_yaml(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train: [1,\n")
    assert_clear_error(ilse("train", "last", cwd=tmp_path), "valid YAML")


def test_no_cache(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train: {}\n")
    assert_clear_error(ilse("train", "last", cwd=tmp_path), "cache data/cache.zarr", "nothing there")
    (tmp_path / "params.yaml").write_text("train: {}\ncontrols: {}\n")
    assert_clear_error(ilse("control", "majority", cwd=tmp_path), "cache data/cache.zarr", "nothing there")
    assert_clear_error(ilse("control", "word", cwd=tmp_path), "unknown control 'word'", "did you mean 'words'?")
    assert_clear_error(ilse("inspect", "nothing", cwd=tmp_path), "cache nothing")


def run_with(code: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The command line after some code that prepares a circumstance."""
    whole = f"{code}\nfrom ilse.cli import main\nmain()"
    return subprocess.run([sys.executable, "-c", whole, *arguments], cwd=cwd, capture_output=True, text=True)


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    """A module set to None can't be imported, as if it were not installed."""
    (tmp_path / "params.yaml").write_text("train: {}\n")
    result = run_with("import sys; sys.modules['lightning.pytorch'] = None", "train", "last", cwd=tmp_path)
    assert_clear_error(result, "the packages of the extra 'train'", "pip install 'ilse-cache[train]'")


def test_a_missing_extra_of_one_head_is_named(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("train: {}\n")
    result = run_with("import sys; sys.modules['optuna'] = None", "train", "auto", cwd=tmp_path)
    assert_clear_error(result, "the packages of the extra 'tune'", "pip install 'ilse-cache[tune]'")


@pytest.mark.parametrize(
    ("minutes", "found"), [("0", "greater than 0"), ("nan", "finite number"), ("x", "not a valid")]
)
def test_no_time_for_auto_is_refused_before_anything_is_read(tmp_path: Path, minutes: str, found: str) -> None:
    (tmp_path / "params.yaml").write_text("train: {}\n")
    result = ilse("train", "auto", "--minutes", minutes, cwd=tmp_path)
    assert result.returncode == 2
    assert found in result.stderr
    assert_clear_error(ilse("train", "last", "--minutes", "5", cwd=tmp_path), "'auto' among the heads")


def test_a_full_disk_is_one_message(tmp_path: Path) -> None:
    code = (
        "import pipeline.stages.inspect, errno\n"
        "def full(path): raise OSError(errno.ENOSPC, 'No space left on device', 'x.json')\n"
        "pipeline.stages.inspect.describe = full"
    )
    result = run_with(code, "inspect", cwd=tmp_path)
    assert_clear_error(result, "writing x.json", "No space left on device", "free space and run the same command")


def test_ctrl_c_says_what_is_kept(tmp_path: Path) -> None:
    code = (
        "import pipeline.stages.inspect\n"
        "def interrupt(path): raise KeyboardInterrupt\n"
        "pipeline.stages.inspect.describe = interrupt"
    )
    result = run_with(code, "inspect", cwd=tmp_path)
    assert result.returncode == 130
    assert "the same command resumes" in result.stderr
    assert "Traceback" not in result.stderr


WAITS = """
import pipeline.stages.inspect, pathlib, sys, time
def wait(path):
    {block}
pipeline.stages.inspect.describe = wait
from ilse.cli import main
main()
"""
AT_A_TERMINAL = """
import signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
"""
"""Tests that run under `nohup`, or behind `&`, hand on that a signal is ignored."""
PLAIN = "print('in', flush=True); time.sleep(60)"
SWALLOWED = """
    try:
        print('in', flush=True); time.sleep(60)
    except BaseException:
        raise ValueError('a library that tells something else')
"""


@pytest.mark.parametrize("block", [PLAIN, SWALLOWED], ids=["plain", "swallowed"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_command_with_a_message_and_its_own_code(name: str, block: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", AT_A_TERMINAL + WAITS.format(block=block), "inspect"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "in\n"
        process.send_signal(getattr(signal, name))
        said = process.communicate(timeout=20)[1]
    assert process.returncode == 128 + getattr(signal, name)
    assert "Traceback" not in said
    assert {"SIGINT": "interrupted"}.get(name, f"ended by {name}") in said
    assert "the same command resumes from there" in said


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """As under `nohup`."""
    block = "import os, signal; os.kill(os.getpid(), signal.SIGHUP); return 'went on'"
    command = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", sys.executable, "-c", WAITS.format(block=block), "inspect"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "went on\n")


def test_a_command_leaves_a_caller_s_signals_as_they_were() -> None:
    from click.testing import CliRunner

    before = [signal.getsignal(number) for number in signal.valid_signals()]
    CliRunner().invoke(main, ["inspect", "nothing"])
    assert [signal.getsignal(number) for number in signal.valid_signals()] == before


@pytest.mark.parametrize("said", ["click.echo('x')", "print('x')"])
def test_standard_output_on_a_full_disk_is_said(said: str, tmp_path: Path) -> None:
    code = f"import click, pipeline.stages.inspect\npipeline.stages.inspect.describe = lambda path: {said} or ''"
    command = [sys.executable, "-c", f"{code}\nfrom ilse.cli import main\nmain()", "inspect"]
    with open("/dev/full", "w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    assert_clear_error(result, "writing the output", "No space left on device")


@pytest.mark.parametrize(
    ("raised", "parts"),
    [
        ("pl.exceptions.ComputeError('No space left on device (os error 28)')", ["free space on the disk"]),
        ("RuntimeError('x: Disk quota exceeded (os error 122)')", ["room in your share"]),
        ("OSError(errno.EFBIG, os.strerror(errno.EFBIG), 'x')", ["writing x", "ulimit -f"]),
        ("OSError(errno.EIO, os.strerror(errno.EIO), 'x')", ["writing x", "check the disk"]),
        ("type('PanicException', (BaseException,), {})('No space left on device')", ["free space on the disk"]),
    ],
)
def test_what_a_library_says_of_a_disk_is_a_message(raised: str, parts: list[str], tmp_path: Path) -> None:
    code = f"import errno, os, polars as pl\ndef full(path): raise {raised}\n"
    code += "import pipeline.stages.inspect; pipeline.stages.inspect.describe = full"
    assert_clear_error(run_with(code, "inspect", cwd=tmp_path), *parts)


def test_fine_tuning_names_its_extra_and_its_keys(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'extract'")
    (tmp_path / "params.yaml").write_text("train: {}\nextract: {model: {path: x}}\nlora: {}\n")
    result = run_with("import sys; sys.modules['peft'] = None", "lora", cwd=tmp_path)
    assert_clear_error(
        result, "the packages of the extra 'lora'", "no package 'peft'", "pip install 'ilse-cache[lora]'"
    )
    (tmp_path / "params.yaml").write_text("train: {}\nextract: {model: {path: x}}\nlora: {rnk: 2}\n")
    assert_clear_error(ilse("lora", cwd=tmp_path), "unknown key 'rnk'", "did you mean 'rank'?")
