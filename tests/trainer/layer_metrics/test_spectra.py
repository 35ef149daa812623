"""Entropy, ranks and Gram matrices against their definitions, written out in NumPy's float64, and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from trainer.layer_metrics import spectra
from trainer.layer_metrics.moments import Moments

Array = np.ndarray


def rows(texts: int, dim: int, seed: int = 0) -> Tensor:
    """Around a mean that dwarfs the spread, each coordinate with its own."""
    random = np.random.default_rng(seed)
    return torch.from_numpy(1_000 + random.normal(size=(texts, dim)) * np.geomspace(1, 20, dim))


def added(x: Tensor, *pieces: int) -> Moments:
    moments = Moments(len(x), x.shape[1])
    for part in x.split(list(pieces) or len(x)):
        moments.add(part)
    return moments


def slow_entropy(x: Array, alpha: float) -> float:
    """Of all singular values of the rows, without a Gram matrix."""
    p = np.linalg.svd(x, compute_uv=False) ** 2
    p = p / p.sum()
    p = p[p > 1e-14]
    return float(-(p * np.log(p)).sum() if alpha == 1 else np.log((p**alpha).sum()) / (1 - alpha))


def published_entropy(z: Array, alpha: float) -> float:
    """A transcription of `compute_entropy` of the published code, raw, with the spectrum of repitl."""
    n, d = z.shape
    cov = z.T @ z if n > d else z @ z.T
    cov = np.clip(cov, 0, None)
    cov = cov / np.trace(cov)
    ev = np.linalg.eigvalsh(cov)
    ev = ev[ev > 0]
    ev = ev / ev.sum()
    return float(-(ev * np.log(ev)).sum() if alpha == 1 else np.log((ev**alpha).sum()) / (1 - alpha))


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(("texts", "dim"), [(40, 6), (6, 40), (12, 12)])
def test_every_figure_of_a_spectrum_equals_its_definition(texts: int, dim: int, centred: bool) -> None:
    x = rows(texts, dim)
    plain = x.numpy() - (x.numpy().mean(0) if centred else 0)
    gram = added(x, texts // 2, texts - texts // 2).gram(centred)
    assert len(gram) == min(texts, dim)
    found = torch.linalg.eigvalsh(gram)
    for alpha in (0.5, 1.0, 1.5, 2.0):
        assert spectra.entropy(found, alpha) == pytest.approx(slow_entropy(plain, alpha), rel=1e-6)
    sigma = np.linalg.svd(plain, compute_uv=False)
    p = sigma / sigma.sum()
    p = p[p > 1e-12]
    assert spectra.rankme(found) == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-6)
    assert spectra.effective_rank(found) == pytest.approx(math.exp(slow_entropy(plain, 1)), rel=1e-6)
    assert spectra.participation(found) == pytest.approx((sigma**2).sum() ** 2 / (sigma**4).sum(), rel=1e-6)
    assert spectra.anisotropy(found) == pytest.approx(sigma[0] ** 2 / (sigma**2).sum(), rel=1e-6)
    assert spectra.rankme(found) >= spectra.effective_rank(found) >= spectra.participation(found) >= 1


@pytest.mark.parametrize(("texts", "dim"), [(30, 5), (5, 30), (8, 8)])
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_the_published_entropy_is_that_of_the_published_code(texts: int, dim: int, alpha: float) -> None:
    x = rows(texts, dim) - 1_000  # some rows point apart
    found = spectra.entropy(spectra.clamped(added(x).gram(False)), alpha)
    assert found == pytest.approx(published_entropy(x.numpy(), alpha), rel=1e-6)
    assert found != pytest.approx(slow_entropy(x.numpy(), alpha), rel=1e-5)


@pytest.mark.parametrize("rank", [1, 3, 7])
@pytest.mark.parametrize("texts", [7, 50])
def test_a_projector_of_some_rank_has_the_logarithm_of_it(rank: int, texts: int) -> None:
    axes = torch.linalg.qr(torch.randn(texts, rank, dtype=torch.float64, generator=torch.manual_seed(0))).Q
    x = torch.cat([axes, torch.zeros(texts, 20, dtype=torch.float64)], dim=1)
    found = torch.linalg.eigvalsh(added(x).gram(False))
    for alpha in (0.5, 1.0, 2.0):
        assert spectra.entropy(found, alpha) == pytest.approx(math.log(rank), abs=1e-6)
    for of in (spectra.rankme, spectra.effective_rank, spectra.participation):
        assert of(found) == pytest.approx(rank, rel=1e-6)
    assert spectra.anisotropy(found) == pytest.approx(1 / rank)


def test_duplicated_rows_change_no_spectrum_and_an_isotropic_one_is_full() -> None:
    x = rows(30, 4)
    twice = torch.cat([x, x])
    one, two = (torch.linalg.eigvalsh(added(part).gram(True)) for part in (x, twice))
    torch.testing.assert_close(two, 2 * one)
    even = torch.eye(6, dtype=torch.float64).repeat(3, 1)
    assert spectra.entropy(torch.linalg.eigvalsh(added(even).gram(False))) == pytest.approx(math.log(6))


@pytest.mark.parametrize(("texts", "dim"), [(20, 3), (3, 20)])
def test_rows_without_a_difference_have_no_centred_spectrum(texts: int, dim: int) -> None:
    x = torch.full((texts, dim), 0.1, dtype=torch.float32).double()
    assert len(spectra.positive(torch.linalg.eigvalsh(added(x).gram(True)))) == 0
    assert spectra.entropy(torch.linalg.eigvalsh(added(x).gram(False))) == pytest.approx(0, abs=1e-12)


def test_what_an_entropy_is_divided_by() -> None:
    found = {by: spectra.normalised(6.0, by, 100, 10) for by in ("raw", "log_n", "log_d", "log_n_log_d", "max")}
    n, d = math.log(100), math.log(10)
    assert found == pytest.approx({"raw": 6, "log_n": 6 / n, "log_d": 6 / d, "log_n_log_d": 6 / n / d, "max": 6 / d})
    assert spectra.normalised(1.0, "max", 1, 10) is None
