"""Treatment of a cache's rows before a head sees them, fitted on training rows only and saved with the head.

    raw -> standardise -> clip -> PCA -> LayerNorm

each for every layer by itself, each optional. `standardise` and `pca` hold the two that are fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from ilse.core.params import Section
from trainer.rows.weights import Weights
from trainer.treatment.pca import PCA, too_many_components
from trainer.treatment.standardise import Standardise

__all__ = ["PCA", "Standardise", "Treat", "Treatment", "TreatmentOptions"]

Treat = Callable[[Float[Tensor, "rows layers width"]], Float[Tensor, "rows layers treated"]]
"""A treatment of rows or tokens, by layer."""


class TreatmentOptions(Section):
    """Which steps of the treatment are applied."""

    standardise: bool = Field(True, description="Standardise each coordinate of each layer by the training rows.")
    clip: float | None = Field(
        None, gt=0, description="Then clip coordinates at this many standard deviations; unset: no clipping."
    )
    pca: int | None = Field(
        None,
        ge=1,
        description="Then keep this many principal components of each layer; unset: all coordinates as they are.",
    )
    whiten: bool = Field(False, description="Scale those components to variance 1.")
    layer_norm: bool = Field(False, description="Finally normalise every example's vector of each layer.")

    @model_validator(mode="after")
    def _steps_have_what_they_need(self) -> TreatmentOptions:
        if self.whiten and self.pca is None:
            raise ValueError("pca with whiten: it is the principal components that are whitened")
        if self.clip is not None and not self.standardise:
            raise ValueError("standardise with clip: it counts in standard deviations")
        return self


class Treatment(nn.Module):
    """Rows of `layers` layers in, treated rows `[batch, layers, width]` out; the identity until `fit`.

    Parameters
    ----------
    widths
        Of joint rows, how much of `dim` each layer fills; the zeros behind it stay zeros. None: all of it.

    Attributes
    ----------
    width
        Length of a treated vector: the number of principal components, or the cache's own width.
    """

    def __init__(self, options: TreatmentOptions, layers: int, dim: int, widths: Sequence[int] | None = None) -> None:
        super().__init__()
        self.options = options
        self.widths = None if widths is None else list(widths)
        if options.pca is not None and options.pca > min(self.widths or [dim]):
            raise too_many_components(min(self.widths or [dim]), options.pca)
        self.standardise = Standardise(layers, dim)
        self.pca = None if options.pca is None else PCA(layers, dim, options.pca, options.whiten)
        self.width = options.pca or dim

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch layers width"]:
        """Applies all steps that are on."""
        return self._after_standardising(self.standardise(x))

    def in_place(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch layers width"]:
        """Applies all steps, bit for bit like `forward`, in the memory of `x` as far as its shape stays. Do not use `x`
        afterwards.
        """
        return self._after_standardising(self.standardise.in_place(x))

    def fit(self, x: Float[Tensor, "rows layers dim"], chunk: int = 256, weights: Weights = None) -> Treatment:
        """Takes the statistics of `x`, the training rows and no others, `chunk` rows at a time. See `fit_chunks`."""
        return self.fit_chunks(lambda: x.split(chunk), weights)

    def fit_chunks(
        self, chunks: Callable[[], Iterable[Float[Tensor, "_ layers dim"]]], weights: Weights = None
    ) -> Treatment:
        """Takes the statistics of training rows that come in pieces, as often as a step wants them.

        `weights` say what each row counts, in the order of the chunks; None where all count 1. Raises `UserError` for
        rows that are not finite, or too few of them for the components.
        """
        if self.options.standardise:
            self.standardise.fit_chunks(chunks(), weights)
        if self.pca is not None:
            self.pca.fit_chunks(lambda: (self._before_pca(part) for part in chunks()), weights)
        return self

    def of_layers(self, kept: Sequence[int]) -> Treatment:
        """The treatment for some of its layers, by their place on the layers' axis."""
        widths = None if self.widths is None else [self.widths[layer] for layer in kept]
        part = Treatment(self.options, len(kept), self.standardise.mean.shape[1], widths)
        part.load_state_dict({name: value[list(kept)] for name, value in self.state_dict().items()})
        return part

    def _after_standardising(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch layers width"]:
        treated = self._clipped(x)
        if self.pca is not None:
            treated = self.pca(treated)
        return self._normalised(treated) if self.options.layer_norm else treated

    def _normalised(self, x: Float[Tensor, "batch layers width"]) -> Float[Tensor, "batch layers width"]:
        if self.widths is None or self.pca is not None:
            return functional.layer_norm(x, x.shape[-1:])
        out = torch.zeros_like(x)
        for width in {*self.widths}:
            layers = [layer for layer, own in enumerate(self.widths) if own == width]
            out[:, layers, :width] = functional.layer_norm(x[:, layers, :width], (width,))
        return out

    def _before_pca(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch layers dim"]:
        return self._clipped(self.standardise(x))

    def _clipped(self, standardised: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch layers dim"]:
        return standardised if self.options.clip is None else standardised.clamp_(-self.options.clip, self.options.clip)
