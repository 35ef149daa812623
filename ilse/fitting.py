"""One head from a cache, or from rows in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from ilse.core.errors import UserError, did_you_mean
from ilse.core.tables import CACHE_FOLDER, EXAMPLES_FILE
from pipeline.store import Cache

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback

    from trainer.artifacts.artifact import TrainedHead
    from trainer.estimator import HeadClassifier

OF_ROWS = ("tokens", "layers", "objective", "validation_fraction", "device", "sample_weight")
"""Arguments of `HeadClassifier` and its `fit` that `fit` hands on."""


@overload
def fit(
    data: Cache | str | Path,
    y: None = None,
    *,
    head: str = "linear",
    options: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    callbacks: Iterable[Callback] = (),
    logger: Any = None,
    verbose: bool = True,
    **train: Any,
) -> TrainedHead: ...


@overload
def fit(
    data: Any,
    y: Any,
    *,
    head: str = "linear",
    options: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    seed: int = 0,
    out: None = None,
    callbacks: Iterable[Callback] = (),
    logger: Any = None,
    verbose: bool = True,
    **train: Any,
) -> HeadClassifier: ...


def fit(
    data: Any,
    y: Any = None,
    *,
    head: str = "linear",
    options: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    callbacks: Iterable[Callback] = (),
    logger: Any = None,
    verbose: bool = True,
    **train: Any,
) -> TrainedHead | HeadClassifier:
    """Train one head on a cache, or on rows and labels in memory. The language model is not needed.

    Parameters
    ----------
    data
        What `ilse.extract` returned, or its folder: the training examples train, the validation examples choose the
        epoch or penalty, and the test examples are not read. With `y`, rows [texts, layers, dim] such as `cache[:]`.
    y
        Labels of the rows, where `data` is rows.
    head
        A head's name, such as `linear`, `last`, `weighted` or `bottleneck`; `auto` tries many for `minutes`.
    options
        Options of the head, as under `train.options.<head>` in `params.yaml`.
    recipe
        How it is trained, as under `train.recipe`, such as `{"epochs": 10}`.
    seed
        Seed of weights and batches.
    out
        Folder to save the head in.
    callbacks
        Lightning callbacks; every epoch logs `train_loss`, `val_loss` and `val_score`.
    logger
        `"tensorboard"`, `"wandb"`, `"mlflow"`, `"csv"`, a Lightning logger, or a list of these.
    verbose
        Whether to print a line about the fit. The logger `ilse` of Python's `logging` gets it in any case.
    train
        More keys of the section `train`, such as `shots=8` or `pooling="last"`; with `y`, more arguments of
        `HeadClassifier` and its `fit`, such as `validation_fraction=0.2` or `sample_weight=weights`.

    Returns
    -------
    TrainedHead or HeadClassifier
        A head for `ilse.compare` and `ilse.Predictor`; with `y`, a fitted scikit-learn classifier.

    Raises
    ------
    UserError
        For an unknown head, option or key, a folder without a cache or examples, and labels without rows.

    Examples
    --------
    >>> head = ilse.fit(cache, head="bottleneck", recipe={"epochs": 10})
    >>> head.facts.val_score
    0.86
    >>> ilse.fit(cache[:], labels, head="last").predict(cache[:2])
    array(['sport', 'politics'], dtype='<U8')
    """
    if y is not None:
        return _of_rows(data, y, head, options, recipe, seed, callbacks, logger, verbose, {"out": out, **train})
    from trainer import library

    folder = _folder_of(data)
    if head == "auto":
        refused = {"options": options, "callbacks": tuple(callbacks) or None, "logger": logger}
        for name in (name for name, value in refused.items() if value):
            raise UserError(
                "fit(), head 'auto'",
                expected="settings that all heads share",
                found=f"'{name}'",
                next_step=f"name one head, or leave {name} out",
            )
        return library.auto(folder, recipe=recipe, seed=seed, out=out, verbose=verbose, **train).head
    return library.fit(
        folder, head, options=options, recipe=recipe, seed=seed, out=out, callbacks=callbacks, logger=logger,
        verbose=verbose, **train,
    )  # fmt: skip


def _folder_of(data: Any) -> Path:
    """The folder that holds the cache and its examples."""
    if not isinstance(data, Cache | str | Path):
        raise UserError(
            "fit()",
            expected="a cache or its folder, or rows with their labels: fit(X, y)",
            found=f"{type(data).__name__} alone",
            next_step="give the labels too, or what ilse.extract returned",
        )
    folder = Path(data.path) if isinstance(data, Cache) else Path(data)
    if folder.name != CACHE_FOLDER and not isinstance(data, Cache) and (folder / CACHE_FOLDER).exists():
        return folder
    examples = folder.parent / EXAMPLES_FILE
    if not examples.is_file():
        raise UserError(
            f"fit(), {folder}",
            expected=f"a table of examples beside the cache, {examples}",
            found="none: this cache has no labels",
            next_step="extract with labels, or call fit(X, y) with rows and their labels",
        )
    if folder.name != CACHE_FOLDER:
        raise UserError(
            f"fit(), {folder}",
            expected=f"a cache called {CACHE_FOLDER} beside {EXAMPLES_FILE}",
            found=f"one called {folder.name}",
            next_step=f'call fit("{folder.parent}", caches=["{folder}"])',
        )
    return folder.parent


def _of_rows(
    x: Any,
    y: Any,
    head: str,
    options: Mapping[str, Any] | None,
    recipe: Mapping[str, Any] | None,
    seed: int,
    callbacks: Iterable[Callback],
    logger: Any,
    verbose: bool,
    others: dict[str, Any],
) -> HeadClassifier:
    from ilse.core.terminal import say, speaking
    from trainer.estimator import HeadClassifier
    from trainer.fitting.attached import attached, loggers_of

    if others.pop("out") is not None:
        raise UserError(
            "fit(X, y)",
            expected="a cache, to save a head that knows its model",
            found="'out' with rows in memory",
            next_step="save the classifier as scikit-learn has it, or fit on the cache",
        )
    for name in others.keys() - set(OF_ROWS):
        raise UserError(
            "fit(X, y)",
            expected=f"{', '.join(OF_ROWS)}",
            found=f"unknown key '{name}'",
            next_step=did_you_mean(name, OF_ROWS, "leave it out, or fit on the cache"),
        )
    rows, weight = x[:] if isinstance(x, Cache) else x, others.pop("sample_weight", None)
    classifier = HeadClassifier(head, options=options, recipe=recipe, random_state=seed, **others)
    with speaking(verbose), attached(callbacks, loggers_of(logger)):
        classifier.fit(rows, y, weight)
        say(f"{head}: validation score {classifier.validation_score_:.4f}")
    return classifier
