"""Token states that a caller has in memory, for `HeadClassifier`: a list of arrays, or one array with padding.

Whatever form they come in, they are ragged from here on: what stands in the padding is never looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

from pipeline.store import Cache, open_cache
from trainer.data.text_rows import places_of
from trainer.rows.distinct import Content
from trainer.rows.ragged import Tokens
from trainer.rows.token_rows import TokenRows
from trainer.rows.token_shelf import TokenShelf, lengths_of, shelf_of
from trainer.rows.weights import Weights


def given_tokens(X: Any, expected: tuple[int, int] | None = None) -> Tokens:
    """The tokens of each text, float32.

    Parameters
    ----------
    X
        Arrays [tokens, layers, dim], one for each text; or a masked array [texts, places, layers, dim] of NumPy's,
        whose padding is masked, at any place of a text.
    expected
        Layers and width that they must have; None for any.

    Raises
    ------
    ValueError
        For other shapes, a text without a token, a token that is masked in part, and values that are not finite.
    """
    texts = _unmasked(X) if isinstance(X, np.ma.MaskedArray) else [np.asarray(text) for text in _several(X)]
    if not texts:
        raise ValueError("Found array with 0 sample(s) while a minimum of 1 is required: X has no texts")
    for number, text in enumerate(texts):
        if text.ndim != 3:
            raise ValueError(f"text {number} of X has {text.ndim} axes; expected three, [tokens, layers, dim]")
        if len(text) == 0:
            raise ValueError(f"text {number} of X has no token; at least one is required")
        wanted = expected or texts[0].shape[1:]
        if text.shape[1:] != wanted:
            found = "{} layers of {} values".format(*text.shape[1:])
            raise ValueError(f"text {number} of X has {found}; expected {wanted[0]} layers of {wanted[1]}")
    values = torch.from_numpy(np.concatenate(texts).astype(np.float32))
    if not torch.isfinite(values.sum(dtype=torch.float64)):
        raise ValueError("Input X contains NaN or infinity in a token that is no padding")
    return Tokens(values, torch.tensor([len(text) for text in texts]))


def token_rows(
    tokens: Tokens, y: Int[Tensor, " rows"], chosen: Int[Tensor, " rows"], weights: Weights = None
) -> TokenRows:
    """The chosen texts as examples, with their labels and weights; no token is copied."""
    starts = tokens.lengths.cumsum(0) - tokens.lengths
    shelf = TokenShelf(tokens.values, starts, tokens.lengths)
    return TokenRows(shelf, chosen, y, [""] * len(chosen), weights=weights)


def content_of(tokens: Tokens) -> Content:
    """The values of each text by its position, for `distinct_rows`."""
    values, ends = tokens.values.numpy(), tokens.lengths.cumsum(0).numpy()
    return lambda text: values[ends[text] - int(tokens.lengths[text]) : ends[text]]


def tokens_of(
    cache: Cache | str | Path, text_ids: Iterable[str], layers: Sequence[int] | None = None
) -> list[npt.NDArray[np.float32]]:
    """X of these texts for a head that reads tokens: of each an array [tokens, layers, width], as the cache has them.

    `layers` are places among the cache's layers; all whose token states it keeps without them. Raises `UserError` for
    a text or a layer that the cache does not hold, for one without a token, and as `open_cache` does.
    """
    opened = cache if isinstance(cache, Cache) else open_cache(cache)
    places = places_of(opened, text_ids)
    lengths_of(opened, places)
    shelf = shelf_of(opened, places, opened.token_layers if layers is None else tuple(layers))
    return [shelf.of(torch.tensor([place])).values.numpy() for place in range(len(places))]


def _several(X: Any) -> Any:
    if getattr(X, "ndim", 1) != 1 or isinstance(X, str | bytes):
        raise ValueError(
            "X is one array without a mask, so that padding cannot be told from tokens; expected a list of arrays "
            "[tokens, layers, dim], one for each text, or numpy.ma.masked_array [texts, places, layers, dim]"
        )
    return X


def _unmasked(X: Any) -> list[npt.NDArray[Any]]:
    """The tokens of each text."""
    if X.ndim != 4:
        raise ValueError(f"X has {X.ndim} axes; expected four, [texts, places, layers, dim]")
    masked = np.ma.getmaskarray(X).reshape(*X.shape[:2], -1)
    partly = masked.any(2) != masked.all(2)
    if partly.any():
        text, place = np.argwhere(partly)[0]
        raise ValueError(f"text {text} of X is masked in part at place {place}; mask a whole place or none of it")
    return [values[~hidden] for values, hidden in zip(X.data, np.asarray(masked.all(2)), strict=True)]
