"""Looks at an exported file before anything of it runs: `torch.export.load` itself unpickles and evaluates.

A .pt2 file is a zip of tensors' bytes and JSON. What torch would unpickle (example inputs, tensors of other classes,
script objects) is not in a file that we wrote; sizes in its JSON go through sympy's `eval`, and names of operators are
looked up in torch. So only plain tensors, sums, products and minima of sizes, and ATen's operators are let through.
An ONNX file is a protobuf without code; one that reads further files is refused.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LARGEST = 2**31
"""Bytes that a file may unpack to."""
_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|\.data/\w+|models/model\.json|data/sample_inputs/model\.pt|"
    r"data/weights/(model_weights_config\.json|weight_\d+)|data/constants/(model_constants_config\.json|tensor_\d+)"
)
_OPERATORS = re.compile(r"torch\.ops\.aten\.\w+\.\w+|_operator\.(add|sub|mul|floordiv|mod)")
"""Python's operators, of sizes, are these: `_operator.methodcaller` would call what a name says."""
_SIZES = re.compile(r"(Symbol|Integer|Mul|Add|Min|positive|nonnegative|integer|True|'[a-z]+\d+'|\d+|[(),= -])*")


def check_torch(file: Path) -> None:
    """Raises `ValueError` for a .pt2 file with anything but tensors, sizes and ATen's operators."""
    with zipfile.ZipFile(file) as archive:
        sizes = {info.filename.partition("/")[2]: info.file_size for info in archive.infolist()}
        if sum(sizes.values()) > LARGEST:
            raise ValueError(f"it unpacks to {sum(sizes.values()):,} bytes")
        _refuse("a member", (name for name in sizes if not _MEMBERS.fullmatch(name)))
        if sizes.get("data/sample_inputs/model.pt"):
            raise ValueError("example inputs, which are a pickle")
        documents = [json.loads(archive.read(name)) for name in archive.namelist() if name.endswith(".json")]
    found = [pair for document in documents for pair in _pairs(document)]
    _refuse("a tensor that is a pickle", (key for key, value in found if key == "use_pickle" and value is not False))
    operators = (value for key, value in found if key == "target" and isinstance(value, str))
    _refuse("the operator", (name for name in operators if not _OPERATORS.fullmatch(name)))
    texts = (value for key, value in found if key == "expr_str")
    _refuse("the size", (text for text in texts if not (isinstance(text, str) and _SIZES.fullmatch(text))))


def check_onnx(file: Path) -> None:
    """Raises `ValueError` for a file with weights elsewhere or operators beyond ONNX's own."""
    import onnx

    model = onnx.load(file, load_external_data=False)
    attributes = [attribute for node in model.graph.node for attribute in node.attribute]
    # Graphs and functions within, and sparse weights, are places that the lines below do not look into.
    nested = (attribute.name for attribute in attributes if attribute.HasField("g") or attribute.graphs)
    _refuse("a graph within the graph", nested)
    _refuse("a function", (function.name for function in model.functions))
    _refuse("sparse weights", (tensor.values.name for tensor in model.graph.sparse_initializer))
    tensors = [
        *model.graph.initializer,
        *(one for attribute in attributes for one in (attribute.t, *attribute.tensors)),
    ]
    outside = (tensor.name for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL)
    _refuse("weights in another file", outside)
    _refuse("an operator of", (node.domain for node in model.graph.node if node.domain not in ("", "ai.onnx")))


def _pairs(document: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    if isinstance(document, dict):
        for key, value in document.items():
            yield key, value
            yield from _pairs(value)
    elif isinstance(document, list):
        for value in document:
            yield from _pairs(value)


def _refuse(what: str, found: Iterator[Any]) -> None:
    for one in found:
        raise ValueError(f"{what}: {str(one)[:80]!r}")
