"""Texts to the rows of all layers in memory, without a cache: what a scikit-learn estimator over texts stands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ilse.core.params import validate
from ilse.predict.capture import Capture
from pipeline.config import ExtractParams
from pipeline.model.load import load_model
from pipeline.model.quiet import quietly
from pipeline.stages.extract import compute_of, header_of
from pipeline.store import CaptureSpec


@dataclass(frozen=True)
class RowsRead:
    """Pooled rows of a capture, as `Capture` is told them."""

    capture: CaptureSpec
    poolings: tuple[str, ...]
    model_name: str
    reads_tokens: bool = False


class TextReader:
    """A frozen model, ready to give every layer's row of any texts: the rows that a cache would hold.

    Parameters
    ----------
    model
        Keys of section `extract.model`.
    options
        More keys of section `extract`; those about token states, noise and clusters have no meaning here.

    Raises
    ------
    UserError
        For a model that cannot be read, and an unknown key.
    """

    def __init__(self, model: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        values = {"cluster": {"kind": "synchronous"}, **options, "model": dict(model)}
        params = validate("extract", ExtractParams, values, where="TextClassifier")
        with quietly():
            compute = compute_of(params)
            facts = load_model(params.model, compute).facts
            header = header_of(params, facts, 1)
            self.layers = header.capture.layers
            read = RowsRead(header.capture, tuple(header.capture.poolings), header.model_name)
            self._capture = Capture(read, tuple(range(len(self.layers))), params.model, compute)

    def rows(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Rows, [texts, layers, dim], of several poolings [texts, layers, poolings · dim].

        Raises `UserError` for what is no text, and for a text without a token.
        """
        with quietly():
            found: npt.NDArray[np.float32] = self._capture.rows(
                texts, [f"text {place}" for place in range(len(texts))]
            ).numpy()
        return found
