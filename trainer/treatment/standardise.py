"""Standardises every coordinate of every layer by statistics of the training rows.

Residual streams grow with depth and hold massive activations (a coordinate of 24,800 among values near 1), so heads
that read several layers see them on one scale only after this.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ilse.core.errors import UserError
from trainer.rows.weights import Weights

CHUNK_VALUES = 2**22
"""Values widened to float64 at a time: 32 MB."""


class Standardise(nn.Module):
    """(x − mean) / scale, for each layer and coordinate; both are buffers, so they are saved with the head.

    `scale` is the standard deviation (over n, not n − 1). A coordinate that does not vary beyond float32's resolution
    of its mean has scale 1. The layers' axis is whatever was given: a head that reads one row standardises one.
    Untrained, it is the identity.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, layers: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(layers, dim))
        self.register_buffer("scale", torch.ones(layers, dim))

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch layers dim"]:
        """`x` standardised; subtracting first keeps the digits of a coordinate whose mean dwarfs its spread."""
        return (x - self.mean).div_(self.scale)

    def in_place(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch layers dim"]:
        """Standardises bit for bit like `forward`, in the memory of `x`."""
        return x.sub_(self.mean).div_(self.scale)

    def fit(self, x: Float[Tensor, "rows layers dim"], weights: Weights = None) -> Standardise:
        """Take the statistics of `x`, the training rows and no others. See `fit_chunks`."""
        rows = max(1, CHUNK_VALUES // max(1, self.mean.numel()))
        return self.fit_chunks(torch.split(x, rows), weights)

    def fit_chunks(self, chunks: Iterable[Float[Tensor, "_ layers dim"]], weights: Weights = None) -> Standardise:
        """Take the statistics of training rows that come in pieces, in one pass.

        Each piece's mean and sum of squared deviations are computed in float64 and merged pairwise (Chan, Golub and
        LeVeque, 1983), so a mean far above the spread costs no accuracy, and only one piece is held at a time.

        Parameters
        ----------
        chunks
            The rows.
        weights
            What each row counts, in the order of the chunks; None where all count 1.

        Raises
        ------
        UserError
            For no rows, values that are not finite, or rows of another shape than this module's.
        """
        seen, rows = 0, 0.0
        mean = torch.zeros_like(self.mean, dtype=torch.float64)
        squares = torch.zeros_like(mean)
        for chunk in chunks:
            self._check(chunk, seen)
            if len(chunk) == 0:
                continue
            own = None if weights is None else weights[seen : seen + len(chunk)].to(mean)
            seen += len(chunk)
            added = float(len(chunk) if own is None else own.sum())
            wide = chunk.to(mean)
            chunk_mean = wide.mean(0) if own is None else weighed_sum(wide, own) / added
            shift = chunk_mean - mean
            deviations = (wide - chunk_mean).square_()
            squares += weighed_sum(deviations, own) + shift.square() * (rows * added / (rows + added))
            mean += shift * (added / (rows + added))
            rows += added
        if rows == 0:
            raise _error("at least one training row", "none", "check that the split 'train' has examples")
        self._store(mean, (squares / rows).sqrt())
        return self

    def _store(self, mean: Float[Tensor, "layers dim"], deviation: Float[Tensor, "layers dim"]) -> None:
        single = torch.finfo(torch.float32)
        constant = deviation <= (mean.abs() * single.eps).clamp(min=single.tiny)
        self.mean.copy_(mean)
        self.scale.copy_(deviation.masked_fill(constant, 1.0))

    def _check(self, chunk: Float[Tensor, "rows layers dim"], first_row: int) -> None:
        if chunk.shape[1:] != self.mean.shape:
            expected, found = ("{} layers of {} values".format(*s) for s in (self.mean.shape, chunk.shape[1:]))
            raise _error(expected, found, "give the rows that the head reads, all of one cache")
        # A sum is finite only if its parts are; the costly search is for the error alone.
        if torch.isfinite(chunk.sum(dtype=torch.float64)):
            return
        bad = (~torch.isfinite(chunk)).nonzero()
        if len(bad) == 0:
            return
        row, layer, coordinate = bad[0].tolist()
        raise _error(
            "finite activations",
            f"{chunk[row, layer, coordinate].item()} at training row {first_row + row}, layer axis {layer}, "
            f"coordinate {coordinate} ({len(bad)} such values in its chunk)",
            "extract the cache again in float32 or bfloat16; float16 overflows at 65,504",
        )


def weighed_sum(
    values: Float[Tensor, "rows layers dim"], weights: Float[Tensor, " rows"] | None
) -> Float[Tensor, "layers dim"]:
    """The sum over rows, each counting its weight, or 1."""
    return values.sum(0) if weights is None else torch.tensordot(weights, values, dims=1)


def _error(expected: str, found: str, next_step: str) -> UserError:
    return UserError("standardisation", expected=expected, found=found, next_step=next_step)
