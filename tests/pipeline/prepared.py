"""A data set prepared, and the twins that its tests compare with."""

from __future__ import annotations

import hashlib
import unicodedata
from pathlib import Path
from typing import Any

import polars as pl

from ilse.core.tables import EXAMPLES_FILE, TEXTS_FILE
from pipeline.dataset.splits import uniform
from pipeline.stages.prepare import PrepareParams, prepare

SHARED = Path(__file__).parents[3] / "shared" / "data"


def run(path: Path | dict[str, str], out: Path, **more: Any) -> tuple[dict[str, Any], pl.DataFrame, pl.DataFrame]:
    given_path = path if isinstance(path, dict) else str(path)
    counts = prepare(PrepareParams.model_validate({"path": given_path} | more), out)
    return counts, pl.read_parquet(out / TEXTS_FILE), pl.read_parquet(out / EXAMPLES_FILE)


def plain(text: str | None) -> str:
    """The obvious twin of `normalised`; Unicode's white space, which is Python's less four separators."""
    blank = "".join(c for c in map(chr, range(0x3001)) if c.isspace() and c not in "\x1c\x1d\x1e\x1f")
    return unicodedata.normalize("NFC", text or "").replace("\r\n", "\n").replace("\r", "\n").strip(blank)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def drawn(unit_id: str) -> str:
    """The split that seed 0 and the default shares give."""
    number = uniform(unit_id, 0)
    return "test" if number < 0.2 else "validation" if number < 0.2 + 0.1 else "train"
