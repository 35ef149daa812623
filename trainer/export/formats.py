"""The two kinds of file: written from a traced program, and opened as a function of rows."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from trainer.export.checked import check_onnx, check_torch
from trainer.export.program import EXAMPLES, PLACES, Program

Target = Literal["torch", "onnx"]
Rows = npt.NDArray[np.float32]
Run = Callable[..., Sequence[Rows]]
"""The inputs in their order, each [examples, …], to the outputs in theirs."""


@dataclass(frozen=True)
class FileFormat:
    """How a program is written to a file of this name, and how such a file is opened."""

    file: str
    write: Callable[[Any, Program, Path], None]
    """Writes what `Program.traced` returned."""
    open: Callable[[Path], Run]


def _write_torch(traced: Any, _program: Program, file: Path) -> None:
    # Through memory: torch's own writer ends the whole process on a full disk.
    written = io.BytesIO()
    torch.export.save(traced, written)
    file.write_bytes(written.getbuffer())


def _open_torch(file: Path) -> Run:
    check_torch(file)
    module = torch.export.load(file).module()

    def run(*given: npt.NDArray[Any]) -> Sequence[Rows]:
        with torch.inference_mode():
            return [output.numpy() for output in module(*map(torch.tensor, given))]

    return run


def _write_onnx(traced: Any, program: Program, file: Path) -> None:
    import onnxscript  # noqa: F401 - torch.onnx wants it, and says so less clearly

    with _quiet():
        written = torch.onnx.export(
            traced,
            dynamo=True,
            external_data=False,
            input_names=list(program.inputs),
            output_names=list(program.names),
            verbose=False,
        )
    assert written is not None
    for value in (*written.model.graph.inputs, *written.model.graph.outputs):
        assert value.shape is not None
        for place, axis in enumerate(value.shape):
            if not isinstance(axis, int):  # else it is called as torch numbered it
                value.shape[place] = PLACES if place else EXAMPLES
    for node in written.model.graph.all_nodes():
        node.metadata_props.clear()  # places in the code, of this machine
    written.save(file)


def _open_onnx(file: Path) -> Run:
    import onnxruntime

    check_onnx(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    return lambda *given: session.run(None, dict(zip(names, given, strict=True)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences torch's remarks about packages that the export does not need."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


FORMATS: dict[Target, FileFormat] = {
    "torch": FileFormat("head.pt2", _write_torch, _open_torch),
    "onnx": FileFormat("head.onnx", _write_onnx, _open_onnx),
}
