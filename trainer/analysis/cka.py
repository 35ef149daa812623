"""How alike two layers are over the same texts: linear centred kernel alignment (CKA).

    CKA(X, Y) = ‖YᵀX‖²_F / (‖XᵀX‖_F ‖YᵀY‖_F),  columns centred     (Kornblith et al., arXiv 1905.00414, eq. 3 and 5)

With texts hardly more than coordinates this is near 1 whatever the layers hold, so the default takes unbiased estimates
of the three norms (HSIC₁ of Song et al. 2012, JMLR 13, eq. 5; for CKA in Nguyen et al., arXiv 2010.15327). ‖YᵀX‖²_F is
the product of the Gram matrices XXᵀ and YYᵀ, entry by entry, so one Gram matrix a layer and one product of them all do;
HSIC₁ is that product of U-centred matrices (Székely and Rizzo 2014, eq. 3.1).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from trainer.analysis.profiles import Columns, Row
from trainer.treatment import Standardise

COLUMNS: Columns = {
    **dict.fromkeys(("layer_a", "layer_b"), pl.Int64),
    **dict.fromkeys(("name_a", "name_b"), pl.String),
    "cka": pl.Float64,
}
CAVEAT = (
    "Layers are similar here if they arrange the texts in the same way, each coordinate standardised; "
    "that shows neither that they contain the label nor that a head reads them alike."
)
TEXTS = 1_000
"""Number of texts; their Gram matrices take 4 MB per layer."""
LEAST_TEXTS = 4
"""HSIC₁ divides by n − 3."""
BLOCK = 64


def table(x: Float[Tensor, "texts layers dim"], names: Sequence[str]) -> Iterator[Row]:
    """A row for every layer with every layer; none for fewer texts than an estimate takes.

    Coordinates are standardised as a head has them: else a few massive ones, whose mean over a text's tokens goes by
    the text's length, would make middle layers alike whatever else they hold.
    """
    if len(x) < LEAST_TEXTS:
        return
    for a, of_layer in enumerate(cka(Standardise(*x.shape[1:]).fit(x)(x)).tolist()):
        for b, value in enumerate(of_layer):
            yield {"layer_a": a, "layer_b": b, "name_a": names[a], "name_b": names[b], "cka": value}


def cka(x: Float[Tensor, "texts layers dim"], debiased: bool = True) -> Float[Tensor, "layers layers"]:
    """CKA of every pair of layers, float64. Debiased, it is near 0 for unrelated layers and may be below.

    A layer in which no text differs is like none: 0. Debiased it takes 4 texts.
    """
    grams = x.new_empty(x.shape[1], len(x), len(x))
    for layer, gram in zip(x.unbind(1), grams, strict=True):  # stacking them would hold them twice
        gram.copy_(_u_centred(layer) if debiased else _centred(layer))
    products = torch.zeros(len(grams), len(grams), dtype=torch.float64)
    for block in grams.split(BLOCK, dim=1):  # in float64 piece by piece: all at once would take twice their memory
        flat = block.flatten(1).double()
        products.addmm_(flat, flat.T)
    norms = products.diagonal().clamp(min=0).sqrt()
    return (products / (norms[:, None] * norms)).nan_to_num(0.0, 0.0, 0.0)


def _centred(x: Float[Tensor, "texts dim"]) -> Float[Tensor, "texts texts"]:
    x = x - x.mean(0)
    return x @ x.T


def _u_centred(x: Float[Tensor, "texts dim"]) -> Float[Tensor, "texts texts"]:
    """The Gram matrix without its diagonal, its rows and columns brought to sum 0 in the way that leaves no bias."""
    n = len(x)
    gram = _centred(x).fill_diagonal_(0)  # centring changes nothing but rounding
    sums = gram.sum(0, dtype=torch.float64)
    shift = sums / (n - 2) - sums.sum() / (2 * (n - 1) * (n - 2))
    return gram.sub_((shift[:, None] + shift).to(gram)).fill_diagonal_(0)
