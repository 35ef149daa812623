"""Whether comparisons of heads keep their word: rates of `trainer.statistics` by simulation.

    python -m benchmarks.statistics [--quick] [--simulations N]

A simulated answer is right where accuracy's threshold + the example's ease + what the head makes of it + what this run
makes of it + how good this run is altogether > 0, all normal; the spreads are `SHARED`, `OF_HEAD`, `OF_RUN` and so many
points of accuracy. Runs of a head agree in 93 % of answers (right or wrong), heads in 90 %. Expected accuracy is exact.

Each line is one setting; `false_alarms` is the share of simulations, in per cent, that call equal heads different at
5 %, `coverage` how often the 95 % interval holds the true difference, `width` the interval's mean in points, `power`
the share that finds a true gain of 2 points. Beside it `examples_alone`, which takes seeds for given, `paired_seeds`
(which they are not here), and `mcnemar`. `families` are six equal heads, of which one is the baseline: how often any of
the five seems different, with and without Holm. `r2` is the resampling way, with the same names. The last line is JSON;
`within_two_points` is true if all false alarms of the two-level difference are 3 to 7 % (and those of families with
Holm at most 7 %). `standard_error` is that of a rate of 5 % from so many simulations; of 200, chance may break it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from scipy import stats

from trainer.statistics import Difference, Estimate, difference, holm, mcnemar_over_seeds, of_figure, of_rows

SHARED, OF_HEAD, OF_RUN = 1.0, 0.3, 0.3
LEVEL = 0.05
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Setting:
    """What is simulated; `deviation` is that of true accuracy from run to run, in points, for each head."""

    seeds: int = 3
    rows: int = 500
    deviation: tuple[float, float] = (0.0, 0.0)
    gain: float = 0.0
    accuracy: float = 0.85

    def __str__(self) -> str:
        spread = " and ".join(f"{points:g}" for points in dict.fromkeys(self.deviation))
        return f"{self.seeds} seeds, {self.rows} examples, accuracy {self.accuracy:g}, runs vary by {spread} points"


Rates = Callable[[Setting, int], dict[str, float]]
"""From a setting and a number of simulations."""
SETTINGS = tuple(
    Setting(seeds, rows, (points, points)) for seeds, rows, points in product((3, 5), (500, 2000), (0.0, 0.5))
)
HARD = (
    Setting(3, 2000, (1.0, 1.0)),
    Setting(3, 2000, (0.0, 1.0)),
    Setting(2, 2000, (0.5, 0.5)),
    Setting(3, 100),
    Setting(3, 2000, (0.2, 0.2), accuracy=0.97),
)
FAMILIES = (Setting(3, 500, (0.5, 0.5)), Setting(5, 2000, (0.0, 0.0)), Setting(5, 2000, (0.5, 0.5)))


def main() -> None:
    """Simulates every setting and prints the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=2000, help="of each setting; some two minutes")
    parser.add_argument(
        "--quick", action="store_true", help="end within a minute: 100 simulations of half the settings"
    )
    given = parser.parse_args()
    n, every = (200, 2) if given.quick else (given.simulations, 1)
    parts: dict[str, tuple[Rates, tuple[Setting, ...]]] = {
        "equal": (of_pairs, SETTINGS[::every]),
        "equal_hard": (of_pairs, HARD[::every]),
        "better": (of_pairs, tuple(replace(one, gain=2.0) for one in SETTINGS[::every])),
        "families": (of_families, FAMILIES[::every]),
        "r2": (of_scores, (Setting(3, 300), Setting(3, 300, (2.0, 2.0)))[::every]),
    }
    found = {name: _shown(name, of, settings, n) for name, (of, settings) in parts.items()}
    error = round(100 * float(np.sqrt(LEVEL * (1 - LEVEL) / n)), 2)
    told = {"simulations": n, "standard_error": error, "within_two_points": within_two_points(found)}
    print(json.dumps(told | found))


def _shown(name: str, of: Rates, settings: tuple[Setting, ...], n: int) -> dict[str, dict[str, float]]:
    found = {}
    for setting in settings:
        found[str(setting)] = rates = of(setting, n)
        print(f"{name:10} {setting}: " + ", ".join(f"{key} {value:g}" for key, value in rates.items()), flush=True)
    return found


def within_two_points(found: dict[str, dict[str, dict[str, float]]]) -> bool:
    """Of all false alarms at 5 %."""
    alarms = [one["false_alarms"] for name in ("equal", "equal_hard", "r2") for one in found[name].values()]
    return all(3 <= rate <= 7 for rate in alarms) and all(one["holm"] <= 7 for one in found["families"].values())


def of_pairs(setting: Setting, simulations: int) -> dict[str, float]:
    """Rates of the difference of two heads, of the same with seeds given or paired, and of McNemar's test."""
    both, alone, paired, tests = [], [], [], []
    for right in simulated(setting, 2, simulations):
        baseline, head = (of_rows(one) for one in right)
        both.append(difference(head, baseline))
        alone.append(difference(seeds_given(head), seeds_given(baseline)))
        paired.append(difference(head, baseline, paired_seeds=True))
        tests.append(mcnemar_over_seeds(right[1], right[0]) < LEVEL)
    found = "power" if setting.gain else "false_alarms"
    return {
        found: _share(one.p < LEVEL for one in both),
        "coverage": _share(one.low <= setting.gain / 100 <= one.high for one in both),
        "width": _width(both),
        f"examples_alone_{found}": _share(one.p < LEVEL for one in alone),
        "examples_alone_coverage": _share(one.low <= setting.gain / 100 <= one.high for one in alone),
        f"paired_seeds_{found}": _share(one.p < LEVEL for one in paired),
        f"mcnemar_{found}": _share(tests),
    }


def of_families(setting: Setting, simulations: int) -> dict[str, float]:
    """How often one of five heads, at least, seems to differ from the baseline, all being equal."""
    families = []
    for right in simulated(setting, 6, simulations):
        baseline, *heads = (of_rows(one) for one in right)
        tests = [mcnemar_over_seeds(one, right[0]) for one in right[1:]]
        families.append(([difference(head, baseline).p for head in heads], tests))
    return {
        "holm": _share(min(holm(p)) < LEVEL for p, _ in families),
        "uncorrected": _share(min(p) < LEVEL for p, _ in families),
        "mcnemar_holm": _share(min(holm(tests)) < LEVEL for _, tests in families),
    }


def of_scores(setting: Setting, simulations: int) -> dict[str, float]:
    """The same for R² of scores, by resampling; here runs vary in their noise, by so many per cent."""
    generator, found = np.random.default_rng(2), []
    for number in range(simulations):
        y = generator.standard_normal(setting.rows)
        heads = [_scores(generator, y, setting, points / 100) for points in setting.deviation]
        head, baseline = (of_figure(scores, y, determination, resamples=200, seed=number) for scores in heads)
        found.append(difference(head, baseline))
    return {
        "false_alarms": _share(one.p < LEVEL for one in found),
        "coverage": _share(one.low <= 0 <= one.high for one in found),
        "width": _width(found),
    }


def determination(predicted: Array, y: Array) -> float:
    """R²."""
    error, spread = predicted - y, y - y.mean()
    return float(1 - error @ error / (spread @ spread))


def simulated(setting: Setting, heads: int, simulations: int, seed: int = 1) -> Iterator[list[Array]]:
    """Which answers are right, [seeds, rows] for each head; all but the first gain what the setting says."""
    generator = np.random.default_rng(seed)
    for _ in range(simulations):
        ease = SHARED * generator.standard_normal(setting.rows)
        baseline, others = setting.deviation
        gains = [(0.0, baseline)] + [(setting.gain, others)] * (heads - 1)
        yield [_answers(generator, ease, setting, *one) for one in gains]


def _answers(generator: np.random.Generator, ease: Array, setting: Setting, gain: float, points: float) -> Array:
    """Of one head. A run's own goodness has the spread that moves accuracy by so many points."""
    within = SHARED**2 + OF_HEAD**2 + OF_RUN**2
    quantile = float(stats.norm.ppf(setting.accuracy + gain / 100))
    spread = points / 100 * np.sqrt(within) / float(stats.norm.pdf(quantile))
    threshold = quantile * np.sqrt(within + spread**2)
    of_head = OF_HEAD * generator.standard_normal(setting.rows)
    of_run = OF_RUN * generator.standard_normal((setting.seeds, setting.rows))
    goodness = spread * generator.standard_normal((setting.seeds, 1))
    right: Array = threshold + ease + of_head + of_run + goodness > 0
    return right


def _scores(generator: np.random.Generator, y: Array, setting: Setting, deviation: float) -> Array:
    noise = 0.6 * np.abs(1 + deviation * generator.standard_normal((setting.seeds, 1)))
    of_run = 0.3 * generator.standard_normal((setting.seeds, setting.rows))
    scores: Array = y + noise * (generator.standard_normal(setting.rows) + of_run)
    return scores


def seeds_given(estimate: Estimate) -> Estimate:
    """The mean over these very seeds: nothing but examples varies."""
    values, deviations = (part.mean(0, keepdims=True) for part in (estimate.values, estimate.deviations))
    return replace(estimate, values=values, deviations=deviations)


def _width(found: list[Difference]) -> float:
    return round(100 * float(np.mean([one.high - one.low for one in found])), 2)


def _share(events: Any) -> float:
    """In per cent."""
    return round(100 * float(np.mean(list(events))), 1)


if __name__ == "__main__":
    main()
