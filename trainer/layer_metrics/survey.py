"""All metrics of a cache's layers: of rows, of pairs of layers, of tokens and of probes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.store import Cache
from trainer.analysis import cka
from trainer.layer_metrics import tokens
from trainer.layer_metrics.geometry import Mean
from trainer.layer_metrics.labels import Labels
from trainer.layer_metrics.measuring import NOTHING_DIFFERS, Options, measure_rows
from trainer.layer_metrics.probes import Probed, probe
from trainer.layer_metrics.sampling import drawn
from trainer.layer_metrics.table import Figure, frame
from trainer.layer_metrics.viewing import Viewed, measure_views


@dataclass(frozen=True)
class Survey:
    """The table of figures, and the probes that `advice` goes by; without labels there are none."""

    table: pl.DataFrame
    probed: Probed | None


def survey(cache: Cache, labels: Labels | None, options: Options, viewed: Viewed | None = None) -> Survey:
    """All metrics of a cache, including those of views if there are any.

    Raises `UserError` for a pooling that the cache does not hold, and for what is damaged.
    """
    figures, sample = measure_rows(cache, labels, options, _alike_texts(cache, options))
    figures += _alike(sample, cache)
    del sample  # some 100 MB
    if cache.token_layers:
        figures += _of_tokens(cache, options)
    if viewed is not None:
        figures += measure_views(cache, viewed, options)
    probed = None
    if labels is not None:
        probed, why = probe(cache, labels, options.pooling, options.texts, options.budget)
        figures += _of_probes(cache, probed, why)
    figures.sort(key=lambda figure: (figure.other is not None, figure.layer))  # pairs behind all others
    return Survey(frame(figures, cache.layers), probed)


def _alike_texts(cache: Cache, options: Options) -> int:
    """Texts that CKA is of: their rows, as they are and standardised, and their Gram matrices fit the budget."""
    values, width = options.budget // (4 * len(cache.layers)), 2 * cache.dim
    fitting = int((math.sqrt(width**2 + 4 * values) - width) / 2)  # n · (2 · dim + n) values per layer
    return min(cka.TEXTS, options.texts, fitting)


def _alike(sample: Float[Tensor, "texts layers dim"], cache: Cache) -> Iterator[Figure]:
    """CKA of every layer with every layer, by the same code as `ilse analyse`."""
    texts, last = len(sample), len(cache.layers) - 1
    if texts < cka.LEAST_TEXTS:
        why = f"CKA takes {cka.LEAST_TEXTS} texts, {texts} are here and fit the memory budget"
        yield from (Figure(layer, "cka_last", None, texts, note=why) for layer in range(last + 1))
        return
    varies = [bool((layer != layer[0]).any()) for layer in sample.unbind(1)]
    for row in cka.table(sample, cache.layers):
        a, b = row["layer_a"], row["layer_b"]
        known = varies[a] and varies[b]
        value, note = (row["cka"], "") if known else (None, f"in one of the two {NOTHING_DIFFERS}")
        yield Figure(a, "cka", value, texts, note=note, other=b)
        if b == last:
            yield Figure(a, "cka_last", value, texts, note=note)


def _of_tokens(cache: Cache, options: Options) -> Iterator[Figure]:
    """Means over a sample of texts."""
    published = options.variant == "published"
    rows = drawn(cache.text_id_rows(), options.texts)
    found = tokens.of_texts(cache, rows, options.alpha, options.normalise, published, options.budget)
    counts = torch.from_numpy(cache.token_counts()[rows])
    basis = cache.header.capture.tokens
    of_basis = f"of states in the cache's basis of rank {basis.rank}" if basis and basis.rank is not None else ""
    for place, metric in enumerate(tokens.METRICS):
        least = 3 if metric == "curvature" and not published else 2
        for column, layer in enumerate(cache.token_layers):
            values = found[:, place, column]
            left = values.isnan()
            odd = int((left & (counts >= least)).sum())
            note = f"{int(left.sum())} texts have fewer than {least} tokens, or none that differ" if left.any() else ""
            mean = Mean()
            mean.add(values[~left])
            value, error = mean.value, mean.error
            if published and odd:
                value, error = None, None
                note = f"NaN in the published code: {odd} texts have a token at the mean of their tokens"
            notes = "; ".join(filter(None, [note, of_basis]))
            yield Figure(layer, metric, value, mean.count, error, int(left.sum()), notes)


def _of_probes(cache: Cache, probed: Probed | None, why: str) -> Iterator[Figure]:
    if probed is None:
        yield from (Figure(layer, "probe", None, 0, note=why) for layer in range(len(cache.layers)))
        return
    texts = len(probed.y)
    for layer, score in enumerate(probed.right.double().mean(0).tolist()):
        yield Figure(layer, "probe", score, texts, math.sqrt(score * (1 - score) / texts))
