"""A GGUF file is parsed once a load, and not by transformers' way of asking for the same again and again.

Transformers parses the whole file for the configuration, once more for the tokenizer and once more for the weights,
each time a vocabulary of 50,000 words value by value, and makes the table of tensor names anew for every module of the
model. Of SmolLM2-135M that takes three quarters of the load.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from pipeline.config import ModelParams

_ALONE = threading.RLock()
"""Held within the block: two that overlap would leave each other's functions behind."""


@contextmanager
def parsed_once(params: ModelParams) -> Iterator[None]:
    """Within the block what is read of a GGUF file is kept; with the block it is forgotten.

    Nothing is done for a model in another form. What is kept is the file as it was: whoever loads a model asks
    afterwards whether it still is.
    """
    if params.path is None or params.path.suffix != ".gguf" or importlib.util.find_spec("gguf") is None:
        yield  # transformers says better what is missing
        return
    gguf: Any = importlib.import_module("gguf")
    with _ALONE:
        theirs = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
        gguf.GGUFReader = functools.cache(_plain(theirs["GGUFReader"]))
        gguf.get_tensor_name_map = functools.cache(theirs["get_tensor_name_map"])
        try:
            yield
        finally:
            for name, own in theirs.items():
                setattr(gguf, name, own)


def _plain(reader: Any) -> Any:
    """The reader on a plain array: each of its million small slices of a `numpy.memmap` is slow to make."""
    if not isinstance(reader, type):  # a block within a block
        return reader

    class PlainReader(reader):  # type: ignore[misc]
        @property
        def data(self) -> Any:
            return self._data

        @data.setter
        def data(self, value: Any) -> None:
            self._data = value.view(np.ndarray)

    return PlainReader
