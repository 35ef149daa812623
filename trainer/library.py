"""Training from Python: one head from a folder of tables and cache, as `pipeline.extract` or the stages make it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ilse.core import terminal
from ilse.core.errors import UserError
from ilse.core.files.atomic import replacing_folder
from ilse.core.files.destinations import require_writable
from ilse.core.files.ownership import HEAD
from ilse.core.params import validate
from ilse.core.tables import CACHE_FOLDER, EXAMPLES_FILE
from ilse.core.terminal import speaking
from trainer.artifacts.artifact import TrainedHead, TrainedOn, save_head
from trainer.config import AUTO, AutoOptions, TrainParams
from trainer.data.joined import Places, open_caches
from trainer.data.task import open_task
from trainer.fitting.attached import attached, loggers_of
from trainer.heads import head_kind
from trainer.stages.train import HeadTrainer

if TYPE_CHECKING:  # Optuna is of the extra 'tune'
    import polars as pl
    from lightning.pytorch.callbacks import Callback

    from trainer.cache_drift.comparing import Drift
    from trainer.search.candidates import Candidate
    from trainer.stages.auto import Chosen


def fit(
    data: str | Path,
    head: str = "weighted",
    *,
    options: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    callbacks: Iterable[Callback] = (),
    logger: Any = None,
    verbose: bool = True,
    **others: Any,
) -> TrainedHead:
    """Trains one head on the folder's training examples, as `ilse train` does with this seed; validation chooses.

    Parameters
    ----------
    data
        The folder with `examples.parquet` and `cache.zarr`.
    head, options, recipe
        The head's name, its options as under `train.options`, and how it is trained, as under `train.recipe`.
    seed
        Seed of the weights, the batches and the examples that are drawn.
    out
        A folder to save the head in, for `Predictor.from_pretrained`, `ilse predict` and `ilse export`.
    callbacks
        Lightning callbacks. Each epoch logs `train_loss`, `val_loss` and `val_score`. A head that is solved rather than
        trained in epochs calls none.
    logger
        `"tensorboard"`, `"wandb"`, `"mlflow"` or `"csv"`, one of Lightning's loggers, or a list of these.
    verbose
        Whether to print a line about the fit; the logger `ilse` of `logging` gets it in any case.
    others
        Further keys of the section `train`, such as `shots=8`, `objective="ordinal"`, or `caches=["a.zarr", "b.zarr"]`
        for the rows of two models in place of the folder's `cache.zarr`.

    Returns
    -------
    TrainedHead
        Rows of the cache in, outputs out; `facts` says what it was trained on and its validation figure.

    Raises
    ------
    UserError
        For an unknown head or key, and whatever `ilse train` refuses.

    Examples
    --------
    >>> head = trainer.fit("data", "weighted", recipe={"epochs": 10})
    >>> head.facts.val_score
    0.86
    """
    head_kind(head)
    for key in others.keys() & {"heads", "seeds"}:
        raise UserError("fit()", expected="a head and a seed", found=f"'{key}'", next_step="call it for each of them")
    own = {"heads": [head], "seeds": 1, "recipe": dict(recipe or {}), "options": {head: dict(options or {})}}
    params = validate("train", TrainParams, {**others, **own}, where="fit()")
    if out is not None:
        require_writable(Path(out), HEAD, "out")
    watching = attached(callbacks, loggers_of(logger))
    places, examples = _places(data, params), Path(data) / EXAMPLES_FILE
    with speaking(verbose), watching:
        _, trained = HeadTrainer(open_task(open_caches(places), examples), params, head, terminal.say).of_seed(seed)
    trained.trained_on = TrainedOn(places, examples)
    if out is not None:
        with replacing_folder(Path(out), HEAD, "out") as folder:
            save_head(folder, trained)
    return trained.eval()


def auto(
    data: str | Path,
    *,
    minutes: int | float = 5,
    candidates: Sequence[Candidate] | None = None,
    recipe: Mapping[str, Any] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    say: Callable[[str], None] | None = None,
    verbose: bool = True,
    **others: Any,
) -> Chosen:
    """Screens many heads on the folder's examples within a time, as `ilse train auto` does; validation chooses.

    Parameters
    ----------
    data
        The folder with `examples.parquet` and `cache.zarr`.
    minutes
        By the clock. The first candidate is always trained to its end; after the time no epoch of another begins.
    candidates
        What is tried, in this order; `trainer.search.candidates.CANDIDATES` without any.
    recipe
        How all of them are trained where they do not say otherwise, as under `train.recipe`.
    seed
        Of weights, batches and drawn examples.
    out
        A folder to save the winner in, as of `fit`.
    say
        A function that is called with a line about every candidate, and about the result.
    verbose
        Whether to print these lines; the logger `ilse` of `logging` gets them in any case.
    others
        Further keys of the section `train`, such as `shots=8` or `pooling="last"`.

    Returns
    -------
    Chosen
        The winner as `head`, what was `tried`, and `lines` about it.

    Raises
    ------
    UserError
        For no positive number of minutes, a task without validation examples, an unknown key, and whatever `ilse train`
        refuses.

    Examples
    --------
    >>> found = trainer.auto("data", minutes=2, out="heads/auto")
    >>> found.candidate.label, found.head.facts.val_score
    ('bottleneck, tokens', 0.92)
    >>> found.tried.select("head", "settings", "ended", "val_score", "seconds")
    """
    from trainer.search.candidates import CANDIDATES
    from trainer.stages.auto import choose

    for key in others.keys() & {"heads", "seeds", "learning_rates", "options"}:
        raise UserError(
            "auto()", expected="keys that all candidates share", found=f"'{key}'", next_step="give candidates instead"
        )
    checked = validate(AUTO, AutoOptions, {"minutes": minutes}, where="auto()").minutes
    params = validate("train", TrainParams, {**others, "recipe": dict(recipe or {})}, where="auto()")
    if out is not None:
        require_writable(Path(out), HEAD, "out")
    places, examples = _places(data, params), Path(data) / EXAMPLES_FILE
    task = open_task(open_caches(places), examples)
    with speaking(verbose):
        told = terminal.say if say is None else say
        found = choose(task, params, checked, CANDIDATES if candidates is None else candidates, seed, told)
    found.head.trained_on = TrainedOn(places, examples)
    if out is not None:
        with replacing_folder(Path(out), HEAD, "out") as folder:
            save_head(folder, found.head)
    return found


def layers(
    cache: str | Path,
    *,
    examples: str | Path | None = None,
    variant: Literal["ours", "published"] = "ours",
    alpha: int | float = 1,
    normalise: Literal["raw", "log_n", "log_d", "log_n_log_d", "max"] = "raw",
    pooling: str = "mean",
    texts: int = 1_000,
    memory_budget: int | float | None = None,
    views: Sequence[str | Path] = (),
) -> pl.DataFrame:
    """How good each layer's representation is, from a cache alone, as `ilse layers` has it.

    Parameters
    ----------
    cache
        A finished cache, a folder or a URL.
    examples
        A table with one label a text: separation and probes too, by training and validation labels alone.
    variant
        `published` has entropies and curvature as the code of arXiv 2502.02013 computes them.
    alpha
        Order of the entropies, from 0.
    normalise
        What entropies, in nats, are divided by: the logarithm of texts (of tokens), of the width, both, or the smaller.
    pooling
        Which rows are read.
    texts
        Of the sample, for figures that are no sums over all texts.
    memory_budget
        GB for sums and samples; 0.27 without it.
    views
        Caches of the same texts with another noise each (`extract.noise`), at least two: InfoNCE, LiDAR and DiME too.

    Returns
    -------
    polars.DataFrame
        A row a layer and metric: `value`, its standard `error` where it has one, how many `texts` it is of and how many
        were `excluded`. A `value` that is missing has its reason in `note`. Rows of `cka` name the `other` layer.

    Raises
    ------
    UserError
        For no finished cache, a pooling that it does not hold, examples of other texts or without labels, and options
        out of range.

    Examples
    --------
    >>> table = trainer.layers("data/cache.zarr", examples="data/examples.parquet")
    >>> table.filter(polars.col("metric") == "dimension").select("name", "value", "error")
    """
    from trainer.layer_metrics.measuring import Options, budget_of
    from trainer.stages.layers import measure

    options = Options(variant, float(alpha), normalise, pooling, texts, budget_of(memory_budget))
    places = [str(place) for place in views]
    return measure(str(cache), None if examples is None else Path(examples), options, places).table


def drift(
    a: str | Path,
    b: str | Path,
    *,
    head: str | Path | None = None,
    examples: str | Path | None = None,
    tolerance: int | float | None = None,
    pooling: str = "mean",
    neighbours: int = 10,
    texts: int = 1_000,
    memory_budget: int | float | None = None,
) -> Drift:
    """How far two caches of the same texts are apart, as `ilse layers --compare` has it.

    Parameters
    ----------
    a, b
        Finished caches, folders or URLs, with the same layers; texts are matched by their ids, and all texts of one of
        them are in the other.
    head
        The folder of a head that was trained on one of them: how many of its answers change.
    examples
        A table of examples over both: of its validation examples, how the head's score changes.
    tolerance
        In points: whether the change is shown to be within ± this, at an error rate of 5 %.
    pooling
        Which rows are compared; a head reads its own.
    neighbours
        How many nearest ones of each text are compared.
    texts
        Most texts of the sample for CKA, and of those whose neighbours are sought among all.
    memory_budget
        GB for rows and samples; 0.27 without it.

    Returns
    -------
    Drift
        `table`, a row a layer and metric, with the standard `error` of what is of a sample; `score`, the head's on both
        caches; `passed`, whether its change is shown to be within the tolerance. As a string it is what the command
        prints.

    Raises
    ------
    UserError
        For no finished caches, other texts or layers, a head that was trained on neither, examples of other labels, and
        options that mean nothing.

    Examples
    --------
    >>> found = trainer.drift("a.zarr", "b.zarr", head="models/last/seed-0", examples="data/examples.parquet")
    >>> found.table.head()
    """
    from trainer.cache_drift.comparing import compare
    from trainer.cache_drift.row_differences import Options
    from trainer.layer_metrics.measuring import budget_of

    options = Options(pooling, texts, neighbours, budget_of(memory_budget))
    folder, table = None if head is None else Path(head), None if examples is None else Path(examples)
    return compare(str(a), str(b), options, folder, table, None if tolerance is None else float(tolerance))


def _places(data: str | Path, params: TrainParams) -> Places:
    """The caches that are named, or the folder's one."""
    return params.caches or Path(data) / CACHE_FOLDER
