"""The folder of an export: the program beside its description; written, tried, and opened again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch

from ilse.core.errors import UserError
from ilse.core.files.atomic import replacing_folder, require_ours, write_json
from ilse.core.files.ownership import EXPORT
from trainer.artifacts.artifact import TrainedHead, load_head, require_basis, require_one_model
from trainer.artifacts.best_seed import best_seed
from trainer.data.poolings import pooling_names
from trainer.export.formats import FORMATS, Rows, Run, Target
from trainer.export.program import EXAMPLES, MASK, SIZES, Program, program_of

FORMAT_VERSION, TOKENS_VERSION = 1, 2
"""Format versions: of an exported head that reads pooled rows, and of one that reads tokens."""
DESCRIPTION = "head.json"
TOLERANCE = 1e-4
"""How far outputs of the exported program may be from the head's, in float32 (absolute, and of the value)."""


class ExportedHead:
    """An export, open: rows or tokens in, outputs by name out; made by `load_exported`."""

    def __init__(self, description: dict[str, Any], run: Run) -> None:
        self.description = description
        self._run = run

    @property
    def labels(self) -> list[str]:
        """Names in the order of the probabilities; none for scores and vectors."""
        return list(self.description["labels"])

    def __call__(self, given: Any, mask: Any = None) -> dict[str, Rows]:
        """Outputs by name.

        Parameters
        ----------
        given
            Rows [examples, layers, dim] of `layers_read`; of a head that reads tokens, [examples, tokens, layers, dim],
            padded. Of pairs with an axis of 2 behind the examples.
        mask
            Of tokens, [examples, tokens]: true for those that are no padding, at least one of each text.

        Raises
        ------
        UserError
            For another shape, and for a text without a token.
        """
        values, shape = np.ascontiguousarray(given, np.float32), tuple(self.description["input"]["shape"])
        if len(values) == 0 or not _fits(values.shape, shape):
            layers, pooling = ", ".join(self.description["layer_names"]), pooling_names(self.description["pooling"])
            of = "the states of the tokens" if self.reads_tokens else f"pooling {' and '.join(pooling)}"
            expected = f"{self.description['input']['name']} of shape {_written(shape)}, at least one"
            raise _misfit(expected, _written(values.shape), f"give the layers {layers} of {of}")
        masks = [self._mask(values.shape[:-2], mask)] if self.reads_tokens else []
        return dict(zip(self.description["outputs"], self._run(values, *masks), strict=True))

    @property
    def reads_tokens(self) -> bool:
        """True if the head reads token states, not pooled rows."""
        return MASK in self.description

    def _mask(self, shape: tuple[int, ...], mask: Any) -> npt.NDArray[np.bool_]:
        expected = f"a mask of shape {_written(shape)}, true for the tokens of each text"
        if mask is None:
            raise _misfit(expected, "none", "give one, all true if no text is padded")
        found = np.ascontiguousarray(mask, np.bool_)
        if found.shape != shape:
            raise _misfit(expected, _written(found.shape), "give one of the tokens as they stand")
        if not found.any(-1).all():
            raise _misfit(expected, "a text without a single one", "leave that text out")
        return found


def export_head(head: str | Path, out: str | Path, to: Target) -> dict[str, Any]:
    """Writes the head in folder `head` into the folder `out`, whole or not at all, and returns its description.

    The program is opened again and tried on batches of other sizes first. Raises `UserError` for a head that cannot
    be loaded, that cannot be exported (with the reason), or whose exported outputs differ by more than 1e-4.
    """
    require_ours(Path(out), EXPORT, "--out")
    trained = load_head(best_seed(Path(head)))
    require_basis(trained, f"export to {to}")
    require_one_model(trained, f"export to {to}", "take 'ilse predict' or Predictor, or export a head on one cache")
    if to not in get_args(Target):
        raise _refused(head, "one of " + ", ".join(get_args(Target)), f"'{to}'", "name one of these with --to")
    program, kind = program_of(trained), FORMATS[to]
    with replacing_folder(Path(out), EXPORT, "--out") as folder:
        file = folder / kind.file
        try:
            kind.write(program.traced(), program, file)
        except ModuleNotFoundError:
            raise
        except Exception as error:  # torch has many errors for what it cannot trace or translate
            raise _no_export(head, to, _reason(error)) from error
        _require_same(head, to, program, kind.open(file))
        description = _description(trained, program, file)
        write_json(folder / DESCRIPTION, description)
    return description


def load_exported(folder: str | Path) -> ExportedHead:
    """Loads what `export_head` wrote. Nothing is unpickled; see `checked`.

    Raises `UserError` for another format version, a file that is not the described one, or one with anything in it
    that an export does not have.
    """
    folder = Path(folder)
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if description["format_version"] != (TOKENS_VERSION if MASK in description else FORMAT_VERSION):
            raise ValueError(f"format version {description['format_version']}")
        kind = FORMATS[description["to"]]
        if _digest(folder / kind.file) != description["sha256"]:
            raise ValueError(f"another {kind.file} than the one described")
        return ExportedHead(description, kind.open(folder / kind.file))
    except ModuleNotFoundError:
        raise
    except Exception as error:  # zip, JSON, protobuf, torch and onnxruntime have each their own
        raise UserError(
            f"exported head {folder}",
            expected=f"a folder as 'ilse export' wrote it, format version {FORMAT_VERSION} or {TOKENS_VERSION}",
            found=_reason(error),
            next_step="export the head again",
        ) from error


def _require_same(head: str | Path, to: Target, program: Program, run: Run) -> None:
    for size in SIZES:
        given = program.given(size)
        with torch.inference_mode():
            expected = program(*given)
        found = run(*(values.numpy() for values in given))
        for name, mine, theirs in zip(program.names, expected, found, strict=True):
            if not np.allclose(theirs, mine.numpy(), atol=TOLERANCE, rtol=TOLERANCE):
                apart = float(np.abs(theirs - mine.numpy()).max())
                raise _no_export(head, to, f"{name} of {size} examples that differ by {apart:.2g}")


def _description(trained: TrainedHead, program: Program, file: Path) -> dict[str, Any]:
    facts = trained.facts
    with torch.inference_mode():
        widths = [list(output.shape[1:]) for output in program(*program.given(2))]
    (name, shape), *masks = program.inputs.items()
    return {
        "format_version": TOKENS_VERSION if masks else FORMAT_VERSION,
        "to": next(to for to, kind in FORMATS.items() if kind.file == file.name),
        "sha256": _digest(file),
        "head": trained.head.spec.name,
        "objective": facts.objective["kind"],
        "labels": facts.labels,
        "input": {"name": name, "shape": list(shape), "type": "float32"},
        **{mask: {"name": mask, "shape": list(axes), "type": "bool"} for mask, axes in masks},
        "outputs": {name: [EXAMPLES, *width] for name, width in zip(program.names, widths, strict=True)},
        "layers_read": list(trained.head.layers_read),
        "layer_names": [facts.layer_names[layer] for layer in trained.head.layers_read],
        "pooling": facts.pooling,
        "capture": facts.fingerprint,
        "model": facts.model_name,
    }


def _reason(error: BaseException) -> str:
    """Message of the innermost error, in one line: the outer ones of torch's exporters only give general advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _fits(shape: tuple[int, ...], wanted: tuple[int | str, ...]) -> bool:
    """Axes with a name may have any length."""
    return len(shape) == len(wanted) and all(isinstance(a, str) or a == n for a, n in zip(wanted, shape, strict=True))


def _misfit(expected: str, found: str, next_step: str) -> UserError:
    return UserError("exported head", expected=expected, found=found, next_step=next_step)


def _written(shape: tuple[Any, ...]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _no_export(head: str | Path, to: str, reason: str) -> UserError:
    return _refused(head, f"one that {to} can express", reason, "train another head, or export to another format")


def _refused(head: str | Path, expected: str, found: str, next_step: str) -> UserError:
    return UserError(f"export of head {head}", expected=expected, found=found, next_step=next_step)
