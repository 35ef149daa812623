"""An HTML page that explains a head's answers to new texts: one picture for each of the first texts."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

import polars as pl

from ilse.core.files.atomic import write_text
from ilse.core.tables import TEXT
from ilse.core.terminal import in_line
from ilse.predict.inputs import ID
from ilse.predict.predictor import Predictor
from trainer.analysis.word_picture import page

MOST_TEXTS, CHARACTERS = 100, 300
"""Texts that are explained, and characters of one that head its picture."""


class WhyPage:
    """Explains the first texts of an input while they pass by."""

    def __init__(self, predictor: Predictor, title: str) -> None:
        self._predictor, self._title = predictor, title
        self._pictures: list[str] = []
        self._texts = 0

    def watch(self, parts: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """Passes on the parts of `inputs.pieces`, and explains the texts of each once it has been answered."""
        for part in parts:
            yield part
            given = part.filter(pl.col(TEXT) != "")
            self._texts += given.height
            for row in given.head(MOST_TEXTS - len(self._pictures)).iter_rows(named=True):
                # Not by its file, whose path is nobody's business who is shown the page.
                name = str(row.get(ID) or f"text {len(self._pictures) + 1}")
                self._pictures.append(self._explained(name, row[TEXT]))

    def write(self, place: Path) -> None:
        """Puts the page there."""
        left = self._texts - len(self._pictures)
        note = f"<p>The first {len(self._pictures):,} of {self._texts:,} texts.</p>" if left else ""
        write_text(place, page(self._title, [note, *self._pictures]))

    def _explained(self, name: str, text: str) -> str:
        plain = in_line(text[:CHARACTERS]) + ("…" if len(text) > CHARACTERS else "")
        return f"<h2>{escape(in_line(name))}: {escape(plain)}</h2>\n{self._predictor.why(text).html(style=False)}"
