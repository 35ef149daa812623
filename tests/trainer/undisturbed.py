"""A process of a library's caller: says what of it importing this package, and each of its calls, has changed.

    python -m tests.trainer.undisturbed FOLDER

FOLDER holds a task of `tests.trainer.conftest`. Third parties are used first: what they do to a process is not ours.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import lightning.pytorch
import numpy as np
import onnxscript
import optuna
import polars
import sklearn.linear_model
import torch
import torchmetrics.functional
import zarr

THIRD_PARTIES = (lightning, onnxscript, optuna, polars, sklearn, torchmetrics, zarr)
TRANSFORMERS = importlib.util.find_spec("transformers") is not None
if TRANSFORMERS:
    importlib.import_module("transformers.modeling_utils")
TASK: dict[str, Any] = {"device": "cpu", "recipe": {"epochs": 2, "batch_size": 16, "folds": None}}


def state() -> dict[str, Any]:
    """What a caller may have set, and would not have changed."""
    loggers = [logging.root, *(one for one in logging.root.manager.loggerDict.values() if hasattr(one, "handlers"))]
    return {
        "filters of warnings": list(warnings.filters),
        "how warnings are shown": warnings.showwarning,
        **{f"logger {one.name}": (one.level, list(one.handlers), one.propagate, one.disabled) for one in loggers},
        "environment": dict(os.environ),
        "signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "hooks": (sys.excepthook, threading.excepthook, sys.displayhook),
        "folder": os.getcwd(),
        "Python's random numbers": random.getstate(),
        "NumPy's random numbers": [str(part) for part in np.random.get_state()],  # type: ignore[union-attr]
        "NumPy's errors": np.geterr(),
        "torch's random numbers": torch.get_rng_state().tolist(),
        "torch's threads": torch.get_num_threads(),
        "torch's modes": (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_float32_matmul_precision()),
        "deterministic": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark),
        "oneDNN": torch.backends.mkldnn.enabled,
    }


def changed(before: dict[str, Any]) -> list[str]:
    """What is no more what it was."""
    after = state()
    return [name for name, value in before.items() if after.get(name) != value]


def calls(folder: Path) -> dict[str, Callable[[], Any]]:
    """What a library's user calls; imported here, after the first look."""
    import trainer
    import trainer.stages.auto
    from ilse.core.errors import UserError
    from trainer.config import TrainParams
    from trainer.controls.config import ControlParams
    from trainer.estimator import HeadClassifier
    from trainer.export import export_head
    from trainer.search.space import TuneParams
    from trainer.stages.analyse import analyse
    from trainer.stages.control import control
    from trainer.stages.train import train
    from trainer.stages.tune import tune

    if TRANSFORMERS:
        importlib.import_module("inference")
        importlib.import_module("pipeline.library")
    params = TrainParams.model_validate({**TASK, "heads": ["weighted"], "seeds": 1})
    files, results = (folder / "cache.zarr", folder / "examples.parquet"), folder / "results"
    x = np.random.default_rng(0).normal(size=(40, 3, 8)).astype("float32")

    def without_an_end() -> None:
        try:
            trainer.fit(folder, "mlp", recipe={"epochs": 2, "learning_rate": 1e30, "gradient_clip": 0.0})
        except UserError:
            return
        raise AssertionError("it ended")

    search = {"trials": 1, "storage": f"sqlite:///{folder}/tune.db", "space": {"learning_rate": [0.01]}}
    return {
        "import": lambda: None,
        "fit": lambda: trainer.fit(folder, "cayley", **TASK, out=folder / "head"),
        "a fit that fails": without_an_end,
        "auto": lambda: trainer.auto(folder, minutes=0.2, out=folder / "auto", **TASK),
        "HeadClassifier": lambda: HeadClassifier("mlp", recipe={"epochs": 2}).fit(x, np.arange(40) % 2).predict(x),
        "train": lambda: train(params, "weighted", *files, folder / "models", results),
        "analyse": lambda: analyse(params, *files, folder / "models", results),
        "control": lambda: control(
            ControlParams(), params, "random_labels", *files, folder / "texts.parquet", folder / "models", results
        ),
        "tune": lambda: tune(TuneParams.model_validate(search), params, "weighted", *files, results),
        "export": lambda: export_head(folder / "head", folder / "onnx", "onnx"),
    }


def main(folder: Path) -> None:
    """Prints a line for each thing that a call has changed."""
    torch.export.export(torch.nn.Linear(1, 1), (torch.zeros(1, 1),))  # sets loggers of torch's own
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    torch.randn(5)
    before = state()
    for name, call in calls(folder).items():
        with redirect_stderr(StringIO()):
            call()
        for what in changed(before):
            print(f"{name}: {what}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
