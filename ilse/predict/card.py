"""The model card of a head: what it is, what it was trained on, its figures and limits, from the run's own files."""

from __future__ import annotations

from pathlib import Path

import polars as pl
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ilse import __version__
from pipeline.store import CaptureSpec
from trainer.artifacts.artifact import HeadFacts, TrainedHead
from trainer.data.sources import Source
from trainer.results.figures import BOUNDS
from trainer.results.result_tables import COUNT, KNOWN, TEXT, Table, read_table, require_range

TASKS = {"regression": "text-regression", "similarity": "sentence-similarity"}
"""Objective → what the Hub calls its task; the others classify texts."""
RUNS = "runs.csv"
RUNS_READ = Table({"head": TEXT, "seed": COUNT, "val_score": KNOWN, "test_score": KNOWN}, keys=(("head", "seed"),))
SAME = 1e-5
"""How far a validation figure may be from its six digits in `runs.csv`."""


def model_card(trained: TrainedHead, name: str, results: Path) -> ModelCard:
    """The card of the head that `results` calls `name`; test figures stand in it where `results` has this very fit's.

    It names no licence: the head's is its owner's to choose, beside those of the model and the data.
    """
    figures = {"validation": trained.facts.val_score, **_test_figures(trained, name, results)}
    front = _front(trained, name, figures).to_yaml()
    return ModelCard(f"---\n{front}\n---\n\n{_body(trained, name, figures)}")


def _front(trained: TrainedHead, name: str, figures: dict[str, float]) -> ModelCardData:
    facts, metric = trained.facts, trained.objective.metric
    hub = [source.capture.model["hub"] for source in facts.sources if "hub" in source.capture.model]
    return ModelCardData(
        model_name=f"{name}, seed {facts.seed}",
        library_name="ilse-cache",
        base_model=hub[0] if len(hub) == 1 else hub or None,
        tags=["ilse-cache", "layer-fusion", trained.head.spec.name, trained.objective.kind],
        eval_results=[
            EvalResult(
                task_type=TASKS.get(trained.objective.kind, "text-classification"),
                dataset_type="own",
                dataset_name="the data set that it was trained on",
                dataset_split=split,
                metric_type=metric,
                metric_value=round(value, 4),
            )
            for split, value in figures.items()
        ],
    )


def _body(trained: TrainedHead, name: str, figures: dict[str, float]) -> str:
    facts = trained.facts
    models, several = "; ".join(map(_model, facts.sources)), len(facts.sources) > 1
    frozen = "frozen language models" if several else "a frozen language model"
    labels = ", ".join(f"`{_plain(label)}`" for label in facts.labels) or "none: it gives a number"
    told = "\n".join(f"- {split}: {trained.objective.metric} {value:.4f}" for split, value in figures.items())
    missing = "" if "test" in figures else "- No figure on a test split came with it.\n"
    return f"""# {_plain(name)}, seed {facts.seed}

A head of {trained.parameters_trained:,} trained values over {len(facts.layer_names)} layers of {frozen},
{models}. {"The models are" if several else "The model is"} not in this repository.
Made by [ilse-cache](https://pypi.org/project/ilse-cache/) {__version__}.

```
ilse pull OWNER/NAME pulled
ilse predict pulled --input texts.txt{" --model THE-MODEL" * len(facts.sources)}
```

## What it was trained on

- Objective: `{trained.objective.kind}`. Labels: {labels}.
- {_read(trained)}, {"; ".join(_capture(source.capture, facts.reads_tokens) for source in facts.sources)}.
- Recipe: {", ".join(f"{key} {_plain(str(value))}" for key, value in facts.recipe.items())}. {_chosen(facts)},
  {facts.train_seconds:.0f} s.

## Figures

{told}

Epoch or penalty was chosen on validation, whose figure is therefore a little too good.

## Limits

- It answers for texts like those that it was trained on, and only over the very model named above: any other is
  refused.
- It is one seed of several; a difference of a point or two between seeds means nothing.
{missing}- Its licence is for its owner to say; those of the model and of the data bind it too.
"""


def _model(source: Source) -> str:
    pinned = ", ".join(f"{key} `{value}`" for key, value in source.capture.model.items())
    return f"`{_plain(source.model_name)}` ({source.model_parameters:,} parameters; {pinned})"


def _capture(capture: CaptureSpec, of_tokens: bool) -> str:
    """How a model read the texts."""
    stored = capture.tokens.storage_type if of_tokens and capture.tokens else capture.storage_type
    noise = f" for training with {capture.noise_in_words}," if capture.noise else ""
    return f"""capture `{capture.fingerprint[:16]}`: every text in the template
  `{_plain(capture.template)}`, {capture.lengths_in_words},{noise} computed in {capture.compute_type} and stored as
  {stored}"""


def _read(trained: TrainedHead) -> str:
    """What the head reads of the model's layers, in words."""
    facts, tokens = trained.facts, trained.facts.capture.tokens
    if not facts.reads_tokens or tokens is None:
        return "Rows: pooling " + " and ".join(f"`{pooling}`" for pooling in facts.poolings)
    how = "whole" if tokens.rank is None else f"in a basis of rank {tokens.rank}, which is among the weights"
    return f"Tokens: the states of every token of {len(trained.head.layers_read)} layers, {how}"


def _chosen(facts: HeadFacts) -> str:
    return f"Best epoch {facts.best_epoch}" if facts.penalty is None else f"Solved with the penalty {facts.penalty:.3g}"


def _test_figures(trained: TrainedHead, name: str, results: Path) -> dict[str, float]:
    """The figure on the test split, of this head, seed and fit; none where `results` has no such row."""
    if not (results / RUNS).is_file():
        return {}
    facts = trained.facts
    same_fit = (pl.col("val_score") - facts.val_score).abs() < SAME
    runs = read_table(results / RUNS, RUNS_READ)
    require_range(results / RUNS, runs["test_score"], *BOUNDS[trained.objective.metric])
    rows = runs.filter(pl.col("head") == name, pl.col("seed") == facts.seed, same_fit)
    return {"test": float(rows["test_score"][0])} if len(rows) else {}


def _plain(text: str) -> str:
    """Makes foreign text safe inside a line of Markdown: no line break, no mark that ends a code span."""
    return " ".join(text.split()).replace("`", "'").replace("<", "‹")
