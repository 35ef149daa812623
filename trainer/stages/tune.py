"""`ilse tune`: the same number of trials for every head, judged on validation alone. Optuna searches and remembers."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import optuna
import polars as pl
from filelock import FileLock, Timeout
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import make_url
from sqlalchemy.exc import DatabaseError, DBAPIError, SQLAlchemyError
from tenacity import retry, retry_if_exception, stop_after_attempt, wait_random_exponential

from ilse.core.errors import UserError
from ilse.core.files.atomic import replacing, write_json
from ilse.core.files.full_disk import disk_error
from ilse.core.network import in_short
from ilse.core.progress_bars import progress_bar
from ilse.core.terminal import say
from trainer.config import Recipe, TrainParams
from trainer.data.joined import Places, open_caches
from trainer.data.shared_inputs import SharedInputs
from trainer.data.task import Task, open_task
from trainer.fitting.assembly import head_of, objective_of
from trainer.fitting.fit import fit
from trainer.fitting.isolation import quiet
from trainer.fitting.loop import NotFiniteError
from trainer.fitting.progress import fit_key
from trainer.fitting.solved import is_solved
from trainer.heads import Head, head_config, head_kind
from trainer.objectives import Objective
from trainer.rows.in_memory import Examples
from trainer.search.space import Range, TuneParams, Value, current, section_of, with_values

COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)
"""Trials that spend the budget; one whose process died is tried again."""
HEARTBEAT_SECONDS = 30
"""A process that says nothing for twice as long is taken for dead."""
PATIENCE_SECONDS = 60.0
"""How long a file that another program has locked is waited for."""
KEY = "data and parameters"
OF_TRAINING = {
    "epochs", "least_steps", "patience", "batch_size", "learning_rate", "weight_decay", "schedule", "gradient_clip",
    "compute_type", "dropout",
}  # fmt: skip
"""Keys that an optimum does not depend on."""
MAY_TRAIN = {"optimizer", "mlp_layers"}
"""Keys by whose values a linear head may be trained after all."""
Space = dict[str, Range | list[Value]]


@dataclass(frozen=True)
class Tuned:
    """What a head's search found. Figures are the objective's."""

    head: str
    trials: int
    before: float | None
    """Validation figure of the parameters as they stood; None where that trial did not end."""
    after: float
    values: dict[str, Value]

    def line(self) -> str:
        """For the terminal."""
        found = ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in
                          self.values.items())  # fmt: skip
        start = "" if self.before is None else f"{100 * self.before:.2f} -> "
        return f"{self.head}: validation {start}{100 * self.after:.2f} after {self.trials} trials: {found}"


def tune(tuning: TuneParams, params: TrainParams, head: str, cache: Places, examples: Path, results: Path) -> Tuned:
    """Runs the trials of `head` that its study lacks, and writes `results/tune/<head>.csv` and `.json`.

    A stopped study resumes, and processes with one storage share it. Raises `UserError` for an unknown head,
    a storage that cannot be used, a study of other data or parameters, and what `open_caches` and `open_task` refuse.
    """
    head_kind(head)
    task = open_task(open_caches(cache), examples)
    with quiet("optuna"), _usable(tuning.storage):  # a line about each trial is ours
        study = _study(tuning, head, _key(tuning, params, head, task))
        left = tuning.trials - len(study.get_trials(deepcopy=False, states=COUNTED))
        if left > 0:
            objective = _Objective(tuning, params, head, task)
            space = objective.space
            now = current(params, head, list(space))
            study.enqueue_trial({key: now[key] for key in space if _holds(space[key], now[key])}, skip_if_exists=True)
            _search(study, objective, tuning.trials if space else 1)
        return _write(study, head, results)


def _search(study: optuna.Study, objective: Callable[[optuna.Trial], float], trials: int) -> None:
    """Runs trials until the study has `trials`, whatever other processes do to those of this one.

    A process that sleeps, as in a closed laptop, is taken for dead by the others, which give its trial up and try it
    again. Optuna then ends the one that wakes up with an error; here it continues with the next trial.
    """
    enough = optuna.study.MaxTrialsCallback(trials, states=COUNTED)

    def ended() -> int:
        return len(study.get_trials(deepcopy=False, states=COUNTED))

    with progress_bar(trials, f"tune {study.study_name}", "trial", done=ended()) as bar:
        while ended() < trials:
            try:
                study.optimize(objective, callbacks=[enough, _tell, lambda study, trial: bar.update(ended() - bar.n)])
            except (UpdateFinishedTrialError, ValueError) as error:
                if not isinstance(error, UpdateFinishedTrialError) and not str(error).startswith("Cannot tell a FAIL"):
                    raise
                say(f"{study.study_name}: another process believed a trial of this one dead and repeats it")


class _Objective:
    """The mean validation figure of a trial's runs. `space` is what is searched: of a solved head, what it needs."""

    def __init__(self, tuning: TuneParams, params: TrainParams, head: str, task: Task) -> None:
        self._tuning, self._params, self._head, self._task = tuning, params, head, task
        self._inputs = SharedInputs(task, params)
        self.space: Space = tuning.space_of(head, params)
        idle = [key for key in self.space if key in OF_TRAINING]
        if idle and not self.space.keys() & MAY_TRAIN and self._is_solved():
            say(f"{head}: it is solved, not trained, so {', '.join(idle)} are not searched")
            self.space = {key: values for key, values in self.space.items() if key not in idle}

    def _is_solved(self) -> bool:
        """Whether the recipe has the head solved."""
        if self._params.recipe_of(self._head).optimizer not in ("auto", "lbfgs"):
            return False
        recipe, head, objective, train, _ = self._made(self._params, 0)
        return is_solved(head, objective, recipe, train)

    def _made(self, params: TrainParams, seed: int) -> tuple[Recipe, Head, Objective, Examples, Examples]:
        recipe, objective = params.recipe_of(self._head), objective_of(params, self._head, self._task)
        head = head_of(params, self._head, self._task, objective, seed)
        inputs = self._inputs.of(recipe.treatment(), head.layers_read, params.pooling_of(self._head))
        _, train, validation = inputs.of_seed(seed)
        return recipe, head, objective, train, validation

    def __call__(self, trial: optuna.Trial) -> float:
        values = {key: _suggest(trial, key, choice) for key, choice in self.space.items()}
        params = with_values(self._params, self._head, values)
        return mean(self._validation(params, seed, trial) for seed in range(self._tuning.seeds))

    def _validation(self, params: TrainParams, seed: int, trial: optuna.Trial) -> float:
        """Best validation figure of one run; only the first one of a trial is compared with others as it goes."""
        recipe, head, objective, train, validation = self._made(params, seed)
        pruned = []

        def hopeless(epoch: int, score: float) -> bool:
            trial.report(score, epoch)
            pruned.append(bool(trial.should_prune()))
            return pruned[-1]

        watch = hopeless if seed == 0 and self._tuning.pruning else None
        try:
            result = fit(head, train, validation, objective, recipe, seed, params.device, watch=watch)
        except NotFiniteError as error:
            raise optuna.TrialPruned(str(error)) from error
        if any(pruned):
            raise optuna.TrialPruned
        return result.best.val_score


def _study(tuning: TuneParams, head: str, key: str) -> optuna.Study:
    try:
        if file := _file_of(tuning.storage):
            file.parent.mkdir(parents=True, exist_ok=True)
        storage = _storage(tuning.storage)
        study = optuna.create_study(
            study_name=head,
            storage=storage,
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_warmup_steps=5) if tuning.pruning else optuna.pruners.NopPruner(),
        )
    except Exception as error:  # a driver that is missing, a server that is away, a file that is no database
        if _is_locked(error) or disk_error(error):
            raise
        raise UserError(
            "parameter tune.storage",
            expected="an Optuna storage that can be used, such as sqlite:///data/tune.db",
            found=f"{tuning.storage}: {in_short(error)[:200]}",
            next_step="correct the address, start the server, or install its driver",
        ) from None  # the cause may hold the address with its password
    # The next draws of a resumed study, or of another process, are not the first ones again.
    seed = tuning.seed + len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True, multivariate=True)
    if study.user_attrs.setdefault(KEY, key) != key:
        raise UserError(
            f"study '{head}' in {tuning.storage}",
            expected="trials on this data with these parameters, to resume",
            found="trials on other data, with another recipe or with another space",
            next_step="name another tune.storage, or delete the old one to start again",
        )
    study.set_user_attr(KEY, key)
    return study


@contextmanager
def _usable(address: str) -> Iterator[None]:
    """Says of a storage that fails in the block what is the matter: a file that is locked, a server that is lost."""
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, Timeout) as error:
        if full := disk_error(error):
            raise OSError(full.errno, full.strerror, address.removeprefix("sqlite:///")) from error
        if _is_locked(error):
            raise UserError(
                f"parameter tune.storage, {address}",
                expected="a file that this command may write to",
                found=f"one that another program has kept locked for {PATIENCE_SECONDS:.0f} s",
                next_step="close that program, such as a database browser or a backup, and run the same command "
                "again; finished trials are kept",
            ) from None  # the cause may hold the address with its password
        raise UserError(
            "parameter tune.storage",
            expected="a storage that answers until the search ends",
            found=in_short(error.__cause__ or error)[:200],
            next_step="check the server, and run the same command again; finished trials are kept",
        ) from None  # the cause may hold the address with its password


def _is_locked(error: BaseException) -> bool:
    """Whether SQLite, or the lock of who takes a trial, was kept waiting by another program."""
    if isinstance(error, Timeout):
        return True
    while error.__cause__ is not None:
        error = error.__cause__
    return "database is locked" in str(error) or "database table is locked" in str(error)


class _Storage(RDBStorage):
    """A storage that processes share, in a SQLite file too."""

    def record_heartbeat(self, trial_id: int) -> None:
        """Misses a sign of life that can't be written, as while another program has the file: the next one will do."""
        with suppress(StorageInternalError, DBAPIError):
            super().record_heartbeat(trial_id)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Lets one process alone take up a trial that waits, or give up one that is dead; True for that one.

        Optuna reads the state and then writes it, under a lock of the row. SQLite has no such locks: two processes took
        the same trial, and the one that finished second ended with an error. A file next to the database stands in.
        """
        file = _file_of(self.url)
        with FileLock(f"{file}.lock", timeout=PATIENCE_SECONDS) if file else nullcontext():
            return super().set_trial_state_values(trial_id, state, values)


def _file_of(address: str) -> Path | None:
    """The file of a SQLite database, as the library reads it: `%20` is a blank, what follows `?` is no part of it."""
    url = make_url(address)
    return Path(url.database) if url.drivername == "sqlite" and url.database not in (None, "", ":memory:") else None


@retry(
    # A bare DatabaseError is a file that is no database, and will be none; a locked one has been waited for.
    retry=retry_if_exception(
        lambda error: isinstance(error, DBAPIError) and type(error) is not DatabaseError and not _is_locked(error)
    ),
    wait=wait_random_exponential(multiplier=0.2, max=2),
    stop=stop_after_attempt(6),
    reraise=True,
)
def _storage(address: str) -> _Storage:
    """Opens a storage, which makes its tables where there are none.

    Optuna looks first and makes them then; of processes that start together, one is told that a table is there already
    (optuna issue 1092), and finds it so when it looks again.
    """
    with warnings.catch_warnings():  # heartbeats are experimental, and the only way to tell the dead from the slow
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _Storage(
            address,
            engine_kwargs={"connect_args": {"timeout": PATIENCE_SECONDS}} if address.startswith("sqlite") else None,
            heartbeat_interval=HEARTBEAT_SECONDS,
            heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(),
        )


def _key(tuning: TuneParams, params: TrainParams, head: str, task: Task) -> str:
    """What trials must have in common to be compared: not their number, their place, or the values that are searched.

    A study whose best values were written into the parameters can then be continued.
    """
    space = tuning.space_of(head, params)
    of_head = head_of(params, head, task, objective_of(params, head, task), 0)
    described = head_config(of_head)
    own = {
        "head": head,
        "options": {key: value for key, value in described["options"].items() if key not in space},
        **({"tokens": described["tokens"]} if "tokens" in described else {}),
        "recipe": params.recipe_of(head).model_dump(mode="json", exclude=set(space)),
        "tune": tuning.model_dump(mode="json", include={"seeds", "space", "pruning"}),
    }
    return fit_key(task, params, own)


def _holds(values: Range | list[Value], now: Value) -> bool:
    return now in values if isinstance(values, list) else isinstance(now, int | float) and values.low <= now


def _suggest(trial: optuna.Trial, key: str, values: Range | list[Value]) -> Value:
    if isinstance(values, list):
        chosen: Value = trial.suggest_categorical(key, values)
        return chosen
    if isinstance(values.low, int) and isinstance(values.high, int):
        return trial.suggest_int(key, values.low, values.high, log=values.log)
    return trial.suggest_float(key, values.low, values.high, log=values.log)


def _tell(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    value = "ended early" if trial.value is None else f"validation {trial.value:.4f}"
    say(f"{study.study_name} trial {trial.number}: {value} {json.dumps(trial.params)}")


def _write(study: optuna.Study, head: str, results: Path) -> Tuned:
    trials = study.get_trials(states=COUNTED)
    rows = [
        {
            "head": head,
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "val_score": trial.value if trial.state is TrialState.COMPLETE else None,
            "seconds": None if trial.duration is None else trial.duration.total_seconds(),
            **trial.params,
        }
        for trial in trials
    ]
    with replacing(results / "tune" / f"{head}.csv") as file:
        pl.DataFrame(rows, infer_schema_length=None).write_csv(file)
    if all(row["state"] == "pruned" for row in rows):
        raise UserError(
            f"study '{head}'",
            expected="at least one trial that ends well",
            found=f"{len(rows)} whose loss was not finite",
            next_step="lower the learning rates of tune.space",
        )
    first = min(trials, key=lambda trial: trial.number)
    best = study.best_trial
    tuned = Tuned(head, len(trials), first.value if first.state is TrialState.COMPLETE else None, best.value or 0.0,
                  dict(best.params))  # fmt: skip
    write_json(
        results / "tune" / f"{head}.json",
        {
            "trials": tuned.trials,
            "val_score_before": tuned.before,
            "val_score": tuned.after,
            "best_trial": best.number,
            "options": section_of(head, tuned.values),
        },
    )
    return tuned
