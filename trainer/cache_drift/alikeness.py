"""Linear CKA of two sets of rows for the same texts, of any widths, without bias and with its error.

The estimate is that of `trainer.analysis.cka` (HSIC₁, Song et al. 2012, eq. 5), from sums over two Gram matrices K
and L without their diagonals:

    HSIC₁ = (Σ KᵢⱼLᵢⱼ + 1ᵀK1 · 1ᵀL1 / ((n − 1)(n − 2)) − 2 · 1ᵀKL1 / (n − 2)) / (n (n − 3))

Without a group of texts each of these sums loses that group's rows and columns, so a jackknife over groups (Tukey 1958)
costs no more than the matrices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from trainer.analysis.cka import LEAST_TEXTS

__all__ = ["LEAST_TEXTS", "Alikeness", "alikeness"]

GROUPS = 20
"""Groups of the jackknife, given enough texts: it then knows the error to 1/√38 = 16 %."""

Gram = Float[Tensor, "texts texts"]


@dataclass(frozen=True)
class Alikeness:
    """CKA, and its standard error over the choice of texts; None of too few texts to leave some out."""

    value: float
    error: float | None


def alikeness(x: Float[Tensor, "texts width"], y: Float[Tensor, "texts others"]) -> Alikeness:
    """Similarity of two sets of rows, float64, of at least `LEAST_TEXTS` texts that are not all equal."""
    k, other = _gram(x), _gram(y)
    texts = len(k)
    value = _cka(k, other, torch.arange(0))
    if texts < GROUPS * 2:
        return Alikeness(value, None)
    left_out = [_cka(k, other, torch.arange(first, texts, GROUPS)) for first in range(GROUPS)]
    mean = sum(left_out) / GROUPS
    spread = sum((one - mean) ** 2 for one in left_out)
    return Alikeness(value, math.sqrt(spread * (GROUPS - 1) / GROUPS))


def _gram(x: Float[Tensor, "texts width"]) -> Gram:
    centred = x - x.mean(0)  # which changes no estimate, and keeps its digits
    return (centred @ centred.T).fill_diagonal_(0)


def _cka(k: Gram, other: Gram, without: Int[Tensor, " left"]) -> float:
    norms = _hsic(k, k, without) * _hsic(other, other, without)
    return _hsic(k, other, without) / math.sqrt(norms) if norms > 0 else 0.0


def _hsic(k: Gram, other: Gram, without: Int[Tensor, " left"]) -> float:
    n = len(k) - len(without)
    product = torch.tensordot(k, other)
    product = product - 2 * torch.tensordot(k[without], other[without])
    corner = without[:, None], without
    product = product + torch.tensordot(k[corner], other[corner])
    sums, others = (_row_sums(one, without) for one in (k, other))
    means = sums.sum() * others.sum() / ((n - 1) * (n - 2))
    return float((product + means - 2 / (n - 2) * (sums @ others)) / (n * (n - 3)))


def _row_sums(k: Gram, without: Int[Tensor, " left"]) -> Float[Tensor, " texts"]:
    """Over the texts that stay, and 0 for those that do not."""
    sums = k.sum(1) - k[:, without].sum(1)
    sums[without] = 0
    return sums
