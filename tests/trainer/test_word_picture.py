"""Words × layers as a picture: each cell is its number, no word is lost without a word, and no word can run."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
import pytest

from trainer.analysis.word_picture import HEAD, LINE, MOST_WORDS, SUM, page, picture, strongest

SVG = "{http://www.w3.org/2000/svg}"
LAYERS = ["embedding", "block 1", "final"]


def lines(html: str) -> list[ElementTree.Element]:
    """The pictures, each well-formed."""
    return [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", html, re.DOTALL)]


def columns(html: str) -> list[tuple[str, list[tuple[float, str, float]]]]:
    """Each word with its cells: top, the contribution that is told, and the strength of the colour with its sign."""
    found = []
    for group in (group for line in lines(html) for group in line.iter(f"{SVG}g")):
        cells = [
            (
                float(cell.attrib["y"]),
                cell.findtext(f"{SVG}title") or "",
                float(cell.attrib["fill-opacity"]) * (1 if cell.attrib["class"] == "p" else -1),
            )
            for cell in group.iter(f"{SVG}rect")
            if cell.attrib["class"] != "z"
        ]
        found.append((group.findtext(f"{SVG}text") or "", cells))
    return found


def drawn(words: list[str], values: npt.NDArray[np.float64], layers: list[str] = LAYERS) -> str:
    return picture(strongest(words, values), layers, "business, 0.93")


def test_a_cell_is_as_strong_as_its_contribution() -> None:
    values = np.array([[0.5, 0.0, -1.0], [2.0, 0.25, 0.0]])
    html = drawn(["profit", "falls"], values)
    (one, first), (other, second) = columns(html)
    assert (one, other) == ("profit", "falls")
    step = 13
    foot = HEAD + step * 3 + 4
    assert [(top, told) for top, told, _ in first] == [
        (HEAD, "embedding: +0.5"), (HEAD + 2 * step, "final: −1"), (foot, "sum: −0.5")
    ]  # fmt: skip
    assert [strength for *_, strength in first] == [0.25, -0.5, pytest.approx(-0.5 / 2.25, abs=0.005)]
    assert [told for _, told, _ in second] == ["embedding: +2", "block 1: +0.25", "sum: +2.25"]
    assert [strength for *_, strength in second] == [1, pytest.approx(0.125, abs=0.0051), 1]
    assert "−2" in html
    assert "+2 for it" in html
    assert "up to ±2.25" in html
    assert "business, 0.93" in html


def test_every_line_fits_a_small_screen_and_says_what_it_shows() -> None:
    words = [f"word{i}" * (1 + i % 4) for i in range(50)]
    html = drawn(words, np.random.default_rng(0).normal(size=(50, 3)))
    assert [word for word, _ in columns(html)] == [word if len(word) <= 24 else f"{word[:23]}…" for word in words]
    ids = [line.attrib["aria-labelledby"] for line in lines(html)]
    assert len(ids) > 3
    assert len(set(ids)) == len(ids)
    for line in lines(html):
        assert float(line.attrib["width"]) <= LINE
        named = {line.find(f"{SVG}{name}").attrib["id"]: line.findtext(f"{SVG}{name}") for name in ("title", "desc")}  # type: ignore[union-attr]
        assert set(named) == set(line.attrib["aria-labelledby"].split())
        title, about = named.values()
        assert title == " ".join(group.findtext(f"{SVG}text") or "" for group in line.iter(f"{SVG}g"))
        assert "3 layers down from embedding to final" in str(about)


def test_the_words_that_move_it_least_are_left_out_with_a_word() -> None:
    sums = np.arange(1, MOST_WORDS + 11.0)
    sums[[0, 30]] = sums[[30, 0]]
    words = [f"w{i}" for i in range(len(sums))]
    html = drawn(words, np.outer(sums, [0.5, -1.5, 0.0]))
    assert [word for word, _ in columns(html)] == ["w0", *(f"w{i}" for i in range(10, 70) if i != 30)]
    assert f"10 of {len(sums)} words are left out" in html
    gaps = [text.text for line in lines(html) for text in line.findall(f"{SVG}text") if text.text == "…"]
    assert len(gaps) == 2, "between w0 and w10, and for w30"
    assert "left out" not in drawn(words[:60], np.ones((60, 3)))


@pytest.mark.parametrize("layers", [1, 17, 31, 49])
def test_layers_are_named_as_far_as_there_is_room(layers: int) -> None:
    names = [f"block {i}" for i in range(layers)]
    (line,) = lines(drawn(["a"], np.ones((1, layers)), names))
    shown = [(text.text, float(text.attrib["y"])) for text in line.findall(f"{SVG}text")]
    assert [shown[0][0], shown[-2][0], shown[-1][0]] == [names[0], names[-1], "sum"]
    tops = [top for _, top in shown]
    assert min(np.diff(tops), default=99) >= 9
    assert tops[-1] < float(line.attrib["height"]) <= 20 + 13 * 49 + SUM + 4


def test_nothing_in_a_word_can_run_or_turn_what_stands_beside_it() -> None:
    bad = ["</svg><script>alert(1)</script>", "a\u202eb", "\x1b[31m", "&lt;", "", "  ", '"onload="x', "\ud800"]
    html = page("</title><script>", [picture(strongest(bad, np.ones((8, 1))), ["<b>"], "<i>\n", style=False)])
    assert "<script" not in html
    assert "<b>x" not in html
    assert "<i>\n" not in html
    assert not re.search("[\u202e\x1b\ud800]", html)
    shown = [word for word, _ in columns(html)]
    assert shown[1:6] == ["a\\u202eb", "\\x1b[31m", "&lt;", "␣", "␣"]
    html.encode()


def test_no_contribution_is_no_colour() -> None:
    for values in (np.zeros((2, 3)), np.full((2, 3), np.nan)):
        assert [cells for _, cells in columns(drawn(["a", "b"], values))] == [[], []]
