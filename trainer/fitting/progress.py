"""An unfinished fit on disk, to resume from: tensors and plain values in one safetensors file, replaced in one step."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ilse.core.files.atomic import replacing
from ilse.core.files.folder_lock import empty, hold_folder
from trainer.config import TrainParams
from trainer.data.joined import JoinedCaches
from trainer.data.task import Task

UNFINISHED = ".unfinished"
"""Folder next to the heads' folder, for interrupted fits."""
SAVE_SECONDS = 10.0
"""Least time between two writes: what a killed fit computes again."""
LOOP = 2
"""Counts up when the state or the random numbers of a fit change, so that one of an older release starts again."""


@dataclass
class State:
    """What a fit is made of between two epochs."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    """What JSON holds."""


@dataclass
class Progress:
    """The file of one fit.

    Parameters
    ----------
    path
        Where it is, or will be.
    key
        All that the fit follows from (`fit_key`): the state of another fit is not resumed.
    """

    path: Path
    key: str
    _saved: float = field(default_factory=time.monotonic)

    def load(self) -> State | None:
        """The state of this very fit; None without one, and for a file that is another's or damaged."""
        try:
            with safe_open(self.path, "pt") as file:
                facts = json.loads((file.metadata() or {}).get("facts", "{}"))
                if not isinstance(facts, dict) or facts.pop("key", None) != self.key:
                    return None
                return State({name: file.get_tensor(name) for name in file.keys()}, facts)  # noqa: SIM118
        except (OSError, SafetensorError, ValueError, RecursionError):
            return None  # it costs time, and no result

    def offer(self, state: State, finished: bool) -> None:
        """Writes the state if the last one is old enough, or if it is a finished fit's."""
        if finished or time.monotonic() - self._saved >= SAVE_SECONDS:
            facts = json.dumps(state.facts | {"key": self.key})
            with replacing(self.path) as file:
                save_file({name: value.contiguous() for name, value in state.tensors.items()}, file, {"facts": facts})
            self._saved = time.monotonic()


@contextmanager
def unfinished(models: Path, name: str) -> Iterator[Path]:
    """The folder of interrupted fits of `models/name`; it is removed when the block ends well.

    Raises `UserError` while another process has it, and so trains or fits under the same name.
    """
    folder = models / UNFINISHED / name
    try:
        with hold_folder(folder, f"training of {models / name}"):
            yield folder
            empty(folder)
    finally:
        with suppress(OSError):  # another head's may be in it
            folder.parent.rmdir()


def fit_key(task: Task, params: TrainParams, own: dict[str, Any]) -> str:
    """The key of fits on `task`: of what all of them follow from, and of what is a caller's `own`."""
    return progress_key(
        {
            "shots": params.shots,
            "share": params.share,
            "pooling": params.pooling,
            "objective": params.objective,
            "embedding": params.embedding,
            "cache": task.cache.fingerprint,
            "examples": task.digest,
            **({"joined_width": params.joined_width} if isinstance(task.cache, JoinedCaches) else {}),
            **own,
        }
    )


def progress_key(parts: dict[str, Any]) -> str:
    """The SHA-256 of what a fit follows from, as JSON holds it."""
    return hashlib.sha256(json.dumps(parts | {"loop": LOOP}, sort_keys=True).encode()).hexdigest()
