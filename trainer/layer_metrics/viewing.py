"""Metrics of several views of the same texts: the caches that hold them, and the pass over a sample of their rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ilse.core.errors import UserError
from pipeline.store import Cache, open_cache
from trainer.data.joined import rows_in
from trainer.layer_metrics import views
from trainer.layer_metrics.measuring import Options, require_finite
from trainer.layer_metrics.sampling import drawn
from trainer.layer_metrics.spectra import normalised
from trainer.layer_metrics.table import Figure
from trainer.rows.stored import gather

LEAST_VIEWS = 2
OF_DIME = 500
"""Most texts of DiME, which takes eleven spectra of texts × texts per layer."""


class Viewed:
    """Caches that hold views of the texts of another cache.

    Raises
    ------
    UserError
        For fewer than two, for one of other layers, another width or another model, of other texts, or of a capture
        that stands there twice, and as `open_cache` does.
    """

    def __init__(self, cache: Cache, places: Sequence[str]) -> None:
        self._caches = [open_cache(place) for place in places]
        if len(self._caches) < LEAST_VIEWS:
            expected = f"at least {LEAST_VIEWS} caches of views, each of the texts with another noise"
            raise _refused("option views", expected, str(len(self._caches)), "extract with another extract.noise.seed")
        for view in self._caches:
            if (view.layers, view.dim) != (cache.layers, cache.dim):
                shapes = [f"{len(one.layers)} layers of width {one.dim}" for one in (cache, view)]
                raise _refused(f"view {view.path}", f"the cache's own layers, {shapes[0]}", shapes[1], _SAME)
            if view.header.capture.model != cache.header.capture.model:
                names = [one.header.model_name for one in (cache, view)]
                raise _refused(f"view {view.path}", f"rows of the cache's own model, {names[0]}", names[1], _SAME)
        prints = [view.fingerprint for view in self._caches]
        if len(set(prints)) < len(prints):
            expected = "views that differ: another noise, or another seed of it, in each"
            raise _refused("option views", expected, "the same capture twice", "extract with another seed")
        ids = cache.text_id_rows()
        self._rows = [rows_in(ids, view.text_id_rows(), cache, view) for view in self._caches]

    def __len__(self) -> int:
        return len(self._caches)

    def gathered(self, texts: NDArray[np.int64], layers: Sequence[int], pooling: str) -> Tensor:
        """The rows of these texts of the other cache, float32 [views, texts, layers, width]."""
        found = []
        for view, rows in zip(self._caches, self._rows, strict=True):
            x = gather(view, rows[texts], layers, pooling)
            require_finite(view, x, tuple(layers))
            found.append(x)
        return torch.stack(found)


_SAME = "extract the views with the same model and extract.layers"


def measure_views(cache: Cache, viewed: Viewed, options: Options) -> Iterator[Figure]:
    """InfoNCE, LiDAR and DiME of every layer, of the sample's texts."""
    texts, every = drawn(cache.text_id_rows(), options.texts), range(len(cache.layers))
    size = max(1, options.budget // (12 * len(viewed) * len(texts) * cache.dim))
    for first in range(0, len(every), size):
        layers = tuple(every[first : first + size])
        rows = viewed.gathered(texts, layers, options.pooling)
        for at, layer in enumerate(layers):
            yield from _of_layer(layer, rows[:, :, at].double(), options)


def _of_layer(layer: int, x: Tensor, options: Options) -> Iterator[Figure]:
    """`x` is [views, texts, width]."""
    known = (x.norm(dim=2) > 0).all(0)
    x, left = x[:, known], int((~known).sum())
    texts, width, published = x.shape[1], x.shape[2], options.variant == "published"
    note = f"{left} texts have a view whose row is 0" if left else ""
    if texts < 2 or not bool((x != x[:, :1]).any()):
        why = "two texts with a row in every view are needed" if texts < 2 else "no text differs from another"
        yield from (Figure(layer, name, None, texts, excluded=left, note=why) for name in views.NAMES)
        return
    loss = views.infonce(x, published)
    yield Figure(layer, "infonce", loss.value, texts, loss.error, left, note)
    rank = views.lidar(x, published)
    value = None if rank is None else rank.value
    if value is not None and published:
        value = normalised(value, options.normalise, texts, width)
    yield Figure(layer, "lidar", value, texts, excluded=left, note=note if value is not None else _NO_SPREAD)
    some = x[:, :OF_DIME]
    apart = views.dime(some, options.alpha, published)
    shared = normalised(1.0, options.normalise, some.shape[1], width)
    if shared is None:
        yield Figure(layer, "dime", None, some.shape[1], excluded=left, note="what it is divided by is log 1 = 0")
        return
    error = None if apart.error is None else apart.error * shared
    yield Figure(layer, "dime", apart.value * shared, some.shape[1], error, left, note)


_NO_SPREAD = "the texts' means are all the same, or rows vary too little within texts for their variance to be inverted"


def _refused(where: str, expected: str, found: str, next_step: str) -> UserError:
    return UserError(where, expected=expected, found=found, next_step=next_step)
