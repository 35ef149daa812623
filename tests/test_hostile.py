"""Crafted artifacts of every kind are refused, and the judge sees what is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.hostile import campaign as hostile
from benchmarks.hostile.judge import ACCEPTED, REFUSED, TRACEBACK, Case, judged
from benchmarks.hostile.opening import Ended, call
from benchmarks.hostile.project import make_project
from benchmarks.hostile.spoiling import PICKLE, written
from ilse.core.errors import UserError

AT_LEAST = 60
EACH = 6
"""Every so many of a kind's cases is tried here; the benchmark tries all."""


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("intact")
    make_project(folder)
    return folder


def sample() -> Iterator[Case]:
    by_kind: dict[str, list[Case]] = {}
    for case in hostile.all_cases():
        by_kind.setdefault(case.kind, []).append(case)
    for cases in by_kind.values():
        yield from cases[::EACH]


@pytest.mark.slow
def test_crafted_artifacts_of_every_kind_are_refused(intact: Path, tmp_path: Path) -> None:
    found = hostile.document([judged(case, intact, tmp_path) for case in sample()])
    assert [case for case in found["cases"] if case["verdict"] != REFUSED] == []
    assert (found["accepted"], found["tracebacks"]) == (0, 0)
    assert found["tried"] >= AT_LEAST
    assert set(found["kinds"]) == {case.kind for case in hostile.all_cases()}


def refuse() -> None:
    raise UserError("cache x", expected="a", found="b", next_step="run it again")


def leave_and_refuse() -> None:
    Path("left").write_text("")
    refuse()


def show_and_refuse() -> None:
    secret = Path("../outside/secret").read_text()
    raise UserError("cache x", expected="a", found=secret, next_step="run it again")


@pytest.mark.parametrize(
    ("function", "verdict", "found"),
    [
        (refuse, REFUSED, "cache x"),
        (lambda: None, ACCEPTED, "as if nothing were wrong"),
        (leave_and_refuse, ACCEPTED, "left behind: project/left"),
        (show_and_refuse, ACCEPTED, "shows what stands outside"),
        (lambda: [][0], TRACEBACK, "IndexError"),
    ],
)
def test_the_judge_knows_a_refusal_from_what_is_none(
    tmp_path: Path, function: Callable[[], object], verdict: str, found: str
) -> None:
    (tmp_path / "intact").mkdir()
    outcome = judged(Case("kind", "name", written("x", PICKLE), call(function)), tmp_path / "intact", tmp_path)
    assert outcome.verdict == verdict
    assert found in outcome.found


def test_an_error_without_its_four_parts_is_no_refusal(tmp_path: Path) -> None:
    (tmp_path / "intact").mkdir()
    case = Case("kind", "name", written("x", b""), lambda: Ended(2, "error: something went wrong"))
    assert judged(case, tmp_path / "intact", tmp_path).verdict == TRACEBACK
