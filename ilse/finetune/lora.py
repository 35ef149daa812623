"""The lora stage: the model itself fine-tuned on the training examples, and its answers to the test examples.

It reads no test label: `ilse evaluate` scores the answers together with those of heads.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl
from jaxtyping import Float
from torch import Tensor

from ilse.core.errors import UserError
from ilse.core.files.atomic import replacing, replacing_folder, require_ours, write_json
from ilse.core.files.ownership import HEADS
from ilse.core.machine.cpu_threads import cpu_threads
from ilse.core.machine.memory import peak_resident
from ilse.core.tables import TRAIN, VALIDATION
from ilse.core.terminal import say
from ilse.finetune.adapter import adapted
from ilse.finetune.config import LoraParams
from ilse.finetune.examples import Reading, Split, drawn
from ilse.finetune.fit import Fit, fit, predict
from pipeline.capture.forward import Forward
from pipeline.capture.tokens import Tokens
from pipeline.cluster.machine import cores
from pipeline.config import ExtractParams
from pipeline.model.load import Compute, FrozenModel, load_model
from pipeline.model.quiet import quietly
from pipeline.store import Cache, open_cache
from trainer.artifacts.answers import Answers, AnswersFacts, save_answers, texts_digest
from trainer.config import TrainParams
from trainer.data.task import Task, open_task
from trainer.fitting.progress import unfinished
from trainer.objectives import MultiClass, choose

NAME = "lora"
SUMMARY = "no head: the model fine-tuned with low-rank additions"


@quietly()
def lora(
    params: LoraParams,
    extract: ExtractParams,
    train: TrainParams,
    cache: str | Path,
    texts: Path,
    examples: Path,
    models: Path,
    results: Path,
) -> dict[str, Any]:
    """Fine-tunes the model of `extract` with seeds 0, 1, … and returns its validation and cost figures.

    `train` says what for (`objective`) and on how few examples (`shots`, `share`); `cache` is asked only whether it
    is of the same model and template. Writes `models/lora/seed-<n>/`, `results/train/lora.json` and
    `results/curves/lora.csv`. Raises `UserError` for examples of anything but one text with one label, for a cache of
    another model, and as `load_model`, `target_layers` and `fit` do; the old files then stay.
    """
    require_ours(models / NAME, HEADS, "--models")
    opened = open_cache(cache)
    task = open_task(opened, examples)
    objective = _objective(task, train)
    started = time.perf_counter()
    compute = _compute(params, extract)
    with cpu_threads(compute.threads):
        frozen = load_model(extract.model, compute)
        _require_padding(frozen)
        whole = Forward(frozen, (len(frozen.facts.layers) - 1,), "hidden_states")  # keeps all blocks
        _require_same(opened, whole.frozen, extract)
        reading = Reading(task, texts, frozen, extract)
        splits = reading.split(TRAIN), reading.split(VALIDATION), reading.unlabelled()
        load_seconds = time.perf_counter() - started
        tuned = []
        with unfinished(models, NAME):
            with replacing_folder(models / NAME, HEADS, "--models") as folder:
                for seed in range(params.seeds):
                    few = drawn(splits[0], train, task.labels, seed)
                    place = folder / f"seed-{seed}"
                    tuned.append(_tune(frozen, params, objective, few, *splits[1:], seed, reading.pad, place))
                    save_answers(place, _answers(tuned[-1], task, objective, frozen), task.unlabelled_ids())
                    say(f"{NAME} seed {seed}: {_line(tuned[-1].fit)}")
            return _write_figures(tuned, frozen, load_seconds, results)


@dataclass(frozen=True)
class Tuned:
    """One seed: how it was trained, and what it answers to the test examples."""

    seed: int
    fit: Fit
    parameters: int
    predicted: Float[Tensor, "rows labels"]
    predict_seconds: float


def _tune(
    frozen: FrozenModel,
    params: LoraParams,
    objective: MultiClass,
    train: Split,
    validation: Split,
    unlabelled: Tokens,
    seed: int,
    pad: int,
    folder: Path,
) -> Tuned:
    """Trains one seed and writes its weights into `folder`."""
    with frozen.lock, adapted(frozen, params, objective.out, seed) as model:  # nobody else runs it with what is added
        fitted = fit(model, train, validation, objective, params, seed, pad)
        started = time.perf_counter()
        predicted = objective.predict(predict(model, unlabelled, pad, fitted.work))
        seconds = time.perf_counter() - started
        model.save(folder)
        return Tuned(seed, fitted, sum(weight.numel() for weight in model.trained().values()), predicted, seconds)


def _answers(tuned: Tuned, task: Task, objective: MultiClass, frozen: FrozenModel) -> Answers:
    facts = AnswersFacts(
        name=NAME,
        summary=SUMMARY,
        objective=objective.facts(),
        labels=list(task.labels),
        texts=texts_digest(task.unlabelled_ids()),
        seed=tuned.seed,
        val_score=tuned.fit.best.val_score,
        val_loss=tuned.fit.best.val_loss,
        parameters=tuned.parameters,
        model_parameters=frozen.facts.parameters,
        train_seconds=tuned.fit.seconds,
    )
    return Answers(facts, tuned.predicted)


def _objective(task: Task, train: TrainParams) -> MultiClass:
    kind = choose(train.objective, task.targets.kind, task.pairs)
    if kind != "multi_class" or task.pairs:
        raise UserError(
            "fine-tuning with 'ilse lora'",
            expected="examples of one text with one label, without an order",
            found=f"the objective {kind}" + (", two texts per example" if task.pairs else ""),
            next_step="set lora.run to [] and compare heads alone",
        )
    return MultiClass(task.labels)


def _compute(params: LoraParams, extract: ExtractParams) -> Compute:
    """One process with all cores, or with those that a worker of `extract` is given."""
    threads = extract.threads or cores()
    return Compute(params.compute_type, extract.device, threads, extract.batch_tokens, compile=False, capture="hooks")


def _require_same(cache: Cache, frozen: FrozenModel, extract: ExtractParams) -> None:
    """Figures of another model, or of texts in another template, cannot be compared."""
    made = cache.header.capture
    if made.windows is not None or extract.windows is not None:
        raise UserError(
            "fine-tuning with 'ilse lora'",
            expected="texts that the model reads in one piece",
            found="extract.windows, in which the cache's longer texts are read",
            next_step="set lora.run to [] and compare heads alone, or extract without windows",
        )
    for what, cached, found in (
        ("model", made.model, frozen.facts.identity),
        ("template", made.template, extract.template),
        ("noise", made.noise_in_words or "none", "none"),
        ("max_tokens", made.max_tokens, extract.limit(frozen.facts.window)),
    ):
        if cached != found:
            raise UserError(
                f"cache {cache.path}",
                expected=f"one of the {what} in section 'extract' ({found})",
                found=str(cached),
                next_step="run 'ilse extract' first, or correct section 'extract'",
            )


def _require_padding(frozen: FrozenModel) -> None:
    """Training batches are padded."""
    if frozen.witness.feels_padding:
        raise UserError(
            f"fine-tuning a model of architecture '{frozen.facts.architecture}'",
            expected="one whose texts are the same in a padded batch as alone",
            found="one whose texts change with the padding",
            next_step="set lora.run to [] and compare heads alone",
        )


def _write_figures(tuned: list[Tuned], frozen: FrozenModel, load_seconds: float, results: Path) -> dict[str, Any]:
    curves = [{"head": NAME, "seed": one.seed, **asdict(epoch)} for one in tuned for epoch in one.fit.curve]
    with replacing(results / "curves" / f"{NAME}.csv") as file:
        pl.DataFrame(curves).drop("seconds").write_csv(file)
    fits = [one.fit for one in tuned]
    work = fits[0].work
    figures = {
        "metric": MultiClass.metric,
        "val_score": median(fit.best.val_score for fit in fits),
        "val_loss": median(fit.best.val_loss for fit in fits),
        "train_seconds": round(median(fit.seconds for fit in fits), 2),
        "cpu_seconds": round(median(fit.cpu_seconds for fit in fits), 2),
        "seeds": len(fits),
        "parameters": tuned[0].parameters,
        "load_seconds": round(load_seconds, 2),
        "epoch_seconds": round(median(epoch.seconds for fit in fits for epoch in fit.curve), 2),
        "predict_seconds": round(median(one.predict_seconds for one in tuned), 2),
        "tokens_trained": work.trained,
        "tokens_predicted": work.predicted,
        "flops": work.flops(frozen.facts.flops_per_token),
        "compute_type": frozen.facts.compute_type,
        "peak_resident_bytes": peak_resident(),
    }
    write_json(results / "train" / f"{NAME}.json", figures)
    return figures


def _line(fitted: Fit) -> str:
    best = fitted.best
    return f"validation {MultiClass.metric} {best.val_score:.4f} at epoch {best.epoch}, {fitted.seconds:.1f} s"
