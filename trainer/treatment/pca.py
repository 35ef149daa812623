"""Principal components of every layer, by the covariance of the training rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ilse.core.errors import UserError
from trainer.rows.weights import Weights
from trainer.treatment.standardise import weighed_sum


class PCA(nn.Module):
    """(x − mean) · componentsᵀ / scale, for each layer; all three are buffers, so they are saved with the head.

    Components are those of largest variance, in falling order, each with its largest loading positive, so that a fit
    is reproducible. `scale` is their standard deviation when whitened, else 1; a component without variance has scale
    1. Unfitted, it gives the first `kept` coordinates.
    """

    mean: Tensor
    components: Tensor
    scale: Tensor

    def __init__(self, layers: int, dim: int, kept: int, whiten: bool) -> None:
        super().__init__()
        if kept > dim:
            raise too_many_components(dim, kept)
        self.whiten = whiten
        self.register_buffer("mean", torch.zeros(layers, dim))
        self.register_buffer("components", torch.eye(kept, dim).repeat(layers, 1, 1))
        self.register_buffer("scale", torch.ones(layers, kept))

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch layers kept"]:
        """The components' values."""
        centred = (x - self.mean).transpose(0, 1)
        return torch.bmm(centred, self.components.mT).transpose(0, 1) / self.scale

    def fit_chunks(self, chunks: Callable[[], Iterable[Float[Tensor, "_ layers dim"]]], weights: Weights = None) -> PCA:
        """Takes the components of training rows, which `chunks` gives twice: for the means and for the covariances.

        Both are summed in float64. `weights` say what each row counts, in the order of the chunks. Raises `UserError`
        for fewer rows than components.
        """
        kept = self.components.shape[1]
        rows, total = 0, torch.zeros_like(self.mean, dtype=torch.float64)
        for chunk, own in _with_weights(chunks(), weights):
            rows += len(chunk)
            total += chunk.sum(0, dtype=torch.float64) if own is None else weighed_sum(chunk.to(total), own)
        if rows <= kept:
            raise _error(f"more than {kept} training rows for {kept} components", str(rows), "lower train.recipe.pca")
        count = rows if weights is None else float(weights.sum())
        mean = total / count
        covariance = torch.zeros(*mean.shape, mean.shape[1], dtype=torch.float64, device=mean.device)
        for chunk, own in _with_weights(chunks(), weights):
            centred = (chunk - mean).transpose(0, 1)
            covariance.baddbmm_((centred if own is None else centred * own[:, None]).mT, centred)
        values, vectors = torch.linalg.eigh(covariance / count)
        components = vectors.mT.flip(1)[:, :kept]
        largest = components.gather(2, components.abs().argmax(2, keepdim=True))
        self.mean.copy_(mean)
        self.components.copy_(components * largest.sign())
        if self.whiten:
            deviation = values.flip(1)[:, :kept].clamp(min=0).sqrt()
            # Beyond float32's resolution of the largest there is only noise to be blown up.
            constant = deviation <= deviation[:, :1] * torch.finfo(torch.float32).eps
            self.scale.copy_(deviation.masked_fill(constant, 1.0))
        return self


def _with_weights(
    chunks: Iterable[Float[Tensor, "_ layers dim"]], weights: Weights
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Each chunk with what its rows count, float64."""
    start = 0
    for chunk in chunks:
        own = None if weights is None else weights[start : start + len(chunk)].to(chunk.device, torch.float64)
        start += len(chunk)
        yield chunk, own


def too_many_components(dim: int, kept: int) -> UserError:
    """The error for more components than a layer has values."""
    return _error(f"at most {dim} components, the width of a layer", str(kept), "lower train.recipe.pca")


def _error(expected: str, found: str, next_step: str) -> UserError:
    return UserError("principal components", expected=expected, found=found, next_step=next_step)
