"""Rows from caches that hold them already: a donor has the same capture fingerprint, so its rows are this cache's."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ilse.errors import UserError
from pipeline import store
from pipeline.work.ids import TextIndex


@dataclass(frozen=True)
class Loan:
    """What the donors hold of one shard's texts."""

    found: npt.NDArray[np.bool_]
    """[texts of the shard]"""
    rows: dict[str, store.FloatRows]
    """Pooling → [texts found, layers, dim]"""
    token_states: list[store.FloatRows] | None
    """[tokens, layers, dim] of each text found, where the capture keeps them."""


def usable(donors: Sequence[str], header: store.CacheHeader, named: bool) -> list[str]:
    """The donors with this capture. Raises `UserError` for one that was named and is no cache at all."""
    fitting = []
    for donor in donors:
        try:
            cache = store.open_cache(donor)
        except UserError:
            if named:
                raise
            continue
        if cache.fingerprint == header.capture.fingerprint:
            fitting.append(donor)
    return fitting


def borrow(donors: Sequence[str], run: str, text_ids: store.TextIds) -> Loan | None:
    """The rows of these texts from the first donor that holds any of them; None where no donor does.

    A donor's damaged shard lends nothing. `run` names the run: what is known of a donor is kept for that long.
    """
    for donor in donors:
        try:
            loan = _lender(donor, run).lend(text_ids)
        except UserError:  # it was readable when the run began, and is damaged or gone now
            continue
        if loan is not None:
            return loan
    return None


def unlent(donors: Sequence[str], header: store.CacheHeader, text_ids: store.TextIds) -> npt.NDArray[np.bool_]:
    """Which texts the model will run on because no donor lends their rows; [texts], in the order of the rows.

    By the donors' lists of texts alone: damage that a shard's reading finds later adds to them.
    """
    lenders = [_open(donor) for donor in donors]
    missing = np.ones(len(text_ids), bool)
    for shard in range(header.shards if lenders else 0):
        place = header.rows_of(shard)
        held = (lender.places(text_ids[place]) for lender in lenders)
        first = next((places for places in held if places is not None), None)
        if first is not None:
            missing[place] = first < 0
    return missing


@dataclass(frozen=True)
class _Lender:
    cache: store.Cache
    index: TextIndex

    def places(self, text_ids: store.TextIds) -> npt.NDArray[np.int64] | None:
        """The row here of each text of one shard, −1 for one that is not here; None where nothing is lent."""
        places = self.index.places(text_ids)
        rows = places[places >= 0]
        return places if len(rows) and self._may_lend(rows, len(places)) else None

    def lend(self, text_ids: store.TextIds) -> Loan | None:
        places = self.places(text_ids)
        if places is None:
            return None
        found = places >= 0
        rows = places[found]
        capture = self.cache.header.capture
        try:
            pooled = {pooling: self.cache.gather(rows, pooling=pooling) for pooling in capture.poolings}
            states = [self.cache.token_states(int(row)) for row in rows] if capture.token_states else None
        except UserError:  # damaged: these rows are computed again
            return None
        return Loan(found, pooled, states)

    def _may_lend(self, rows: npt.NDArray[np.int64], wanted: int) -> bool:
        """Int8 values belong to their shard's scales: rounding them twice would add to the error, so a whole shard
        is lent or nothing.
        """
        if self.cache.header.capture.storage_type != "int8":
            return True
        start = int(rows[0])
        shard = self.cache.header.rows_of(start // self.cache.header.shard_rows)
        whole = len(rows) == wanted == shard.stop - shard.start and start == shard.start
        return whole and bool((np.diff(rows) == 1).all())


@functools.lru_cache(maxsize=4)
def _lender(donor: str, run: str) -> _Lender:
    return _open(donor)


def _open(donor: str) -> _Lender:
    cache = store.open_cache(donor)
    return _Lender(cache, TextIndex(cache.text_id_rows()))
