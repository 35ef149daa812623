"""Rows from caches that hold them already: a donor has the same capture fingerprint, so its rows are this cache's.

What is lent is signed again by the cache that takes it. So a donor lends what it can prove to have been written for
these texts, and nothing else: the texts' ids and each shard have the checksums that its own list names. A shard that is
whole, but another's, is refused like a damaged one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ilse.core.errors import UserError
from pipeline import store
from pipeline.work.ids import TextIndex

NAMED = 3
"""Shards of a donor that a line names."""


@dataclass(frozen=True)
class Loan:
    """Rows of one shard's texts that donors hold."""

    found: npt.NDArray[np.bool_]
    """[texts of the shard]"""
    rows: dict[str, store.FloatRows]
    """Pooling → [texts found, layers, dim]"""
    token_states: list[store.FloatRows] | None
    """[tokens, token layers, token width] of each text found, where the capture keeps them."""


@dataclass(frozen=True)
class Refusal:
    """A shard of a donor that lends nothing."""

    donor: str
    shard: int | None
    """The refused shard; None for the whole donor."""
    why: str

    @classmethod
    def of(cls, donor: str, shard: int | None, error: UserError) -> Refusal:
        """The refusal that an error is the reason of."""
        part = error.where.removeprefix(f"cache {donor}").lstrip(", ")
        return cls(donor, shard, f"{part}: {error.found}" if part else error.found)


Note = Callable[[Refusal], None]


def _unnoted(refusal: Refusal) -> None:
    pass


def usable(donors: Sequence[str], header: store.CacheHeader, named: bool, note: Note = _unnoted) -> list[str]:
    """The donors with this capture. Raises `UserError` for one that was named and is none or can't prove its texts.

    Of others, `note` gets each that stands there and lends nothing.
    """
    fitting = []
    for donor in donors:
        try:
            cache = store.open_proven(donor)
        except UserError as error:
            if named:
                raise
            if _is_finished(donor):
                note(Refusal.of(donor, None, error))
            continue
        if cache.fingerprint == header.capture.fingerprint:
            fitting.append(donor)
    return fitting


def borrow(donors: Sequence[str], run: str, text_ids: store.TextIds, note: Note = _unnoted) -> Loan | None:
    """The rows of these texts from the first donor that holds any of them; None where no donor does.

    A donor's shard that is not as its list says lends nothing, and `note` gets it. `run` names the run: what is known
    of a donor is kept for that long.
    """
    for donor in donors:
        try:
            loan = _lender(donor, run).lend(text_ids, note)
        except UserError as error:  # it was readable when the run began, and is damaged or gone now
            note(Refusal.of(donor, None, error))
            continue
        if loan is not None:
            return loan
    return None


def unlent(donors: Sequence[str], header: store.CacheHeader, text_ids: store.TextIds) -> npt.NDArray[np.bool_]:
    """Mask of the texts that the model must run on, as no donor has their rows; [texts], in the order of the rows.

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
    donor: str
    cache: store.Cache
    index: TextIndex

    def places(self, text_ids: store.TextIds) -> npt.NDArray[np.int64] | None:
        """The row here of each text of one shard, −1 for one that is not here; None where nothing is lent."""
        places = self.index.places(text_ids)
        rows = places[places >= 0]
        return places if len(rows) and self._may_lend(rows, len(places)) else None

    def lend(self, text_ids: store.TextIds, note: Note) -> Loan | None:
        places = self.places(text_ids)
        if places is None:
            return None
        found = places >= 0
        rows = places[found]
        capture = self.cache.header.capture
        try:
            pooled = {pooling: self.cache.gather(rows, pooling=pooling) for pooling in capture.poolings}
            states = self.cache.gather_tokens(rows) if capture.token_states else None
        except UserError:  # damaged, or another's: these rows are computed again
            self._note_refused(rows, note)
            return None
        return Loan(found, pooled, states)

    def _note_refused(self, rows: npt.NDArray[np.int64], note: Note) -> None:
        """Tries each shard of its own that these rows are in."""
        capture, shard_of = self.cache.header.capture, rows // self.cache.header.shard_rows
        for shard in np.unique(shard_of).tolist():
            try:
                for pooling in capture.poolings:
                    self.cache.gather(rows[shard_of == shard], pooling=pooling)
                if capture.token_states:
                    self.cache.shard_tokens(shard)
            except UserError as error:
                note(Refusal.of(self.donor, shard, error))

    def _may_lend(self, rows: npt.NDArray[np.int64], wanted: int) -> bool:
        """Values of int8 and int4 belong to their shard's scales: rounding them twice would add to the error, so a
        whole shard is lent or nothing.
        """
        capture = self.cache.header.capture
        kinds = (capture.storage_type, capture.tokens and capture.tokens.storage_type)
        if not any(kind in store.SCALED for kind in kinds):
            return True
        start = int(rows[0])
        shard = self.cache.header.rows_of(start // self.cache.header.shard_rows)
        whole = len(rows) == wanted == shard.stop - shard.start and start == shard.start
        return whole and bool((np.diff(rows) == 1).all())


@functools.lru_cache(maxsize=4)
def _lender(donor: str, run: str) -> _Lender:
    return _open(donor)


def _open(donor: str) -> _Lender:
    cache = store.open_proven(donor)
    return _Lender(donor, cache, TextIndex(cache.text_id_rows()))


def _is_finished(donor: str) -> bool:
    try:
        return store.peek(donor)[1]
    except UserError as error:
        return error.found != "nothing there"


def refusals_in_words(refusals: Sequence[Refusal]) -> list[str]:
    """A line for each donor that was refused in part or as a whole."""
    lines = []
    for donor in dict.fromkeys(refusal.donor for refusal in refusals):
        own = {refusal.shard: refusal.why for refusal in refusals if refusal.donor == donor}
        if None in own:
            lines.append(f"donor {donor} lends nothing: {own[None]}")
            continue
        named = [f"shard {shard} ({own[shard]})" for shard in sorted(own, key=lambda shard: shard or 0)]
        more = f" and {len(named) - NAMED:,} more" if len(named) > NAMED else ""
        lines.append(
            f"donor {donor}: {len(named):,} of its shards are not as its list of checksums says and lent nothing: "
            f"{', '.join(named[:NAMED])}{more}; 'ilse verify {donor}' lists all damage"
        )
    return lines
