"""Callbacks and loggers of Lightning that a caller attaches to the fits within a block.

    with attached(callbacks=[EarlyStopping("val_loss")], loggers=loggers_of("tensorboard")):
        fit(...)

They see `train_loss`, `val_loss` and `val_score` (the figure that chooses) of every epoch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from ilse.core.errors import FailedError, UserError, did_you_mean

LOGGERS = {"csv": "CSVLogger", "mlflow": "MLFlowLogger", "tensorboard": "TensorBoardLogger", "wandb": "WandbLogger"}
"""Name → class in `lightning.pytorch.loggers`."""


@dataclass(frozen=True)
class Attached:
    """What watches a fit."""

    callbacks: tuple[Callback, ...] = ()
    loggers: tuple[Logger, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.callbacks or self.loggers)


_NOTHING = Attached()
_attached: ContextVar[Attached] = ContextVar("attached", default=_NOTHING)


def current() -> Attached:
    """What is attached to the fits of this thread."""
    return _attached.get()


@contextmanager
def attached(callbacks: Iterable[Callback] = (), loggers: Iterable[Logger] = ()) -> Iterator[None]:
    """Attaches callbacks and loggers to the fits within the block; nothing detaches them there."""
    token = _attached.set(Attached(tuple(callbacks), tuple(loggers)))
    try:
        yield
    finally:
        _attached.reset(token)


def loggers_of(named: Any) -> list[Logger]:
    """Loggers from names (`tensorboard`, `wandb`, `mlflow`, `csv`), Lightning's loggers, or a list of either.

    Raises `UserError` for another name, and for a logger whose package is not installed.
    """
    if named is None or named is False:
        return []
    several = named if isinstance(named, Sequence) and not isinstance(named, str) else [named]
    return [one if isinstance(one, Logger) else _by_name(one) for one in several]


def log_curve(rows: Iterable[Mapping[str, float]], loggers: Iterable[Logger]) -> None:
    """Hands the figures of every epoch, or of every penalty of a solved head, to loggers that saw no training."""
    rows = list(rows)
    for logger in loggers:
        for step, row in enumerate(rows):
            logger.log_metrics(dict(row), step)
        logger.save()


def _by_name(name: Any) -> Logger:
    if name not in LOGGERS:
        raise UserError(
            "logger",
            expected=f"one of {', '.join(LOGGERS)}, or a logger of lightning.pytorch.loggers",
            found=f"{name!r:.80}",
            next_step=did_you_mean(str(name), LOGGERS, "name one of them"),
        )
    kind = getattr(import_module("lightning.pytorch.loggers"), LOGGERS[name])
    try:
        made: Logger = kind(save_dir=".") if name in ("csv", "tensorboard") else kind()
    except ModuleNotFoundError as error:
        raise FailedError(
            f"logger '{name}'",
            expected="its package",
            found=" ".join(str(error).split())[:200],
            next_step=f"pip install {'tensorboard' if name == 'tensorboard' else name}",
        ) from error
    return made
