"""Agreement of texts with noisy versions of themselves, in one layer (Skean et al., arXiv 2502.02013).

`x` [views, texts, width] are rows of the same texts in several caches.

    InfoNCE  −log(e^{s⁺} / (e^{s⁺} + Σ e^{s⁻})), mean over the rows of two views, s = cosine / 0.1: of the text's row in
             the other view, s⁺, and of all other rows of both (van den Oord et al. 2018; as in SimCLR)
    LiDAR    e^S₁ of Σ_w^{-1/2} Σ_b Σ_w^{-1/2}: a text is a class, its views are the members (Thilak et al., 2312.04000)
    DiME     mean over permutations P of S₁(K₁ ∘ P K₂ Pᵀ), less S₁(K₁ ∘ K₂), K the cosines of a view's rows (Skean et
             al., 2301.08164)

The published code takes rows as they are for InfoNCE and DiME. It clamps K at 0, and replaces it by width × width for
more texts than coordinates: there a permutation is of coordinates, and no longer mismatches texts. It adds 1e-4 · I to
Σ_w whatever the scale, and keeps LiDAR's entropy without the exponential.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from trainer.layer_metrics import spectra

TEMPERATURE = 0.1
WITHIN = 1e-4
"""What LiDAR adds to the variance within a text, relative to its mean over coordinates."""
PERMUTATIONS = 10
NAMES = ("infonce", "lidar", "dime")

Views = Float[Tensor, "views texts width"]
Gram = Float[Tensor, "size size"]


@dataclass(frozen=True)
class Agreement:
    """A figure, and its standard error where it is a mean."""

    value: float
    error: float | None = None


def directed(x: Views) -> Views:
    """Rows of length 1. There must be no row of zeros."""
    unit: Tensor = x / x.norm(dim=2, keepdim=True)
    return unit


def infonce(x: Views, published: bool = False) -> Agreement:
    """InfoNCE of the first two views, at least two texts, float64, in nats; the error is over texts."""
    rows = (x[:2] if published else directed(x[:2])).flatten(0, 1)
    texts = x.shape[1]
    alike = (rows @ rows.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    partner = torch.arange(2 * texts).roll(texts)
    losses = (alike.logsumexp(1) - alike[torch.arange(2 * texts), partner]).view(2, texts).mean(0)
    return Agreement(float(losses.mean()), float(losses.std()) / texts**0.5)


def lidar(x: Views, published: bool = False) -> Agreement | None:
    """LiDAR of at least two views and texts, float64; None if all texts are equal, or Σ_w cannot be inverted."""
    views, texts, width = x.shape
    means = x.mean(0)
    within = (x - means).flatten(0, 1)
    between = means - means.mean(0)
    scatter = within.T @ within / (views * texts)
    scale = 1.0 if published else float(scatter.diagonal().mean()) or 1.0
    scatter.diagonal().add_(WITHIN * scale)
    root, failed = torch.linalg.cholesky_ex(scatter)
    if int(failed):
        return None
    # The same eigenvalues, but for zeros, as Σ_w^{-1/2} Σ_b Σ_w^{-1/2}.
    whitened = torch.linalg.solve_triangular(root, between.T, upper=False) / texts**0.5
    gram = whitened.T @ whitened if texts <= width else whitened @ whitened.T
    eigenvalues = torch.linalg.eigvalsh(gram)
    if not bool((eigenvalues > 0).any()):
        return None
    return Agreement(spectra.entropy(eigenvalues) if published else spectra.effective_rank(eigenvalues))


def dime(x: Views, alpha: float = 1.0, published: bool = False) -> Agreement:
    """DiME of the first two views, float64, in nats; the error is over permutations."""
    if published:
        one, other = (_published_gram(view) for view in x[:2])
    else:
        one, other = (view @ view.T for view in directed(x[:2]))
    random = torch.Generator().manual_seed(0)
    mixed = []
    for _ in range(PERMUTATIONS):
        order = torch.randperm(len(other), generator=random)
        mixed.append(spectra.entropy(torch.linalg.eigvalsh(one * other[order][:, order]), alpha))
    apart = torch.tensor(mixed, dtype=torch.float64)
    joint = spectra.entropy(torch.linalg.eigvalsh(one * other), alpha)
    return Agreement(float(apart.mean()) - joint, float(apart.std()) / PERMUTATIONS**0.5)


def _published_gram(view: Float[Tensor, "texts width"]) -> Gram:
    gram = view.T @ view if view.shape[0] > view.shape[1] else view @ view.T
    clamped: Tensor = gram.clamp(min=0)
    return clamped
