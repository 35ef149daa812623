"""What each word moves an answer in each layer, as a picture: words across, layers down, and their sum at the foot.

    picture(strongest(words, contributions), layers, "business, 0.93")    # HTML, an SVG for each line of words

It stands alone, in a notebook or on a page: it asks for no font, script or file, and follows the reader's light or dark
scheme. A line of words is as wide as a small screen, and wide screens show several side by side.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from ilse.core.terminal import in_line

MOST_WORDS = 60
"""Words that are drawn; of more, those that move the answer most."""
LONGEST_WORD = 24
"""Characters of a word; longer ones are cut."""
LETTER, PADDING, NAMES, LINE = 7.0, 6.0, 62.0, 344.0
"""Widths in pixels: of a letter, beside a word, of the layers' names, of a line with them."""
HEAD, GAP, SUM = 20.0, 4.0, 13.0
"""Heights: of the words, between layers and sum, of the sum."""
NAME = 11.0
"""Height that a layer's name needs."""
STEPS = ((16, 13.0), (36, 8.0), (100, 5.0), (10**6, 2.0))
"""For so many layers at most, the height of one."""
CUT = "…"
FAINT = 0.005
"""Shares of the largest contribution below this are not to be seen."""

# The report's colours, which a page of ours sets: a notebook has none of them.
STYLE = """
.why { --for: #0b6b73; --against: #a4480f; --word: #14181f; --name: #59636f; --empty: #eef1f3; margin: 0 0 1.2rem; }
@media screen and (prefers-color-scheme: dark) {
  .why { --for: #4fc0bd; --against: #f0a36b; --word: #e7eaee; --name: #9aa5b1; --empty: #1f262e; }
}
.why figcaption, .why p { margin: 0 0 .5rem; color: var(--name); font: .9rem/1.45 system-ui, sans-serif; }
.why b { color: var(--word); font-weight: 600; overflow-wrap: anywhere; }
.why .scale { display: flex; flex-wrap: wrap; align-items: center; gap: .2rem .5rem; }
.why .scale i { width: 7rem; height: .7rem; }
.why .scale i { background: linear-gradient(90deg, var(--against), var(--empty), var(--for)); }
.why .lines { display: flex; flex-wrap: wrap; gap: .7rem 1.4rem; }
.why svg { display: block; max-width: 100%; height: auto; }
.why svg, .why .scale i { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.why text { font: 11.5px ui-monospace, "SF Mono", Menlo, Consolas, monospace; fill: var(--word); }
.why text.name { font-size: 10px; fill: var(--name); text-anchor: end; }
.why .p { fill: var(--for); }
.why .n { fill: var(--against); }
.why .z { fill: var(--empty); }
""".strip()


@dataclass(frozen=True)
class Words:
    """Words of a text, all of them or those that move the answer most, in their order.

    Parameters
    ----------
    words
        As the text has them.
    places
        Of each among all words of the text, from 0.
    count
        Words of the text.
    contributions
        [words, layers]: above 0 speaks for the answer, below 0 against it.
    """

    words: list[str]
    places: list[int]
    count: int
    contributions: npt.NDArray[np.floating]


def strongest(words: Sequence[str], contributions: Float[npt.NDArray[np.floating], "words layers"]) -> Words:
    """The at most `MOST_WORDS` words whose sums over layers are furthest from 0."""
    order = np.argsort(-np.abs(contributions.sum(1)), kind="stable")[:MOST_WORDS]
    places = sorted(order.tolist())
    return Words([words[place] for place in places], places, len(words), contributions[places])


def picture(words: Words, layers: Sequence[str], answer: str, style: bool = True) -> str:
    """A `<figure>` of HTML: `layers` are the names down, and `answer` is what the head says.

    A page of many pictures has `STYLE` once, and each of them without `style`.
    """
    values = np.nan_to_num(np.asarray(words.contributions, np.float64))
    # Two pictures of one page must not share a name.
    told = repr((words.words, words.places, values.tolist(), answer))
    drawing = _Drawing(
        "why-" + hashlib.sha256(told.encode()).hexdigest()[:12],
        [short(word) for word in words.words],
        [short(layer) for layer in layers],
        values,
    )
    lines = "".join(drawing.line(number, line) for number, line in enumerate(_lines(words, drawing.words)))
    left = words.count - len(words.words)
    note = f"<p>{left:,} of {words.count:,} words are left out: those that move the answer least.</p>" if left else ""
    return (
        '<figure class="why">'
        + (f"<style>{STYLE}</style>" if style else "")
        + f"<figcaption><div>Answer: <b>{escape(in_line(answer))}</b></div>{drawing.scale()}</figcaption>"
        + f'<div class="lines">{lines}</div>{note}</figure>'
    )


def page(title: str, pictures: Sequence[str]) -> str:
    """A page of such pictures, made without `style`, each with its text above it where there is one."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(in_line(title))}</title>\n<style>\n"
        ":root { color-scheme: light dark; }\n"
        "body { margin: 0 auto; padding: 1.5rem clamp(1rem, 4vw, 2.5rem) 4rem; max-width: 80rem; "
        "font: 1rem/1.55 system-ui, sans-serif; }\n"
        "h1 { font-size: 1.3rem; } h2 { font-size: 1rem; overflow-wrap: anywhere; margin: 1.8rem 0 .4rem; }\n"
        f"{STYLE}\n</style>\n</head>\n<body>\n<h1>{escape(in_line(title))}</h1>\n"
        + "\n".join(pictures)
        + "\n</body>\n</html>\n"
    )


def short(word: str) -> str:
    """A word as it is shown: on one line, without commands, and cut if it is long."""
    plain = in_line(word.strip()) or "␣"
    return plain if len(plain) <= LONGEST_WORD else plain[: LONGEST_WORD - 1] + CUT


def signed(value: float) -> str:
    """A contribution with its sign and three digits."""
    return f"{value:+.3g}".replace("-", "−")


def _letters(word: str) -> int:
    """How many letters wide it is: those of Chinese take two, accents of their own none."""
    wide = (unicodedata.east_asian_width(letter) in "WF" for letter in word if not unicodedata.combining(letter))
    return max(1, sum(1 + of for of in wide))


@dataclass(frozen=True)
class _Piece:
    """A word of a line by its number, or words that are left out; where it begins, and its width."""

    word: int | None
    left: float
    width: float


def _lines(words: Words, names: Sequence[str]) -> Iterator[list[_Piece]]:
    """The words as lines."""
    line: list[_Piece] = []
    end, before, gap = NAMES, -1, LETTER + PADDING
    for number, place in enumerate(words.places):
        pieces = [(None, gap)] if place > before + 1 else []
        for word, width in [*pieces, (number, _letters(names[number]) * LETTER + PADDING)]:
            if line and end + width > LINE:
                yield line
                line, end = [], NAMES
            line.append(_Piece(word, end, width))
            end += width
        before = place
    if before + 1 < words.count:
        line.append(_Piece(None, end, gap))
    if line:
        yield line


class _Drawing:
    """The lines of one text, which share their scales: one for the layers and one for the sums."""

    def __init__(
        self, name: str, words: list[str], layers: list[str], values: Float[npt.NDArray[np.float64], "words layers"]
    ) -> None:
        self.name, self.words, self.layers, self.values, self.sums = name, words, layers, values, values.sum(1)
        self.most, self.most_sum = (float(np.abs(of).max(initial=0.0)) for of in (values, self.sums))
        self.step = next(step for most, step in STEPS if len(layers) <= most)
        self.foot = HEAD + self.step * len(layers) + GAP

    def line(self, number: int, line: list[_Piece]) -> str:
        """The SVG of a line, with its words as the title and the strongest ones as the description."""
        name, width, height = f"{self.name}-{number}", line[-1].left + line[-1].width, self.foot + SUM
        there = [piece.word for piece in line if piece.word is not None]
        title = " ".join(self.words[word] for word in there)
        most = sorted(there, key=lambda word: -abs(self.sums[word]))[:3]
        sums = ", ".join(f"{self.words[word]} {signed(float(self.sums[word]))}" for word in most)
        about = (
            f"Words across, {len(self.layers)} layers down from {self.layers[0]} to {self.layers[-1]}, and the sum of "
            f"each word over layers. Strongest sums: {sums}."
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="{name}-t {name}-d" '
            f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}">'
            f'<title id="{name}-t">{escape(title)}</title><desc id="{name}-d">{escape(about)}</desc>'
            f"{self._names()}{''.join(map(self._piece, line))}</svg>"
        )

    def scale(self) -> str:
        """The legend of the colours."""
        return (
            f'<div class="scale"><span>against it {signed(-self.most)}</span><i></i>'
            f"<span>{signed(self.most)} for it</span><span>(sums: up to ±{self.most_sum:.3g})</span></div>"
        )

    def _piece(self, piece: _Piece) -> str:
        if piece.word is None:
            return f'<text x="{piece.left + 3:g}" y="13">{CUT}</text>'
        wide, of_layers = piece.width - 1, zip(self.layers, self.values[piece.word].tolist(), strict=True)
        cells = [
            _cell(layer, value, self.most, HEAD + self.step * row, wide, self.step)
            for row, (layer, value) in enumerate(of_layers)
        ]
        total = _cell("sum", float(self.sums[piece.word]), self.most_sum, self.foot, wide, SUM)
        return (
            f'<g transform="translate({piece.left:g})"><text x="3" y="13" textLength="{piece.width - PADDING:g}" '
            f'lengthAdjust="spacingAndGlyphs">{escape(self.words[piece.word])}</text>'
            f'<rect class="z" y="{HEAD:g}" width="{wide:g}" height="{self.step * len(self.layers):g}"/>'
            f'<rect class="z" y="{self.foot:g}" width="{wide:g}" height="{SUM:g}"/>{"".join(cells)}{total}</g>'
        )

    def _names(self) -> str:
        """The layers' names at the left, as many as there is room for, the first and the last among them."""
        every, last = math.ceil(NAME / self.step), len(self.layers) - 1
        rows = [row for row in range(last + 1) if row == last or (row % every == 0 and last - row >= every)]
        shown = [(self.layers[row], HEAD + self.step * (row + 0.5)) for row in rows] + [("sum", self.foot + SUM / 2)]
        return "".join(
            f'<text class="name" x="{NAMES - 5:g}" y="{y + 3.5:g}">{escape(name[:9])}</text>' for name, y in shown
        )


def _cell(layer: str, value: float, most: float, top: float, wide: float, high: float) -> str:
    """One contribution; the stronger it is, the stronger its colour. Its number shows where one points at it."""
    share = abs(value) / most if most else 0.0
    if share < FAINT:
        return ""
    return (
        f'<rect class="{"p" if value > 0 else "n"}" y="{top:g}" width="{wide:g}" height="{high - (high > 6):g}" '
        f'fill-opacity="{share:.2f}"><title>{escape(layer)}: {signed(value)}</title></rect>'
    )
