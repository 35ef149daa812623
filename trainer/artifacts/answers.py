"""Answers that something other than a head gave, on disk: a folder with `answers.parquet` and `answers.json`.

Controls come through here, and any other system: a fine-tuned model, an embedding service, a list of rules. Evaluation
takes such a folder where it takes a head's, and asks nothing of what made it but the answers to the test examples.

`answers.parquet` has a row for each test example, in the order of `Task.unlabelled_ids`: its columns `text_id` (and, of
pairs, `pair_text_id`) and `answer`, which is what the objective's `predict` tells: a list of probabilities in the label
map's order, or a number.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import polars as pl
import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from ilse.core.errors import MissingError, UserError
from ilse.core.files.atomic import replacing, write_json
from ilse.core.files.json_files import own_file, read_json
from ilse.core.files.table_files import read_parquet
from trainer.data.task import Task
from trainer.objectives import Objective, restore
from trainer.results.figures import BOUNDS

FORMAT_VERSION = 1
ANSWERS, FACTS = "answers.parquet", "answers.json"
ANSWER = "answer"
TOLERANCE = 1e-3
"""How far the probabilities of one example may be from 1 in sum: some write them with few digits."""
SHARES = ("multi_class", "ordinal")
"""Objectives whose labels exclude each other: their probabilities sum to 1."""

Finite = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class AnswersFacts:
    """Where the answers come from and how well they do on validation: `answers.json`, next to the answers."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # for loading

    name: str
    summary: str
    """One-line description of what gave the answers."""
    objective: dict[str, str | int | float]
    """Objective that was answered, in the form that `objectives.restore` takes."""
    labels: list[str]
    texts: str
    """`texts_digest` of the test examples: answers to another data set, or to another split of it, are refused."""
    seed: Count
    val_score: Finite
    """The objective's figure on validation, 0 to 1 for most."""
    val_loss: Finite | None
    parameters: Count
    """Values that were trained."""
    model_parameters: Count
    """Parameters of the frozen or fine-tuned model that it needs; 0 if it needs none."""
    train_seconds: Finite


_FACTS = TypeAdapter(AnswersFacts)


@dataclass(frozen=True)
class Answers:
    """The answers of one system with one seed."""

    facts: AnswersFacts
    predicted: Float[Tensor, "rows ..."]
    """[rows, labels] probabilities or [rows] numbers, float32."""

    @property
    def objective(self) -> Objective:
        """Objective by which the answers are scored."""
        return restore(self.facts.objective, tuple(self.facts.labels))


def texts_digest(ids: pl.DataFrame) -> str:
    """SHA-256 over the examples' text ids in order: a line for each, the two ids of a pair with a space between."""
    lines = ids.select(pl.concat_str(pl.all(), separator=" ")).to_series()
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def save_answers(folder: Path, answers: Answers, ids: pl.DataFrame) -> None:
    """Writes the artifact into `folder`; `ids` are `Task.unlabelled_ids`."""
    folder.mkdir(parents=True, exist_ok=True)
    kind = pl.List(pl.Float32) if answers.predicted.ndim == 2 else pl.Float32
    # a list of Python's own numbers takes eight times as much
    told = pl.Series(ANSWER, answers.predicted.float().numpy()).cast(kind)
    with replacing(folder / ANSWERS) as file:
        ids.with_columns(told).write_parquet(file)
    write_json(folder / FACTS, {"format_version": FORMAT_VERSION, **asdict(answers.facts)})


def has_answers(folder: Path) -> bool:
    """Whether the folder is such an artifact, and no head."""
    return (folder / FACTS).is_file()


def load_answers(folder: Path, task: Task) -> Answers:
    """The answers in `folder` to the test examples of `task`.

    Raises `UserError` for a missing or damaged file, another format version, answers to other texts or labels, and
    answers that the objective could not have given: another width, values that are not finite, or probabilities that
    are none.
    """
    facts = _facts(folder)
    ids = task.unlabelled_ids()
    if facts.texts != texts_digest(ids):
        found = f"other texts, or another order of them ({facts.texts[:16]})"
        raise _refused(folder, f"answers to this task's test examples ({texts_digest(ids)[:16]})", found)
    if facts.labels != list(task.labels):
        found = ", ".join(facts.labels) or "no labels"
        raise _refused(folder, f"the labels {', '.join(task.labels) or '(none: scores)'}", found)
    answers = Answers(facts, _predicted(folder, ids, len(facts.labels)))
    _check(folder, answers)
    return answers


def _facts(folder: Path) -> AnswersFacts:
    try:
        found = read_json(own_file(folder, FACTS))
        version = found.pop("format_version", None) if isinstance(found, dict) else None
        if version != FORMAT_VERSION:
            raise _refused(folder, f"answers format version {FORMAT_VERSION}", f"version {version}")
        facts = _FACTS.validate_json(json.dumps(found))
        metric = restore(facts.objective, tuple(facts.labels)).metric
    except UserError as error:  # of an objective, which knows no folder
        raise _refused(folder, error.expected, error.found) from error
    except FileNotFoundError as error:
        raise _refused(folder, f"{ANSWERS} and {FACTS}", f"no {FACTS}", MissingError) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise _refused(folder, f"the facts of {FACTS}, each of its type", f"{place}: {first['msg']}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        found = f"{type(error).__name__} {' '.join(str(error).split())[:200]}"
        raise _refused(folder, f"{FACTS} with the facts of an objective", found) from error
    least, most = BOUNDS[metric]
    if not least <= facts.val_score <= most:
        raise _refused(folder, f"{FACTS} with a val_score that {metric} can be", f"{facts.val_score:g}")
    return facts


def _predicted(folder: Path, ids: pl.DataFrame, width: int) -> Float[Tensor, "rows ..."]:
    """The column of answers, whose rows must be the examples."""
    columns = [*ids.columns, ANSWER]
    try:
        table = read_parquet(own_file(folder, ANSWERS), values=len(ids) * (width + len(columns)))
    except FileNotFoundError as error:
        raise _refused(folder, f"{ANSWERS} and {FACTS}", f"no {ANSWERS}", MissingError) from error
    except UserError:
        raise
    except (pl.exceptions.PolarsError, ValueError) as error:
        raise _refused(folder, "a Parquet table", str(error).splitlines()[0]) from error
    if missing := [name for name in columns if name not in table.columns]:
        raise _refused(folder, f"columns {', '.join(columns)}", f"no {' and no '.join(missing)}")
    if len(table) != len(ids):
        raise _refused(folder, f"{len(ids)} answers, one per test example", str(len(table)))
    if not table.select(ids.columns).equals(ids):
        raise _refused(folder, "the test examples' text ids in their order", "others, or another order")
    return _tensor(folder, table[ANSWER])


def _tensor(folder: Path, column: pl.Series) -> Float[Tensor, "rows ..."]:
    listed = isinstance(column.dtype, pl.List | pl.Array)
    flat = column.explode() if listed else column
    widths = column.list.len().drop_nulls().unique().to_list() if isinstance(column.dtype, pl.List) else []
    if not flat.dtype.is_numeric() or len(widths) > 1:
        found = f"lists of {' and '.join(map(str, sorted(widths)))} values" if widths[1:] else str(column.dtype)
        raise _refused(folder, "a number for each example, or a list of so many for each", found)
    if flat.null_count() or not flat.cast(pl.Float32).is_finite().all():
        raise _refused(folder, "finite answers", "values that are missing, NaN or infinite")
    values = torch.tensor(flat.cast(pl.Float32).to_numpy())
    return values.reshape(len(column), -1) if listed else values


def _check(folder: Path, answers: Answers) -> None:
    """Whether the objective could have given such answers."""
    kind, labels, predicted = answers.objective.kind, answers.facts.labels, answers.predicted
    expected = f"{len(labels)} probabilities for each example" if labels else "a number for each example"
    width = predicted.shape[1] if predicted.ndim == 2 else 0
    if width != len(labels):
        raise _refused(folder, f"{expected}, for {kind}", f"lists of {width} values" if width else "numbers")
    if not labels:
        return
    if predicted.min() < 0 or predicted.max() > 1 + TOLERANCE:
        raise _refused(folder, f"{expected}, from 0 to 1", f"{predicted.min():.4g} to {predicted.max():.4g}")
    sums = predicted.sum(-1)
    if kind in SHARES and (sums - 1).abs().max() > TOLERANCE:
        raise _refused(folder, f"{expected} that sum to 1", f"sums of {sums.min():.4g} to {sums.max():.4g}")


def _refused(folder: Path, expected: str, found: str, kind: type[UserError] = UserError) -> UserError:
    return kind(
        f"answers {folder}",
        expected=expected,
        found=found,
        next_step="let what made them answer the test examples of this data set again",
    )
