"""Two caches of the same texts, matched by the texts' ids, and their rows side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ilse.core.errors import UserError
from pipeline.store import Cache, TextIds, open_cache
from trainer.data.text_rows import matched_rows
from trainer.layer_metrics.measuring import require_finite
from trainer.rows.stored import gather

Rows = Float[Tensor, "texts layers width"]
Both = tuple[Rows, Float[Tensor, "texts layers others"]]
"""The rows of some texts, of the first cache and of the second."""


@dataclass(frozen=True)
class Matched:
    """Two caches, and where in each of them their common texts are.

    Parameters
    ----------
    a, b
        The caches; all texts of one of them are in the other.
    in_a, in_b
        Rows of the common texts, [texts], in the order of `a`.
    """

    a: Cache
    b: Cache
    in_a: NDArray[np.int64]
    in_b: NDArray[np.int64]

    @property
    def texts(self) -> int:
        """Number of matched texts."""
        return len(self.in_a)

    @property
    def text_ids(self) -> TextIds:
        """Theirs, [texts, bytes]."""
        return self.a.text_id_rows()[self.in_a]

    @property
    def same_shape(self) -> bool:
        """Whether rows can be subtracted."""
        return self.a.dim == self.b.dim

    def rows(self, texts: NDArray[np.int64], layers: Sequence[int], pooling: str) -> Both:
        """Rows of the chosen texts in both caches. Raises `UserError` for rows that are damaged or not finite."""
        return self.rows_of_a(texts, layers, pooling), self.rows_of_b(texts, layers, pooling)

    def rows_of_a(self, texts: NDArray[np.int64], layers: Sequence[int], pooling: str) -> Rows:
        """Rows of the chosen texts in the first cache."""
        return _finite_rows(self.a, self.in_a[texts], layers, pooling)

    def rows_of_b(self, texts: NDArray[np.int64], layers: Sequence[int], pooling: str) -> Rows:
        """Rows of the chosen texts in the second cache."""
        return _finite_rows(self.b, self.in_b[texts], layers, pooling)

    def pieces(self, size: int) -> Iterator[NDArray[np.int64]]:
        """All texts in order, at most `size` at a time."""
        for start in range(0, self.texts, size):
            yield np.arange(start, min(self.texts, start + size))


def matched(a: str, b: str) -> Matched:
    """Two caches by their places.

    Raises `UserError` as `open_cache` does, for caches of other layers, and where each has texts that the other lacks.
    """
    first, second = open_cache(a), open_cache(b)
    _require_same_layers(first, second)
    in_b = matched_rows(second.text_id_rows(), first.text_id_rows())
    known = in_b >= 0
    lacking, further = int((~known).sum()), second.header.texts - int(known.sum())
    if lacking and further:
        raise UserError(
            f"caches {first.path} and {second.path}",
            expected="the same texts in both, by their ids, or all texts of one of them in the other",
            found=f"{lacking:,} of {len(known):,} texts of the first that the second lacks, and {further:,} of "
            f"{second.header.texts:,} of the second that the first lacks",
            next_step="run 'ilse extract' for both on one table of texts, or 'ilse subset --texts' on both",
        )
    return Matched(first, second, np.flatnonzero(known), in_b[known])


def _finite_rows(cache: Cache, places: NDArray[np.int64], layers: Sequence[int], pooling: str) -> Rows:
    x = gather(cache, places, layers, pooling)
    require_finite(cache, x, tuple(layers))
    return x


def _require_same_layers(a: Cache, b: Cache) -> None:
    if a.layers == b.layers:
        return
    differing = [f"'{one}' and '{other}'" for one, other in zip(a.layers, b.layers, strict=False) if one != other]
    found = f"{len(a.layers)} layers and {len(b.layers)}"
    raise UserError(
        f"caches {a.path} and {b.path}",
        expected="the same layers in both",
        found=f"{found}, of which {differing[0]} differ first" if differing else found,
        next_step="bring both to the same ones with 'ilse subset --layers'",
    )
