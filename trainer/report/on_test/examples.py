"""Test examples on which two heads differ, with their texts: what the gain consists of, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ilse.core.tables import LABEL, TEXT_ID
from trainer.report.on_test.by_example import by_example, with_texts
from trainer.report.result_files import Row
from trainer.results.result_tables import unreadable

GAINED, LOST = 12, 6
"""Examples shown: right where the other is wrong, and the other way round."""


@dataclass(frozen=True)
class Examples:
    """Rows with `text`, `pair_text` (or None), `label`, what either head answered most often, and in how many seeds
    each was right. `lacking` says why there are none.
    """

    gained: list[Row]
    lost: list[Row]
    counts: tuple[int, int] = (0, 0)
    """How many such examples there are."""
    lacking: str = ""

    def __bool__(self) -> bool:
        return bool(self.gained or self.lost)


def differing(results: Path, texts: Path | None, head: str, other: str) -> Examples:
    """Examples that `head` answers rightly in most seeds and `other` does not, and the reverse.

    The clearest come first: those with the largest difference in the share of seeds that are right, then in the order
    of their text ids.
    """
    files = {name: results / "predictions" / f"{name}.parquet" for name in (head, other)}
    reason = _lacking(files, texts, head, other)
    if reason or texts is None:
        return Examples([], [], lacking=reason)
    ours, theirs = (by_example(path) for path in files.values())
    if ours is None or theirs is None:
        return Examples([], [], lacking="these examples have no single label")
    both = ours.join(theirs, on=["row", TEXT_ID, LABEL], suffix="_other")
    if not len(ours) == len(theirs) == len(both):
        expected = f"answers to the examples of {files[head].name}"
        raise unreadable(files[other], expected, f"{len(theirs)} examples, {len(both)} of them the same")
    apart = (pl.col("share") - pl.col("share_other")).abs()
    both = both.sort(apart, TEXT_ID, "row", descending=[True, False, False])
    gained = both.filter(pl.col("share") > 0.5, pl.col("share_other") < 0.5)
    lost = both.filter(pl.col("share") < 0.5, pl.col("share_other") > 0.5)
    first, second = with_texts(gained.head(GAINED), texts), with_texts(lost.head(LOST), texts)
    return Examples(first, second, (gained.height, lost.height))


def _lacking(files: Mapping[str, Path], texts: Path | None, head: str, other: str) -> str:
    if head == other:
        return f"{other} is the chosen head itself"
    if texts is None or not texts.is_file():
        return "no texts were given: ‘ilse report --texts data/texts.parquet’ shows some"
    missing = [path for path in files.values() if not path.is_file()]
    return f"there is no file predictions/{missing[0].name}" if missing else ""
