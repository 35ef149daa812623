"""Every command has its place in the campaign that disturbs them all, and its judge sees what is bad."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from benchmarks.commands import marks, odd_paths, options, verdict
from benchmarks.commands.calls import CALLS, QUICK, Call
from benchmarks.commands.campaign import campaign, kinds
from benchmarks.commands.trees import Reference, tree
from benchmarks.faults.starting import HUNG, Ended
from ilse.cli import main

CLEAR = "error: file x\n  expected: a\n  found:    b\n  next:     c\n"
CRASH = "Traceback (most recent call last):\n" + CLEAR


def test_every_command_has_its_place_in_the_campaign() -> None:
    assert {call.command for call in CALLS} == set(main.commands)
    assert {target for call in CALLS if call.command == "export" for target in call.arguments} >= {
        target for param in main.commands["export"].params if param.name == "target" for target in param.type.choices
    }
    assert set(QUICK) <= {call.name for call in CALLS}
    assert len({call.name for call in CALLS}) == len(CALLS)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.name)
def test_another_value_takes_the_place_of_the_call_s_own(call: Call) -> None:
    for param in options.told(call):
        arguments = options.with_value(call, param, "another")
        with main.commands[call.command].make_context(
            call.command, list(arguments[1:]), resilient_parsing=True
        ) as told:
            assert "another" in str(told.params[str(param.name)])
            assert options.value_of(Call("", arguments), param) == "another"


@pytest.mark.parametrize(
    ("ended", "sent", "found"),
    [
        (Ended(0, ""), 0, None),
        (Ended(2, CLEAR), 0, None),
        (Ended(HUNG, ""), 0, verdict.HANG),
        (Ended(-6, ""), 0, verdict.ABORT),
        (Ended(-9, ""), 15, verdict.ABORT),
        (Ended(1, CRASH), 0, verdict.TRACEBACK),
        (Ended(2, CRASH), 0, verdict.TRACEBACK),
        (Ended(101, "thread 'main' panicked at src/lib.rs"), 0, verdict.TRACEBACK),
        (Ended(2, "error: no"), 0, verdict.UNCLEAR),
        (Ended(1, CLEAR), 0, verdict.UNCLEAR),
        (Ended(143, "10 texts\nended by SIGTERM; finished work is kept"), 15, None),
        (Ended(-2, "interrupted"), 2, None),
        (Ended(-15, "10 texts"), 15, verdict.UNCLEAR),
        (Ended(-15, ""), 15, verdict.UNCLEAR),
        (Ended(130, ""), 2, verdict.UNCLEAR),
        (Ended(130, "interrupted"), 0, verdict.UNCLEAR),
    ],
)
def test_the_judge_knows_how_a_command_may_end(ended: Ended, sent: int, found: str | None) -> None:
    bad = verdict.of_end(ended, sent)
    assert (bad and bad[0]) == found


@pytest.fixture
def reference(tmp_path: Path) -> Reference:
    """Of a command that makes a file and a folder, writes a time and replaces an older result."""
    trees = []
    for number, seconds in enumerate(["", "1.5", "22e-3"]):
        folder = tmp_path / f"run{number}"
        (folder / "data").mkdir(parents=True)
        (folder / "own").write_text("own")
        (folder / "result").write_text("new" if seconds else "older")
        if seconds:
            (folder / "data/time").write_text(f"{folder}: {seconds} s")
        trees.append(tree(folder))
    return Reference.of(*trees, moments=1, seconds=0)


RIGHT = {"own": "own", "result": "new", "data/time": "7 s"}


@pytest.mark.parametrize(
    ("files", "code", "found"),
    [
        (RIGHT, 0, None),
        (RIGHT | {"data/time": "no time"}, 0, verdict.ACCEPTED),
        (RIGHT | {"result": "older"}, 0, verdict.ACCEPTED),
        (RIGHT | {"more": ""}, 0, verdict.ACCEPTED),
        (RIGHT | {"data/scratch/a": ""}, 0, None),
        ({"own": "own", "result": "older"}, 2, None),
        (RIGHT, 2, None),
        ({"own": "own", "result": "ol"}, 2, verdict.LOST),
        ({"own": "own"}, 2, verdict.LOST),
        ({"result": "older"}, 2, verdict.LOST),
        ({"own": "own", "result": "older", ".new.partial": ""}, 2, verdict.ACCEPTED),
        ({"own": "own", "result": "older", "data/time": "no time"}, 2, verdict.ACCEPTED),
        ({"own": "own", "result": "older", "data/.out.unfinished/1": "work"}, 2, None),
    ],
)
def test_the_judge_compares_what_a_command_leaves(
    files: dict[str, str], code: int, found: str | None, reference: Reference, tmp_path: Path
) -> None:
    folder = tmp_path / "found"
    (folder / "data").mkdir(parents=True)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text.replace("7 s", f"{folder}: 7 s"))
    bad = verdict.of_files(reference, tree(folder), Ended(code, ""))
    assert (bad and bad[0]) == found


def test_what_an_undisturbed_run_makes(reference: Reference) -> None:
    assert reference.made() == ["data/time"]
    assert reference.changed() == ["data/time", "result"]


def test_names_and_marks_are_what_a_file_system_and_a_table_take(tmp_path: Path) -> None:
    for name in odd_paths.NAMES:
        (tmp_path / name).mkdir()
    assert len(list(tmp_path.iterdir())) == len(odd_paths.NAMES)
    assert len(set(marks.LABELS)) == len(marks.LABELS)
    assert Random(0).sample(marks.LABELS, 2) == Random(0).sample(marks.LABELS, 2)


@pytest.mark.slow
def test_some_of_every_kind_do_no_harm(tmp_path: Path) -> None:
    faults, skipped = campaign(tmp_path, seed=0, quick=True)
    assert {fault.kind for fault in faults} | set(skipped) == {kind.name for kind in kinds()}
    assert [fault for fault in faults if fault.verdict in verdict.BAD] == []
