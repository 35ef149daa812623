"""Entropy, curvature and anisotropy of the tokens of a text in each layer (Skean et al., arXiv 2502.02013).

    prompt entropy   S_α of the Gram matrix of z, z = (x − mean over tokens) / its length
    curvature        mean over k of the angle between v_k and v_{k+1}, v_k = x_{k+1} − x_k, in radians
    anisotropy       the largest share of the variance of a text's tokens that one direction holds

A figure is NaN in here where a text has none: of one token all lie at the mean, and an angle takes three. The caller
counts those. The published code takes the angle between z_k and z_{k+1}, so between states and not between steps, and
sets negative entries of the Gram matrix to 0 (`spectra.clamped`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from pipeline.store import Cache, value_bytes
from trainer.layer_metrics import spectra

METRICS = ("prompt_entropy", "curvature", "token_anisotropy")
WORKING_VALUES = 2**22
"""Float64 values of a text's layers that are processed at a time: 32 MB, and a few such copies."""

States = Float[Tensor, "tokens layers width"]
Figures = Float[Tensor, "metrics layers"]


def of_text(states: States, alpha: float, normalise: spectra.Normalise, published: bool) -> Figures:
    """The figures of `METRICS` for each layer, NaN where the text has none."""
    tokens, layers, width = states.shape
    if tokens < 2:
        return torch.full((len(METRICS), layers), torch.nan, dtype=torch.float64)
    size = max(1, WORKING_VALUES // max(tokens * width, min(tokens, width) ** 2))
    return torch.cat([_of_layers(part, alpha, normalise, published) for part in states.split(size, dim=1)], dim=1)


def _of_layers(states: States, alpha: float, normalise: spectra.Normalise, published: bool) -> Figures:
    x = states.double().transpose(0, 1)
    centred = x - x.mean(1, keepdim=True)
    norms = centred.norm(dim=2, keepdim=True)
    if published:  # 0 / 0 is NaN there too, of the whole text
        unit = centred / norms
        spectrum = _eigenvalues(_gram(unit).clamp(min=0))
        steps = unit
    else:  # a token at the mean has no direction, and adds none
        unit = centred / norms.where(norms > 0, 1.0)
        spectrum = _eigenvalues(_gram(unit))
        steps = x.diff(dim=1)
    entropies = [_entropy(values, alpha) for values in spectrum]
    per = [spectra.normalised(value, normalise, x.shape[1], x.shape[2]) for value in entropies]
    largest = _eigenvalues(_gram(centred)).amax(1) / centred.square().sum((1, 2))
    told = torch.tensor([torch.nan if value is None else value for value in per], dtype=torch.float64)
    return torch.stack([told, _angles(steps), largest])


def _entropy(eigenvalues: Float[Tensor, " values"], alpha: float) -> float:
    return spectra.entropy(eigenvalues, alpha) if bool((eigenvalues > 0).any()) else float("nan")


def _gram(x: Float[Tensor, "layers tokens width"]) -> Float[Tensor, "layers size size"]:
    gram: Tensor = x @ x.mT if x.shape[1] <= x.shape[2] else x.mT @ x
    return gram


def _eigenvalues(gram: Float[Tensor, "layers size size"]) -> Float[Tensor, "layers size"]:
    """NaN for a matrix with NaN, of which LAPACK knows none."""
    known = gram.flatten(1).isfinite().all(1)
    found = torch.full(gram.shape[:2], torch.nan, dtype=gram.dtype)
    if known.any():
        found[known] = torch.linalg.eigvalsh(gram[known])
    return found


def _angles(steps: Float[Tensor, "layers steps width"]) -> Float[Tensor, " layers"]:
    """Mean angle between one and the next, of those that have a direction; NaN of none."""
    norms = steps.norm(dim=2)
    both = norms[:, :-1] * norms[:, 1:]
    cosines = (steps[:, :-1] * steps[:, 1:]).sum(2) / both
    known = ~(both == 0)  # NaN stays: it is the published code's own
    angles = cosines.clamp(-1, 1).arccos().where(known, 0.0)
    mean: Tensor = angles.sum(1) / known.sum(1)
    return mean


def of_texts(
    cache: Cache, rows: NDArray[np.int64], alpha: float, normalise: spectra.Normalise, published: bool, budget: int
) -> Float[Tensor, "texts metrics layers"]:
    """The figures of chosen texts for each of `cache.token_layers`; at most `budget` bytes of a shard are held."""
    found = torch.full((len(rows), len(METRICS), len(cache.token_layers)), torch.nan, dtype=torch.float64)
    shard_of, counts = rows // cache.header.shard_rows, cache.token_counts()
    for shard in np.unique(shard_of).tolist():
        texts = np.flatnonzero(shard_of == shard)
        for first, layers in _groups(cache, int(counts[cache.header.rows_of(shard)].sum()), budget):
            held = cache.shard_tokens(shard, layers)
            for text in texts.tolist():
                states = torch.from_numpy(held.text(int(rows[text]) % cache.header.shard_rows))
                figures = of_text(states, alpha, normalise, published)
                found[text, :, first : first + len(layers)] = figures
    return found


def _groups(cache: Cache, tokens: int, budget: int) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Layers whose states of this many tokens are read at once, with the place of the first."""
    spec = cache.header.capture.tokens
    assert spec is not None
    size = max(1, budget // max(1, tokens * cache.token_width * value_bytes(spec.storage_type)))
    for first in range(0, len(cache.token_layers), size):
        yield first, cache.token_layers[first : first + size]
