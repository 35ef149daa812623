"""Explains a token head's answers to validation examples, some right and some wrong.

`results/why.json`, which the report shows, has what `trainer.analysis.word_picture` draws. The examples are drawn at
random from the validation split, and the first right and wrong ones are shown; of scores the closest and those furthest
off.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ilse.core.errors import UserError
from ilse.core.files.atomic import write_json
from ilse.core.files.table_files import scan_parquet
from ilse.core.tables import LABEL, LABELS, SCORE, SPLIT, TEXT, TEXT_ID, VALIDATION
from ilse.predict.command import configured
from ilse.predict.predictions import LabelPrediction, LabelSetPrediction, Prediction, in_words
from ilse.predict.predictor import Predictor, answers_pairs
from ilse.predict.why.explanation import require_explainable
from pipeline.cluster.machine import cores
from pipeline.model.quiet import quietly
from trainer.analysis.word_picture import strongest
from trainer.analysis.words_told import FILE, FORMAT_VERSION
from trainer.artifacts.artifact import load_head, require_basis
from trainer.artifacts.best_seed import best_seed
from trainer.data.targets import targets_of
from trainer.data.task import read_examples

DRAWN, SHOWN = 200, 4
"""Examples that are answered, and those of them that are shown as right, and as wrong."""
DIGITS = 4
"""Significant digits of a contribution that is kept."""


@quietly()
def explain_examples(
    head: Path,
    examples: Path,
    texts: Path,
    results: Path,
    model: Path | None,
    params: Path,
    device: str = "auto",
    threads: int = 0,
) -> Path:
    """Writes `results/why.json` for the head in the folder `head`, and returns its path.

    `examples` and `texts` are the tables of `ilse prepare`. Without `model` a head over a local model takes that of
    section `extract` in `params`. Raises `UserError` for a head that reads no tokens, or answers about pairs, and for
    examples with other labels than its own.
    """
    head = best_seed(head)
    trained = load_head(head)
    require_explainable(trained, answers_pairs(trained))
    require_basis(trained, "prediction of new texts")
    table = read_examples(examples)
    targets, held = targets_of(table, examples), table.filter(pl.col(SPLIT) == VALIDATION)
    if list(targets.labels) != trained.facts.labels or held.is_empty():
        raise UserError(
            f"examples {examples}",
            expected=f"validation examples with {', '.join(trained.facts.labels) or 'scores'}, as the head has",
            found=f"{', '.join(targets.labels) or 'scores'}" if held.height else "none for validation",
            next_step="name the examples that the head was trained on",
        )
    drawn = held[np.random.default_rng(0).permutation(held.height)[:DRAWN].tolist()]
    known = _texts(texts, drawn[TEXT_ID].to_list())
    asked = [known[text_id] for text_id in drawn[TEXT_ID]]
    predictor = Predictor.load(head, model or configured(trained, params), device=device, threads=threads or cores())
    found = predictor.predictions(asked)
    wanted = drawn[{"label": LABEL, "labels": LABELS, "score": SCORE}[targets.kind]].to_list()
    misses = [missed(prediction, target) for prediction, target in zip(found, wanted, strict=True)]
    shown, right = chosen(misses, scores=targets.kind == "score")
    names: list[str] = []
    told = []
    for place in shown:
        why = predictor.why(asked[place])
        words, names = strongest(why.words, why.word_contributions), why.layers
        told.append({
            "text_id": drawn[TEXT_ID][place], "right": place in right, "target": _in_words(wanted[place]),
            "answer": in_words(found[place]), "words": words.words, "places": words.places, "count": words.count,
            "contributions": [[float(f"{value:.{DIGITS}g}") for value in row] for row in words.contributions.tolist()],
        })  # fmt: skip
    facts = {
        "format_version": FORMAT_VERSION, "head": head.resolve().parent.name, "seed": trained.facts.seed,
        "val_score": trained.facts.val_score, "trained_on": trained.facts.recipe.get("folds") is not None,
        "asked": len(asked),
        "answered_rightly": None if targets.kind == "score" else misses.count(0), "layers": names, "examples": told,
    }  # fmt: skip
    results.mkdir(parents=True, exist_ok=True)
    write_json(results / FILE, facts)
    return results / FILE


def missed(prediction: Prediction, target: Any) -> float:
    """How far an answer is off: 0 or 1 of labels."""
    if isinstance(prediction, LabelPrediction):
        return float(prediction.label != target)
    if isinstance(prediction, LabelSetPrediction):
        return float(set(prediction.labels) != set(target))
    return float(abs(prediction.score - target))


def chosen(misses: Sequence[float], scores: bool) -> tuple[list[int], set[int]]:
    """Places of at most `SHOWN` right answers and then of as many wrong ones, and which are the right ones.

    Of scores the closest and the furthest ones.
    """
    order = sorted(range(len(misses)), key=lambda place: misses[place]) if scores else list(range(len(misses)))
    if scores:
        half = min(SHOWN, len(order) // 2)
        right, wrong = order[:half], order[len(order) - half :][::-1]
    else:
        right = [place for place in order if not misses[place]][:SHOWN]
        wrong = [place for place in order if misses[place]][:SHOWN]
    return [*right, *wrong], set(right)


def _in_words(target: Any) -> str:
    if isinstance(target, str):
        return target
    return f"{target:.4g}" if isinstance(target, float) else ", ".join(target) or "no label"


def _texts(path: Path, ids: list[str]) -> dict[str, str]:
    try:
        table = scan_parquet(path).filter(pl.col(TEXT_ID).is_in(ids)).select(TEXT_ID, TEXT).collect()
        found = {one: text for one, text in table.iter_rows() if isinstance(text, str)}
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _no_texts(path, str(error).splitlines()[0]) from error
    if missing := [one for one in ids if one not in found]:
        raise _no_texts(path, f"no text {missing[0]}")
    return found


def _no_texts(path: Path, found: str) -> UserError:
    return UserError(
        f"texts {path}", expected="the texts of all examples", found=found, next_step="run 'ilse prepare' again"
    )
