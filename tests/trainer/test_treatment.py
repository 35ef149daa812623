"""The steps before a head, each against NumPy on one layer at a time, and their order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ilse.core.errors import UserError
from trainer.config import Recipe
from trainer.treatment import PCA, Treatment, TreatmentOptions

ROWS, LAYERS, DIM = 80, 3, 6


def made() -> torch.Tensor:
    """Correlated rows of another scale and place in each layer, with one massive coordinate."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(ROWS, LAYERS, DIM)) @ generator.normal(size=(DIM, DIM))
    x = x * [[[1.0], [10.0], [100.0]]] + 7
    x[..., 2] += 24_800
    return torch.from_numpy(x.astype(np.float32))


def components(x: np.ndarray[Any, Any], kept: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Values of the first principal components of one layer by NumPy's SVD, signs as ours; and their deviations."""
    centred = x - x.mean(0)
    _, singular, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:kept]
    signs = np.sign(directions[np.arange(kept), np.abs(directions).argmax(1)])
    return centred @ (directions * signs[:, None]).T, singular[:kept] / np.sqrt(len(x))


def slow(x: torch.Tensor, options: TreatmentOptions) -> np.ndarray[Any, Any]:
    """All steps for one layer after the other, in float64."""
    layers = []
    for layer in x.double().numpy().transpose(1, 0, 2):
        z = (layer - layer.mean(0)) / layer.std(0) if options.standardise else layer
        if options.clip is not None:
            z = np.clip(z, -options.clip, options.clip)
        if options.pca is not None:
            z, deviation = components(z, options.pca)
            z = z / deviation if options.whiten else z
        if options.layer_norm:
            z = (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + 1e-5)
        layers.append(z)
    return np.stack(layers, axis=1)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"standardise": False},
        {"clip": 1.5},
        {"pca": 4},
        {"pca": 4, "whiten": True},
        {"pca": 6, "clip": 2.0, "whiten": True, "layer_norm": True},
        {"standardise": False, "layer_norm": True},
    ],
)
@pytest.mark.parametrize("chunk", [7, 256])
def test_steps(given: dict[str, Any], chunk: int) -> None:
    x, options = made(), TreatmentOptions(**given)
    before = x.clone()
    treatment = Treatment(options, LAYERS, DIM).fit(x, chunk)
    found = treatment(x)
    assert torch.equal(x, before), "the rows themselves stay as they are"
    assert torch.equal(treatment.in_place(before), found)
    assert found.shape == (ROWS, LAYERS, options.pca or DIM)
    assert treatment.width == found.shape[2]
    expected = slow(x, options)
    # In float32, 24,800 is known to 0.001: that of a spread of 2 to 4 is what may be off.
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=2e-3)


def test_whitened_components_are_uncorrelated_with_variance_one() -> None:
    x = made()
    z = Treatment(TreatmentOptions(pca=5, whiten=True), LAYERS, DIM).fit(x)(x)
    for layer in range(LAYERS):
        covariance = torch.cov(z[:, layer].T, correction=0)
        torch.testing.assert_close(covariance, torch.eye(5), atol=1e-4, rtol=0)


def test_a_component_without_variance_is_not_blown_up() -> None:
    x = torch.randn(50, 1, 1).repeat(1, 1, 4)
    z = Treatment(TreatmentOptions(pca=3, whiten=True), 1, 4).fit(x)(x)
    assert z[..., 0].std(correction=0) == pytest.approx(1.0, abs=1e-3)
    assert z[..., 1:].abs().max() < 1e-3


def test_a_part_of_the_layers() -> None:
    x = made()
    whole = Treatment(TreatmentOptions(clip=2.0, pca=3, whiten=True), LAYERS, DIM).fit(x)
    torch.testing.assert_close(whole.of_layers([2, 0])(x[:, [2, 0]]), whole(x)[:, [2, 0]])


def test_untrained_it_keeps_the_first_coordinates() -> None:
    x = torch.randn(5, LAYERS, DIM)
    assert torch.equal(Treatment(TreatmentOptions(), LAYERS, DIM)(x), x)
    assert torch.equal(Treatment(TreatmentOptions(pca=2), LAYERS, DIM)(x), x[..., :2])


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="pca with whiten"):
        TreatmentOptions(whiten=True)
    with pytest.raises(ValueError, match="standardise with clip"):
        Recipe(clip=3.0, standardise=False)
    with pytest.raises(UserError, match=r"at most 6 components(.|\n)*7(.|\n)*train.recipe.pca"):
        PCA(LAYERS, DIM, 7, whiten=False)
    with pytest.raises(UserError, match=r"more than 4 training rows(.|\n)*: +4\n"):
        Treatment(TreatmentOptions(pca=4), LAYERS, DIM).fit(made()[:4])
