"""Writes `layer-choice.md` from `benchmarks/results/layer_choice.json`: python -m docs.make_layer_choice"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docs.markdown import table
from ilse.core.files.atomic import write_text

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "layer_choice.json"
PAGE = ROOT / "docs" / "layer-choice.md"

TOP = """# Which layer, without labels

`python -m benchmarks.layer_choice DATA WORK` and `python -m docs.make_layer_choice` write this page: a sample of
{limit:,} texts of each of the paper's tasks, mean pooling. A layer's accuracy is that of a linear model on it
alone, on the test texts.

{verdict}

## What a metric says of accuracy

Spearman's correlation over the layers of a model with their accuracy, mean over the models and tasks below, with a
95 % interval by resampling blocks of neighbouring layers; and the same with depth partialled out. Before trusting a
metric, look at the second: what goes up or down with depth correlates with anything that does.

{ran}
"""
MIDDLE = """
## What choosing by it costs

A metric chooses the layer where it is highest or lowest, whichever went with accuracy on the other tasks. Points
of test accuracy lost against the layer that is best on test, which nobody can know. `validation` is the layer
whose linear model is best on validation, and needs labels; `two thirds` is a fixed depth.
"""
END = """
## What `ilse layers --suggest` keeps

The layers that the advice keeps, by linear models on validation, and the test accuracy in % of the head `linear`
on all layers and on those, with the difference in points and its 95 % interval over test texts.
"""


def document() -> str:
    """The whole page."""
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    tasks, metrics, choices = found["tasks"], found["metrics"], found["choices"]
    models = dict.fromkeys(name.split("/")[0] for name in tasks)
    ran = [
        f"- {one}: {', '.join(name.split('/')[1] for name in tasks if name.startswith(f'{one}/'))}" for one in models
    ]
    top = TOP.format(limit=found["limit"], verdict=verdict(choices), ran="\n".join(ran))
    order = sorted(metrics, key=lambda name: -abs(metrics[name]["spearman"]))
    correlated = [
        [f"`{name}`", f"{one['spearman']:+.2f}", _interval(one["interval"]), f"{one['without_depth']:+.2f}",
         _interval(one["interval_without_depth"])]
        for name in order for one in (metrics[name],)
    ]  # fmt: skip
    chosen = [
        [f"`{name}`", f"{one['accuracy']:.2f}", f"{one['lost']:.2f}", f"{one['most_lost']:.2f}"]
        for name, one in sorted(choices.items(), key=lambda item: item[1]["lost"])
    ]
    kept = [
        [name, f"{len(one['layers'])} of {one['of']}", f"{one['all']:.2f}", f"{one['kept']:.2f}",
         f"{one['difference']:+.2f}", _interval(one["interval"]), f"{one['bytes_saved']:.0%}",
         f"{one['blocks_saved']:.0%}"]
        for name, figures in tasks.items() if (one := figures["suggested"])
    ]  # fmt: skip
    return "\n".join([
        top,
        table(["metric", "correlation", "interval", "without depth", "interval"], correlated),
        MIDDLE,
        table(["rule", "test accuracy", "lost", "most lost"], chosen),
        END,
        table(["model and task", "layers kept", "all", "kept", "difference", "interval", "bytes saved", "blocks saved"],
              kept),
    ])  # fmt: skip


def verdict(choices: dict[str, Any]) -> str:
    """The finding first, whatever it is."""
    plain = {name: one["lost"] for name, one in choices.items()}
    rules = {name: plain.pop(name) for name in ("last", "two thirds", "validation", "oracle")}
    best = min(plain, key=lambda name: plain[name])
    fixed = min(("last", "two thirds"), key=lambda name: rules[name])
    side = "less than" if plain[best] < rules[fixed] else "no less than"
    depth = "a fixed depth of two thirds" if fixed == "two thirds" else "the last layer"
    return (
        f"**The best metric without labels, `{best}`, loses {plain[best]:.2f} points against the best layer: {side}\n"
        f"{depth} ({rules[fixed]:.2f}). A linear model on validation loses {rules['validation']:.2f}.** That metric is "
        f"the best\nof {len(plain)}, which flatters it."
    )


def _interval(ends: list[float]) -> str:
    return f"{ends[0]:+.2f} to {ends[1]:+.2f}"


if __name__ == "__main__":
    write_text(PAGE, document())
