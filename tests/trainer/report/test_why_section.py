"""The report's pictures of words × layers: shown where `why.json` is of this run's head, and checked before."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from ilse.core.errors import UserError
from tests.trainer.report.made_up import HOSTILE, why_told, write_everything
from trainer.report import report


def page(folder: Path, why: Any = None, **changes: Any) -> str:
    """The report's text, with `why.json` where there is one."""
    results, facts, texts = write_everything(folder)
    if why is not False:
        (results / "why.json").write_text(why or json.dumps(why_told(results, **changes)))
    return report(results, facts, folder / "report.html", texts).read_text()


def test_right_and_wrong_examples_are_drawn(tmp_path: Path) -> None:
    found = page(tmp_path)
    assert '<a href="#why">' in found
    section = found[found.index('<h2 id="why">') :].split("</section>")[0]
    right, wrong = section.split("<h3>Wrong</h3>")
    assert right.count("<svg") == wrong.count("<svg") == 1
    assert "sport, 0.93" in right
    assert "tech, 0.51" in wrong
    assert "the answer of cayley, seed 0," in section
    assert "Of 200 examples drawn, 171 are answered correctly" in section
    assert "4 of 6 words are left out" in section
    assert "trained on these" not in section
    assert HOSTILE not in found
    assert found == page(tmp_path / "again"), "equal inputs give equal bytes"


def test_scores_are_close_or_far_off(tmp_path: Path) -> None:
    found = page(tmp_path, answered_rightly=None, trained_on=True)
    assert "<h3>Far off</h3>" in found
    assert "Score: <b>sport</b>" in found
    assert "trained on these examples too" in found


def test_there_is_no_such_section_where_nobody_asked(tmp_path: Path) -> None:
    assert 'id="why"' not in page(tmp_path, why=False)


@pytest.mark.parametrize("changes", [{"seed": 9}, {"head": "other"}, {"val_score": 0.5}])
def test_words_of_another_training_are_not_shown(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = page(tmp_path, **changes)
    assert "Why (why.json is of another head than" in found
    assert 'id="why"' not in found
    assert "<h3>Wrong</h3>" not in found


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("format_version",), 2, "format_version"),
        (("layers",), ["embedding"], "a contribution of each layer"),
        (("examples",), [], "examples"),
        (("examples", 0, "contributions", 0, 0), 1e300, "contributions.0.0"),
        (("examples", 0, "contributions", 0, 0), "1", "contributions.0.0"),
        (("examples", 0, "places"), [4, 1], "ascending order"),
        (("examples", 0, "places"), [1, 6], "below count"),
        (("examples", 0, "words"), ["late"], "a place and contributions for each word"),
        (("examples", 0, "more"), 1, "examples.0.more"),
        (("asked",), -1, "asked"),
    ],
)
def test_what_no_command_writes_is_refused(tmp_path: Path, place: tuple[Any, ...], value: Any, message: str) -> None:
    results, facts, texts = write_everything(tmp_path)
    document = copy.deepcopy(why_told(results))
    inside: Any = document
    for step in place[:-1]:
        inside = inside[step]
    inside[place[-1]] = value
    (results / "why.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=rf"why.json\n(.|\n)*'ilse why'(.|\n)*{message}"):
        report(results, facts, tmp_path / "report.html", texts)
    (results / "why.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"why.json\n"):
        report(results, facts, tmp_path / "report.html", texts)
