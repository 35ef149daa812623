"""Measures all layers of a cache in one pass over its pooled rows.

Layers are taken in groups whose sums fit the memory budget. A layer's bytes lie side by side in the cache, so several
groups read no byte twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ilse.core.errors import UserError
from pipeline.store import Cache, chunk_bytes
from trainer.layer_metrics import spectra
from trainer.layer_metrics.dimension import two_nn
from trainer.layer_metrics.geometry import Geometry, Mean
from trainer.layer_metrics.labels import Labels
from trainer.layer_metrics.moments import Moments
from trainer.layer_metrics.sampling import drawn
from trainer.layer_metrics.separation import Fisher, silhouettes
from trainer.layer_metrics.table import Figure
from trainer.rows.stored import Room

Variant = Literal["ours", "published"]
BUDGET = 256 * 2**20
NOTHING_DIFFERS = "no text differs from another"
RANKS: dict[str, Callable[[Tensor], float]] = {
    "rankme": spectra.rankme,
    "effective_rank": spectra.effective_rank,
    "participation": spectra.participation,
}


@dataclass(frozen=True)
class Options:
    """How the figures are computed.

    Parameters
    ----------
    variant
        `published`: entropy and curvature as the published code of arXiv 2502.02013 computes them.
    alpha
        Order of the entropies.
    normalise
        What they are divided by.
    pooling
        Which rows are read.
    texts
        Of a sample, for figures that are no sums over all texts.
    budget
        Bytes for sums and samples.
    """

    variant: Variant = "ours"
    alpha: float = 1.0
    normalise: spectra.Normalise = "raw"
    pooling: str = "mean"
    texts: int = 1_000
    budget: int = BUDGET


def budget_of(gigabytes: int | float | None) -> int:
    """The bytes of a budget that is given, or the default. Raises `UserError` for one that is no positive number."""
    if gigabytes is None:
        return BUDGET
    if not 0 < gigabytes < float("inf"):
        raise UserError(
            "option memory_budget", expected="GB above 0", found=f"{gigabytes:g}", next_step="give it such as 0.5"
        )
    return int(1e9 * gigabytes)


class LayerSums:
    """Sums over the rows of one layer."""

    def __init__(self, texts: int, dim: int, labels: Labels | None) -> None:
        self.moments, self.geometry = Moments(texts, dim), Geometry(dim)
        self.fisher = None if labels is None else Fisher(len(labels.names), dim)

    def add(self, x: Float[Tensor, "rows dim"], y: Tensor | None) -> None:
        """Some more rows, float64, with the labels of those that have one."""
        self.moments.add(x)
        self.geometry.add(x)
        if self.fisher is not None and y is not None:
            self.fisher.add(x[y >= 0], y[y >= 0])


def measure_rows(
    cache: Cache, labels: Labels | None, options: Options, kept: int
) -> tuple[list[Figure], Float[Tensor, "texts layers dim"]]:
    """The figures of pooled rows by layer, and the rows of the sample's first `kept` texts in all layers."""
    ids, width, every = cache.text_id_rows(), cache.dim, range(len(cache.layers))
    chosen = drawn(ids, options.texts)
    labelled = None if labels is None else drawn(ids, options.texts, np.flatnonzero(labels.of_row >= 0))
    rows = np.union1d(chosen, chosen if labelled is None else labelled)
    size = _layers_at_once(cache, len(rows), 0 if labels is None else len(labels.names), options.budget)
    sample, figures = torch.empty(min(kept, len(chosen)), len(every), width), list[Figure]()
    for first in range(0, len(every), size):
        layers = tuple(every[first : first + size])
        sums = [LayerSums(cache.header.texts, width, labels) for _ in layers]
        held = _pass(cache, layers, sums, labels, rows, options.pooling)
        sample[:, first : first + len(layers)] = held[np.searchsorted(rows, chosen[: len(sample)])]
        for place, layer in enumerate(layers):
            figures += _of_sums(layer, sums[place], labels, options)
            x = held[:, place].double()
            figures.append(_dimension(layer, x[np.searchsorted(rows, chosen)]))
            if labels is not None and labelled is not None:
                y = torch.from_numpy(labels.of_row[labelled])
                figures.append(_silhouette(layer, x[np.searchsorted(rows, labelled)], y))
            sums[place] = None  # type: ignore[call-overload]  # its matrix is no longer needed
    return figures, sample


def _layers_at_once(cache: Cache, sampled: int, labels: int, budget: int) -> int:
    """Layers whose sums, sampled rows and shard fit the budget; a matrix of one layer has some copies."""
    matrix = 8 * min(cache.header.texts, cache.dim) * cache.dim
    shard = chunk_bytes(cache.header) + 4 * cache.header.shard_rows * cache.dim
    layer = matrix + (4 * sampled + 8 * labels) * cache.dim + shard
    return max(1, (budget - 4 * matrix) // layer)


def _pass(
    cache: Cache,
    layers: tuple[int, ...],
    sums: list[LayerSums],
    labels: Labels | None,
    sampled: NDArray[np.int64],
    pooling: str,
) -> Float[Tensor, "texts layers dim"]:
    """Adds all rows of these layers to their sums; returns those of the `sampled` texts, which ascend."""
    room = Room.of(cache, layers, pooling, 1)
    kept = torch.empty(len(sampled), len(layers), cache.dim)
    for shard, rows in enumerate(cache.shards()):
        if shard + 1 < cache.header.shards:
            cache.announce(shard + 1, layers, pooling)
        room.read(0, shard)
        inside = torch.arange(rows.stop - rows.start)
        x = room.rows(room.starts(torch.zeros_like(inside), inside))
        require_finite(cache, x, layers)
        first, last = np.searchsorted(sampled, [rows.start, rows.stop])
        kept[first:last] = x[sampled[first:last] - rows.start]
        y = None if labels is None else torch.from_numpy(labels.of_row[rows])
        for place, of_layer in enumerate(sums):
            of_layer.add(x[:, place].double(), y)
    return kept


def require_finite(cache: Cache, x: Float[Tensor, "rows layers dim"], layers: tuple[int, ...]) -> None:
    """Raises `UserError` for rows of these layers of the cache that hold NaN or infinities."""
    known = x.sum((0, 2), dtype=torch.float64).isfinite()
    if not known.all():
        raise UserError(
            f"cache {cache.path}, layer '{cache.layers[layers[int((~known).nonzero()[0])]]}'",
            expected="finite values",
            found="NaN or infinite ones",
            next_step="extract the cache again in float32 or bfloat16",
        )


def _of_sums(layer: int, sums: LayerSums, labels: Labels | None, options: Options) -> Iterator[Figure]:
    yield from _of_spectra(layer, sums.moments, options)
    geometry, texts = sums.geometry, sums.geometry.seen
    without = texts - geometry.directed
    note = f"{without} texts whose row is 0 have no direction" if without else ""
    cosine = geometry.cosine
    few = "a pair of texts takes two of them with a direction"
    yield Figure(layer, "cosine", cosine, geometry.directed, excluded=without, note=note if cosine is not None else few)
    yield average(layer, "norm", geometry.norm, texts, "")
    yield average(layer, "massive", geometry.massive, texts, "texts whose row has the median 0")
    if sums.fisher is not None and labels is not None:
        value, why = sums.fisher.value()
        several = f"{labels.excluded} texts with several labels are left out" if labels.excluded else ""
        told = int((labels.of_row >= 0).sum())
        yield Figure(layer, "fisher", value, told, excluded=labels.excluded, note=why or several)


def _of_spectra(layer: int, moments: Moments, options: Options) -> Iterator[Figure]:
    """Entropy and ranks of the rows as they are, and of the rows less their mean; anisotropy of the latter."""
    for centred, name in ((False, ""), (True, "_centred")):
        gram = moments.gram(centred)
        eigenvalues = torch.linalg.eigvalsh(gram)
        known = len(spectra.positive(eigenvalues)) > 0
        why = "" if known else (NOTHING_DIFFERS if centred else "every row is 0")
        of_entropy = spectra.clamped(gram) if options.variant == "published" else eigenvalues
        entropy = spectra.entropy(of_entropy, options.alpha) if known else None
        share = None if entropy is None else spectra.normalised(entropy, options.normalise, moments.texts, moments.dim)
        lost = "" if entropy is None or share is not None else "what it is divided by is log 1 = 0"
        yield Figure(layer, f"entropy{name}", share, moments.texts, note=why or lost)
        for metric, of in RANKS.items() if not centred else {**RANKS, "anisotropy": spectra.anisotropy}.items():
            shown = metric if metric == "anisotropy" else f"{metric}{name}"
            yield Figure(layer, shown, of(eigenvalues) if known else None, moments.texts, note=why)


def average(layer: int, metric: str, mean: Mean, texts: int, why: str) -> Figure:
    """A mean over texts, of which some may have no such figure."""
    left = texts - mean.count
    note = f"{left} {why}" if left else ""
    return Figure(layer, metric, mean.value, mean.count, mean.error, left, note)


def _dimension(layer: int, x: Float[Tensor, "texts dim"]) -> Figure:
    found = two_nn(x)
    copies = len(x) - found.rows
    note = f"{copies} of {len(x)} texts have the row of another" if copies else ""
    return Figure(layer, "dimension", found.value, found.rows, found.error, copies, found.why or note)


def _silhouette(layer: int, x: Float[Tensor, "texts dim"], y: Tensor) -> Figure:
    found = silhouettes(x, y)
    if found is None:
        why = "it takes two labels with two texts each that differ"
        return Figure(layer, "silhouette", None, 0, excluded=len(x), note=why)
    mean = Mean()
    mean.add(torch.from_numpy(found))
    return average(layer, "silhouette", mean, len(x), "texts are the only one of their label")
