"""Entropy, effective ranks and anisotropy of a spectrum: the eigenvalues λ of a Gram matrix.

    S_α = log Σ p^α / (1 − α),  S_1 = −Σ p log p,  p = λ / Σλ   (Sánchez Giraldo et al. 2014; Skean et al., 2502.02013)

A Gram matrix XXᵀ and XᵀX have the same positive eigenvalues, so the smaller one does. The three ranks are exponentials
of entropies: RankMe of singular values σ = √λ (Garrido et al., 2210.02885, after Roy and Vetterli 2007), e^S₁, and the
participation ratio (Σλ)² / Σλ² = e^S₂. As λ is more peaked than σ, they only ever fall in this order.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Normalise = Literal["raw", "log_n", "log_d", "log_n_log_d", "max"]
Spectrum = Float[Tensor, " values"]


def positive(eigenvalues: Spectrum) -> Float[Tensor, " positive"]:
    """Eigenvalues above rounding, as in NumPy's `matrix_rank`: a zero one comes out as some 1e-16 of the largest.

    Its root, which RankMe sums, would be 1e-8 of the largest singular value.
    """
    largest = eigenvalues.max().clamp(min=0)
    return eigenvalues[eigenvalues > len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps * largest]


def entropy(eigenvalues: Spectrum, alpha: float = 1.0) -> float:
    """S_α in nats. There must be a positive eigenvalue; others count for nothing."""
    shares = _shares(positive(eigenvalues))
    if abs(alpha - 1) < 1e-9:
        return abs(float(-(shares * shares.log()).sum()))  # of one share, 0 and not −0
    return float(torch.logsumexp(alpha * shares.log(), 0) / (1 - alpha))


def normalised(value: float, by: Normalise, rows: int, dim: int) -> float | None:
    """An entropy over what it could be at most (`max`), or by the logarithms alone; None where those are 0."""
    n, d = math.log(rows), math.log(dim)
    over = {"raw": 1.0, "log_n": n, "log_d": d, "log_n_log_d": n * d, "max": min(n, d)}[by]
    return value / over if over > 0 else None


def rankme(eigenvalues: Spectrum) -> float:
    """The exponential of the entropy of the singular values."""
    return math.exp(entropy(positive(eigenvalues).sqrt()))


def effective_rank(eigenvalues: Spectrum) -> float:
    """The exponential of the entropy of the eigenvalues."""
    return math.exp(entropy(eigenvalues))


def participation(eigenvalues: Spectrum) -> float:
    """(Σλ)² / Σλ²."""
    shares = _shares(positive(eigenvalues))
    return float(1 / shares.square().sum())


def anisotropy(eigenvalues: Spectrum) -> float:
    """The largest eigenvalue's share of their sum: of a centred Gram matrix, of the variance."""
    return float(_shares(positive(eigenvalues)).max())


def clamped(gram: Float[Tensor, "size size"]) -> Spectrum:
    """The spectrum as the published code has it: of the matrix with its negative entries set to 0.

    That is no Gram matrix of any rows: texts that point apart count as unrelated, its eigenvalues may be negative, and
    XXᵀ and XᵀX no longer agree, between which that code changes at N > D. Ours leaves the entries as they are.
    """
    found: Tensor = torch.linalg.eigvalsh(gram.clamp(min=0))
    return found


def _shares(eigenvalues: Spectrum) -> Spectrum:
    return eigenvalues / eigenvalues.sum()
