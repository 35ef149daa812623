"""Writes `docs/accuracy.md` from `benchmarks/results/`: `python -m docs.make_accuracy`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs.markdown import table
from ilse.core.files.atomic import write_text

OUT = Path(__file__).with_name("accuracy.md")
RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
REFERENCE = "published"
PUBLISHED = {"banking77": 89.4, "emotion": 73.0, "mtop_domain": 98.0, "mtop_intent": 93.1, "poem_sentiment": 78.9}
"""What ILSE's own code reached on such activations with one seed (42), of `PUBLISHED_ON`."""
PUBLISHED_ON = "SmolLM2-135M"

TOP = """# Accuracy on the paper's tasks

`python -m benchmarks.accuracy DATA WORK` and `python -m docs.make_accuracy` write this page. Mean pooling of at most
128 tokens, rows in float16; everything is run by the user's own stages. Mean test accuracy in per cent over seeds.
Every choice is made on validation; the test split is read once, afterwards.

`published` is our `cayley` with doubled edges, trained like the published code (20 epochs, Adam 1e-3, decay 1e-4). Its
encoder equals the published one to float32's precision (`tests/trainer/heads/parity/`), so it represents it on the same
seeds and splits. The line below it is what the published code itself reached on such activations, with its own
validation split and one seed. `tokens` is `bottleneck` on the state of every token in seven layers, and `tokens, wide`
has a reader of rank 64 and half the learning rate; `tokens, rank 64 int8` and `tokens, rank 128 int4` use a basis of
that rank and take the same number of bytes. For pooled rows under SmolLM2, except on PoemSentiment, linear heads were
trained in epochs (`optimizer: adamw`), the default when they were measured. On PoemSentiment, with fewer than 1,000
labelled rows, folds choose and both splits are trained on; `published` and the controls choose on validation. Tasks and
heads that have not been run are left out.
"""


def document() -> str:
    """The whole file."""
    accuracy = json.loads((RESULTS / "accuracy.json").read_text(encoding="utf-8"))
    parts = [TOP, _all(accuracy), _choices(accuracy)]
    for name, section in (
        ("few_shot", _few_shot),
        ("few_rows", _few_rows),
        ("similarity", _similarity),
        ("graph_controls", _graph),
    ):
        file = RESULTS / f"{name}.json"
        if file.exists():
            parts += list(section(json.loads(file.read_text(encoding="utf-8"))))
    return "\n".join(parts)


def _all(accuracy: dict[str, Any]) -> str:
    """One table per model; the key of a task is `model/task`."""
    by_model: dict[str, dict[str, Any]] = {}
    for key, figures in accuracy["tasks"].items():
        model, task = key.split("/")
        by_model.setdefault(model, {})[task] = figures
    return "\n".join(f"**{model}**\n\n{_of_model(model, tasks)}" for model, tasks in by_model.items())


def _of_model(model: str, tasks: dict[str, Any]) -> str:
    rows = []
    for kind in ("contenders", "controls"):
        names = dict.fromkeys(name for figures in tasks.values() for name in figures.get(kind, {}))
        for name in names:
            of_task = [tasks[task].get(kind, {}).get(name) for task in tasks]
            ran = [one for one in of_task if one is not None]
            tests = [one["test"] for one in ran]
            mean = _percent(sum(tests) / len(tests)) if len(tests) == len(tasks) else ""
            most = max(one["parameters"] for one in ran)
            rows.append(
                [f"`{name}`", *("" if one is None else _percent(one["test"]) for one in of_task), mean, f"{most:,}"]
            )
            if name == REFERENCE and model == PUBLISHED_ON:
                there = [PUBLISHED[task] for task in tasks]
                mean = sum(there) / len(there)
                rows.append(["published code, one seed", *(f"{value:.1f}" for value in there), f"{mean:.1f}", ""])
    return table(["head or control", *tasks, "mean", "most parameters"], rows)


def _choices(accuracy: dict[str, Any]) -> str:
    rows = [
        [
            task,
            limit,
            f"`{one['contender']}`",
            f"{one['gain_points']:+.2f}",
            "{:+.2f} to {:+.2f}".format(*one["interval"]),
        ]
        for limit in ("small", "unlimited", "tokens", "auto")
        for task, figures in accuracy["tasks"].items()
        if "gain_points" in (one := figures.get(limit, {}))
    ]
    text = (
        "\nThe head chosen on validation among heads on pooled rows within 0.25 % of the model's parameters (`small`), "
        "among all heads on pooled rows (`unlimited`), and among these and heads on tokens (`tokens`), and `auto` with "
        "five minutes and one seed by itself, since its validation figure is the best of a search; the gain over "
        "`published` in points of test accuracy, with a 95 % interval over test examples (in pairs) and seeds.\n\n"
    )
    means = ", ".join(
        f"{accuracy[key]:+.2f} ({limit})"
        for limit, key in (
            ("small", "mean_gain_points"),
            ("unlimited", "mean_gain_points_unlimited"),
            ("tokens", "mean_gain_points_tokens"),
            ("auto", "mean_gain_points_auto"),
        )
        if key in accuracy
    )
    ahead = accuracy.get("controls_ahead")
    said = "" if ahead is None else f" Controls that are significantly ahead of the chosen head: {_listed(ahead)}."
    return text + table(["task", "limit", "chosen", "gain", "interval"], rows) + f"\nMean gain: {means} points.{said}\n"


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _few_shot(few: dict[str, Any]) -> Iterator[str]:
    yield (
        "\n## Few examples of each label\n\n`python -m benchmarks.few_shot DATA WORK`: k examples per label, the same "
        "for every head; mean test accuracy over the draws, and in brackets the difference from `last` in points, with "
        "a star if its 95 % interval over test examples and draws excludes 0.\n"
    )
    for task, heads in few.items():
        shots = list(next(iter(heads.values())))
        rows = [[f"`{head}`", *(_shot(by_k[k]) for k in shots)] for head, by_k in heads.items()]
        yield f"**{task}**\n\n" + table(["head", *(f"k = {k}" for k in shots)], rows)


def _few_rows(few: dict[str, Any]) -> Iterator[str]:
    yield (
        "\n## Few labelled texts\n\n`python -m benchmarks.few_rows DATA WORK`: N labelled texts in total, "
        f"all-MiniLM-L6-v2, {few['draws']} draws. Heads have the default recipe: they choose by five folds of these "
        "texts or, with more than 1,000, on 15 % of them; `chosen` is the head in the table with the best score there. "
        "scikit-learn is its logistic regression with C chosen by five folds, on the last layer and on the layer that "
        "the folds find best. How much `linear` favours the last layer was set by test accuracy on other draws of "
        "these texts. That solved heads choose by the lowest loss and smooth no labels was set by test accuracy on the "
        "same draws, so the table is no independent check of these two defaults. Median test accuracy over the draws "
        "in per cent, and in brackets the lowest and the highest.\n\n"
        "**With few rows, choosing costs accuracy**: `chosen` is worse than `linear`, which is `HeadClassifier`'s "
        "default.\n"
    )
    for task, sizes in few["tasks"].items():
        names = list(next(iter(sizes.values()))["contenders"])
        rows = [[f"`{name}`", *(_range(one["contenders"][name]) for one in sizes.values())] for name in names]
        yield f"**{task}**\n\n" + table(["", *(f"N = {size}" for size in sizes)], rows)
    gaps = [
        [
            task,
            size,
            twin,
            *(_gap_of(one["gaps"][name][twin]) for name in ("linear", "chosen", "last") if name in one["gaps"]),
        ]
        for task, sizes in few["tasks"].items()
        for size, one in sizes.items()
        for twin in one["gaps"]["chosen"]
    ]
    shown = [name for name in ("linear", "chosen", "last") if name == "chosen" or name in few["heads"]]
    yield (
        f"\nLead of heads over scikit-learn in points of mean test accuracy, with a 95 % interval over draws "
        f"and test texts. {_gaps_in_words(few, shown)}\n\n"
        + table(["task", "N", "than", *(f"`{name}`" for name in shown)], gaps)
    )


def _gaps_in_words(few: dict[str, Any], names: list[str]) -> str:
    """On average and at worst over tasks, sizes and scikit-learn's two ways."""
    told = []
    for name in names:
        gaps = [
            gap["points"]
            for sizes in few["tasks"].values()
            for one in sizes.values()
            for gap in one["gaps"][name].values()
        ]
        told.append(f"`{name}`: {sum(gaps) / len(gaps):+.2f} on average, {min(gaps):+.2f} at worst")
    return "; ".join(told) + "."


def _range(one: dict[str, Any]) -> str:
    return f"{one['median']:.1f} ({one['low']:.1f} to {one['high']:.1f})"


def _gap_of(one: dict[str, Any]) -> str:
    return f"{one['points']:+.2f} ({_interval(one['interval'])})"


def _similarity(found: dict[str, Any]) -> Iterator[str]:
    yield (
        "\n## Similarity of sentences\n\n`python -m benchmarks.similarity DATA WORK`: STS-B, Spearman's correlation x "
        "100, mean over seeds. `raw last` and `raw best` are cosines of single layers from the cache, the best one "
        "chosen on validation; `published` is `cayley` with doubled edges and the published recipe (its own vector, "
        "squared error). The others give vectors of 256 values and are trained on their order (CoSENT).\n\n"
        "`published` is a weak baseline here. With its squared error, the training loss grows again after one or two "
        "epochs (seen at 1e-4 on unchanged rows and at 1e-3 on standardised ones, there in a plain PyTorch loop as "
        "well), so its best state is an early one.\n"
    )
    rows = [
        [
            f"`{name}`",
            *(_percent(one[figure]) for figure in ("validation", "test", "pearson")),
            f"{one['parameters']:,}",
        ]
        for name, one in found["contenders"].items()
    ]
    yield table(["head", "validation", "test", "Pearson, test", "parameters"], rows)
    gains = "; ".join(
        f"over `{name}` {one['points']:+.2f} ({_interval(one['interval'])})" for name, one in found["gains"].items()
    )
    yield f"\nChosen on validation: `{found['chosen']}`. Its gain in points, with a 95 % interval: {gains}.\n"


def _graph(found: dict[str, Any]) -> Iterator[str]:
    epochs = "the recipe's epochs" if found["epochs"] is None else f"{found['epochs']} epochs"
    yield (
        "\n## Does the graph matter?\n\n`python -m benchmarks.graph_controls WORK`: `cayley` itself, with its layers "
        "on the nodes in a random order (`shuffled`), and on random graphs with as many nodes and four neighbours each "
        f"(`random_regular`); {found['draws']} draws of each, {found['seeds']} seeds, {epochs}, otherwise the default "
        "recipe. Mean test accuracy, and a control's difference from `cayley` in points with a 95 % interval over test "
        "examples, draws and seeds. An interval that contains 0 leaves open whether the graph helps or harms.\n"
    )
    rows = [
        [task, _percent(one["cayley"]["test"]), *(_gap(one[control]) for control in ("shuffled", "random_regular"))]
        for task, one in found["tasks"].items()
    ]
    yield table(["task", "cayley", "shuffled", "random_regular"], rows)


def _gap(one: dict[str, Any]) -> str:
    return f"{one['difference_points']:+.2f} ({_interval(one['interval'])})"


def _shot(one: dict[str, Any]) -> str:
    low, high = one["interval"]
    star = "*" if low > 0 or high < 0 else ""
    return f"{_percent(one['test'])} ({one['gain_points']:+.1f}{star})"


def _interval(ends: list[float]) -> str:
    return "{:+.2f} to {:+.2f}".format(*ends)


def _percent(value: float) -> str:
    return f"{value:.2f}"


if __name__ == "__main__":
    write_text(OUT, document())
