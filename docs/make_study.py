"""Writes `docs/study.md` from `benchmarks/results/study/`: `python -m docs.make_study`.

Every sentence about a result is made from the tables, and says what their intervals say.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import yaml

from docs.markdown import table
from ilse.core.files.atomic import write_text
from ilse.core.files.table_files import read_csv

OUT = Path(__file__).with_name("study.md")
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results" / "study"
PLAN = Path(__file__).parent.parent / "benchmarks" / "study" / "study.yaml"
CONTROLS = ("majority", "words", "mean_probe", "last_probe", "lora")

TOP = """# Which head, which model

`make study DATA=…` runs this study and writes this page: one queue of DVC experiments, with the parameters in
`benchmarks/study/study.yaml`. The raw tables are in `benchmarks/results/study/`; every number and every sentence about
a result below is generated from them. Finished experiments are not run again; `python -m benchmarks.study --collect`
makes tables and page again from existing figures.

**What was compared.** Every head of the project that needs no further choice by its user, on the cached activations of
two frozen models, mean pooling of at most 128 tokens. Each head is tried at the same three learning rates with one
seed, and the best one on validation is used for all its seeds. Epochs, batches and splits are the same for all heads;
linear heads are trained with AdamW too (`optimizer: adamw`, the default at the time). Nothing was chosen on the test
split. Controls: `majority`, `words` (TF-IDF and logistic regression, without a model), `mean_probe` and `last_probe`
(logistic regression on the mean of all layers, or on the last one; for `stsbenchmark` their cosine, without training),
and `lora`, the model itself fine-tuned, on the one task that two cores can handle. `dwatt` is its 256-wide variant.
`layer` is left out, since it is `best` with a layer of your own choice.

**Repeated** in another clone, from another commit and with newly extracted caches, four of the experiments (MiniLM on
PoemSentiment, Banking77 and Emotion, SmolLM2 on PoemSentiment) gave every figure of every head to the digit, on the
same machine.

Figures are means over seeds on the test split: accuracy in per cent, for `stsbenchmark` Spearman's correlation x 100.
Intervals are 95 %, over test examples (in pairs) and seeds. "Not significantly different" means that Holm's p is above
0.05: with more examples or seeds, there may be a difference.
"""

ELSEWHERE = """The heads of `stsbenchmark` on STS12-16: Spearman's correlation x 100 on the pairs that are not in
STS-B's train split, whatever their case and punctuation, and the mean over all pairs. `raw` is the cosine of the last
layer without training. **Bold**: chosen on STS-B's validation split. Differences from `raw` have 95 % intervals over
pairs and seeds.
"""

COSTS = """Seconds on a two-core machine that was also doing other work, so they are rough: extraction's tokens per
second show how busy it was. Training is the fit of one seed at one learning rate, on one core. One extraction serves
all heads and seeds, and every later task on the same texts.
"""


def write(results: Path = RESULTS, out: Path = OUT) -> None:
    """Makes the page."""
    write_text(out, document(Study(results)))


class Study:
    """The tables, and what is asked of them."""

    def __init__(self, folder: Path) -> None:
        self.runs, self.extraction = (read_csv(folder / f"{name}.csv") for name in ("runs", "extraction"))
        self.comparisons = read_csv(folder / "comparisons.csv", schema_overrides={"better": pl.Boolean})
        transfer = folder / "transfer.csv"
        self.transfer = read_csv(transfer, schema_overrides={"better": pl.Boolean}) if transfer.exists() else None

    @property
    def models(self) -> list[str]:
        """In the order of the runs."""
        return self.runs["model"].unique(maintain_order=True).to_list()

    def tasks(self, model: str) -> list[str]:
        """Of one model."""
        return self.runs.filter(model=model)["task"].unique(maintain_order=True).to_list()

    def mean(self, model: str, task: str, head: str, column: str = "test_score") -> float | None:
        """Over seeds; None where the head was not run."""
        of_head = self.runs.filter(model=model, task=task, head=head)
        return None if of_head.is_empty() else float(of_head[column].to_numpy().mean())

    def chosen(self, model: str, task: str) -> str:
        """The head that validation chose."""
        return str(self.runs.filter("chosen", model=model, task=task)["head"][0])

    def against(self, model: str, task: str, head: str, baseline: str) -> dict[str, object] | None:
        """The comparison of two."""
        found = self.comparisons.filter(model=model, task=task, head=head, baseline=baseline)
        return None if found.is_empty() else found.row(0, named=True)

    def ties(self, model: str, task: str) -> list[str]:
        """Heads that do not differ significantly from the chosen one."""
        chosen = self.chosen(model, task)
        heads = self.runs.filter(model=model, task=task)["head"].unique(maintain_order=True)
        rows = {head: self.against(model, task, head, chosen) for head in heads if head not in (chosen, *CONTROLS)}
        return [head for head, row in rows.items() if row is not None and row["better"] is None]

    def controls(self, model: str, better: bool | None) -> Iterator[str]:
        """Controls that are better than the chosen head, or (None) no significant difference: task, control, gap."""
        for task in self.tasks(model):
            for control in CONTROLS:
                row = self.against(model, task, control, self.chosen(model, task))
                if row is not None and row["better"] is better:
                    yield f"{task} (`{control}` {_gap(row)})"


def document(study: Study, planned: list[tuple[str, str]] | None = None) -> str:
    """The whole page. `planned` are models and tasks of the plan, all of them without it."""
    wanted = _planned() if planned is None else planned
    missing = [f"{model} on {task}" for model, task in wanted if task not in study.tasks(model)]
    parts = [TOP, f"Not run yet: {_list(missing)}.\n"] if missing else [TOP]
    for model in study.models:
        parts += [f"\n## {model}\n", *_model(study, model)]
    parts += ["\n## Small embedder or larger language model\n", *_between(study)]
    if study.transfer is not None:
        parts += ["\n## On data that nothing was trained on\n", *_transfer(study.transfer, study.models)]
    parts += ["\n## What it costs\n", *_costs(study)]
    return "\n".join(parts).rstrip() + "\n"


def _planned() -> list[tuple[str, str]]:
    plan = yaml.safe_load(PLAN.read_text(encoding="utf-8"))
    return [(model, task) for model in plan["models"] for task in plan["tasks"]]


def _model(study: Study, model: str) -> Iterator[str]:
    tasks = study.tasks(model)
    heads = study.runs.filter(model=model)["head"].unique(maintain_order=True).to_list()
    rows = [[f"`{head}`", *(_cell(study, model, task, head) for task in tasks)] for head in heads]
    yield table(["head", *tasks], rows)
    yield "**Bold**: chosen on validation; ° not significantly different from it.\n"
    wins = [_win(study, model, task) for task in tasks]
    yield table(["task", "chosen", "test", "over `last`", "not significantly different from it"], wins)
    yield from _questions(study, model)


def _cell(study: Study, model: str, task: str, head: str) -> str:
    mean = study.mean(model, task, head)
    if mean is None:
        return ""
    if head == study.chosen(model, task):
        return f"**{100 * mean:.1f}**"
    return f"{100 * mean:.1f}" + ("°" if head in study.ties(model, task) else "")


def _win(study: Study, model: str, task: str) -> list[str]:
    chosen = study.chosen(model, task)
    ties = ", ".join(f"`{head}`" for head in study.ties(model, task)) or "none"
    mean = study.mean(model, task, chosen)
    return [task, f"`{chosen}`", _percent(mean), _gap(study.against(model, task, chosen, "last")), ties]


def _questions(study: Study, model: str) -> Iterator[str]:
    """What users ask of the table, answered by its comparisons."""
    yield "\nOf the tasks above,\n"
    for what, head in (("one well-chosen layer (`best`)", "best"), ("a weighted sum of layers", "weighted")):
        enough = [task for task in study.tasks(model) if head in (study.chosen(model, task), *study.ties(model, task))]
        yield f"- {what} is enough, as far as these figures show, on: {_list(enough)};"
    sides: dict[bool | None, list[str]] = {True: [], False: [], None: []}
    for task in study.tasks(model):
        row = study.against(model, task, "cayley", "weighted")
        if row is not None:
            sides[row["better"]].append(f"{task} ({_gap(row)})")  # type: ignore[index]
    yield f"- the Cayley-Encoder is better than a weighted sum on: {_list(sides[True])};"
    yield f"- it is worse than a weighted sum on: {_list(sides[False])};"
    yield f"- and the two do not differ significantly on: {_list(sides[None])}.\n"
    yield f"A control is better than the chosen head on: {_list(list(study.controls(model, True)))}.\n"
    yield f"A control does not differ significantly from it on: {_list(list(study.controls(model, None)))}.\n"
    won = [task for task in study.tasks(model) if study.chosen(model, task) == "cayley"]
    yield f"Validation chose the Cayley-Encoder on: {_list(won)}.\n"


def _between(study: Study) -> Iterator[str]:
    small, large = (*study.models, "")[:2]
    rows = []
    for task in [task for task in study.tasks(small) if task in study.tasks(large)]:
        of_small, of_large = study.chosen(small, task), study.chosen(large, task)
        gap = study.against("across", task, f"{small}/{of_small}", f"{large}/{of_large}")
        means = _percent(study.mean(small, task, of_small)), _percent(study.mean(large, task, of_large))
        rows.append([task, f"`{of_small}`", means[0], f"`{of_large}`", means[1], _gap(gap)])
    if not rows:
        yield "Not run yet on two models.\n"
        return
    yield f"The chosen head on each model, and the gain of {small} over {large} in points.\n"
    yield table(["task", f"head on {small}", "test", f"head on {large}", "test", "gain"], rows)


def _transfer(rows: pl.DataFrame, models: list[str]) -> Iterator[str]:
    """Of each model that was tried on other data: every head on the pairs that its training data does not hold."""
    yield ELSEWHERE
    if missing := [model for model in models if model not in rows["model"]]:
        yield f"Not run yet: {_list(missing)}.\n"
    for (model,), of_model in rows.group_by("model", maintain_order=True):
        sets = of_model.select("data", "pairs", "pairs_unseen").unique(maintain_order=True)
        names = [f"{name} ({unseen:,} of {pairs:,})" for name, pairs, unseen in sets.iter_rows()]
        lines = [_transferred(head, of_head) for (head,), of_head in of_model.group_by("head", maintain_order=True)]
        yield f"**{model}**\n"
        yield table(["head", "mean", "mean, all pairs", *names], lines)
        sides: dict[bool | None, list[str]] = {True: [], False: [], None: []}
        for row in of_model.filter("chosen").iter_rows(named=True):
            sides[row["better"]].append(f"{row['data']} ({_gap(row)})")
        said = f"better than `raw` on: {_list(sides[True])}; worse on: {_list(sides[False])}"
        yield f"The chosen head is {said}; not significantly different on: {_list(sides[None])}.\n"


def _transferred(head: object, rows: pl.DataFrame) -> list[str]:
    chosen = rows["chosen"][0]
    means = [rows["score_unseen"].mean(), rows["score"].mean(), *rows["score_unseen"]]
    return [f"`{head}`", *(f"**{100 * mean:.1f}**" if chosen else f"{100 * mean:.1f}" for mean in means)]


def _costs(study: Study) -> Iterator[str]:
    yield COSTS
    for model in study.models:
        tasks = study.tasks(model)
        spent = study.extraction.filter(model=model)
        extraction = [_seconds(spent.filter(task=task)["seconds"][0]) for task in tasks]
        heads = study.runs.filter(model=model)["head"].unique(maintain_order=True)
        speed = [f"{spent.filter(task=task)['tokens_per_second'][0]:,.0f}" for task in tasks]
        rows = [["extraction", "", *extraction], ["its tokens per second", "", *speed]]
        rows += [[f"`{head}`", _most(study, model, head), *_trained(study, model, head, tasks)] for head in heads]
        yield f"**{model}**\n"
        yield table(["", "most parameters", *tasks], rows)


def _most(study: Study, model: str, head: str) -> str:
    return f"{study.runs.filter(model=model, head=head)['parameters'].max():,}"


def _trained(study: Study, model: str, head: str, tasks: list[str]) -> Iterator[str]:
    for task in tasks:
        of_head = study.runs.filter(model=model, task=task, head=head)["train_seconds"]
        yield "" if of_head.is_empty() else _seconds(of_head.median())  # type: ignore[arg-type]


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}" if value < 10 else f"{value:.0f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _gap(row: dict[str, object] | None) -> str:
    if row is None:
        return ""
    return "{difference_points:+.1f} ({low_points:+.1f} to {high_points:+.1f})".format(**row)


def _list(names: list[str]) -> str:
    return ", ".join(names) if names else "none"


if __name__ == "__main__":
    write()
