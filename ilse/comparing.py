"""Trained heads side by side on the test split, with intervals."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from ilse.core.errors import UserError
from ilse.core.tables import CACHE_FOLDER, EXAMPLES_FILE
from trainer.artifacts.artifact import TrainedHead, save_head
from trainer.data.joined import Places
from trainer.report.evaluation import BASELINE, read_results
from trainer.report.page import drawing_of

if TYPE_CHECKING:
    import altair

Kind = Literal["leaderboard", "comparison", "layers", "confusion", "calibration", "cost"]
CHARTS: dict[str, str] = {
    "leaderboard": "heads",
    "comparison": "comparison",
    "layers": "layers",
    "confusion": "confusion",
    "calibration": "calibration",
    "cost": "cost",
}
"""Kind of plot → the report's section with the chart."""


class Comparison:
    """What `compare` found: a table of heads, its plots, and the whole report.

    Attributes
    ----------
    table
        One row per head, best on validation first: `head`, `seeds`, `validation` (median over seeds) and `test` (mean
        over seeds) in the task's figure, `gain_points`, the gain over `baseline` in points with its 95 % interval
        (`gain_low`, `gain_high`) and Holm's `p`, and `parameters`. The baseline's own row has no gain.
    baseline
        The head that the others are compared with: `last` where it is among them, else the best on validation.
    chosen
        The best head on validation.
    metric
        The task's figure, such as `accuracy`.
    """

    def __init__(self, folder: tempfile.TemporaryDirectory[str], results: Path, baseline: str | None = None) -> None:
        self._folder = folder  # the tables go when the comparison does
        self._read = read_results(results)
        self._results = results
        self.metric: str = self._read.metrics.metric
        self.chosen: str = self._read.chosen["head"]
        heads = self._read.leaderboard["head"].to_list()
        self.baseline: str = baseline or (BASELINE if BASELINE in heads else self.chosen)
        self.table = _table(self._read.leaderboard, self._read.comparison, self.baseline)

    def plot(self, kind: Kind = "leaderboard") -> altair.TopLevelMixin:
        """A chart of Altair's, which a notebook shows and `.save("chart.png")` writes.

        Parameters
        ----------
        kind
            `leaderboard`: test scores per head; `comparison`: gains with intervals; `layers`: the score of each single
            layer, where the head `best` is compared; `confusion`: the chosen head's answers by label; `calibration`:
            confidence against truth; `cost`: score against training time.

        Returns
        -------
        altair.Chart

        Raises
        ------
        UserError
            For another kind, and where these heads give nothing to draw.

        Examples
        --------
        >>> ilse.compare(heads).plot("comparison").save("gains.png")
        """
        import altair

        if kind not in CHARTS:
            raise _refused(f"plot('{kind}')", f"one of {', '.join(CHARTS)}", f"'{kind}'", "name one of these")
        charts = drawing_of(self._read, {}).charts.get(CHARTS[kind], [])
        if not charts:
            needed = "the head 'best'" if kind == "layers" else "answers that this plot can show"
            raise _refused(
                f"plot('{kind}')", needed, "none among these heads", f"compare with {needed} too, or plot another kind"
            )
        made: altair.TopLevelMixin = altair.Chart.from_dict(charts[0].spec)
        return made

    def report(self, out: str | Path) -> Path:
        """Write the whole report, one self-contained HTML file.

        Parameters
        ----------
        out
            The file.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        UserError
            Where it cannot be written.

        Examples
        --------
        >>> ilse.compare(heads).report("report.html")
        PosixPath('report.html')
        """
        from trainer.report import report

        return report(self._results, {}, Path(out))

    def __repr__(self) -> str:
        return f"{(self._results / 'leaderboard.txt').read_text(encoding='utf-8').rstrip()}"

    def _repr_html_(self) -> str:
        return self.table._repr_html_()


def compare(
    heads: Sequence[TrainedHead] | Mapping[str, TrainedHead | Sequence[TrainedHead]],
    data: str | Path | None = None,
    *,
    baseline: str | None = None,
) -> Comparison:
    """Score heads on the test split, and say which differences are significant.

    Heads that differ in their seed alone are one entry: the interval of a difference then covers seeds as well as test
    examples. Compare heads once you have made your choices on validation: this reads the test labels.

    Parameters
    ----------
    heads
        Heads that `ilse.fit` trained on one cache; or names and heads, with a list of heads for several seeds.
    data
        The folder with the cache and its examples; needed for heads that were loaded and not trained in this process.
    baseline
        The head that the others are compared with; `last` where it is among them, else the best on validation.

    Returns
    -------
    Comparison
        With `.table`, `.plot()` and `.report(out)`.

    Raises
    ------
    UserError
        For no heads, heads of different data, and a loaded head without `data`.

    Examples
    --------
    >>> heads = [ilse.fit(cache, head=name) for name in ("last", "linear", "bottleneck")]
    >>> ilse.compare(heads).table.select("head", "test", "gain_points", "gain_low", "gain_high")
    """
    from trainer.stages.evaluate import evaluate

    named = _named(heads)
    places, examples = _data(named, data)
    folder = tempfile.TemporaryDirectory(prefix="ilse-compare-")
    models, results = Path(folder.name, "models"), Path(folder.name, "results")
    for name, seeds in named.items():
        for one in seeds:
            save_head(models / name / f"seed-{one.facts.seed}", one)
    evaluate(list(named), places, examples, models, results, baseline=baseline)
    return Comparison(folder, results, baseline)


def _named(
    heads: Sequence[TrainedHead] | Mapping[str, TrainedHead | Sequence[TrainedHead]],
) -> dict[str, list[TrainedHead]]:
    """The heads by name, those of several seeds together."""
    if isinstance(heads, Mapping):
        named = {name: [one] if isinstance(one, TrainedHead) else list(one) for name, one in heads.items()}
    else:
        named = {}
        taken: Counter[str] = Counter()
        kinds: dict[tuple[Any, ...], str] = {}
        for one in [heads] if isinstance(heads, TrainedHead) else heads:
            _require_head(one)
            kind = (one.head.spec.name, repr(one.head.spec), repr(sorted(one.facts.recipe.items())), one.facts.pooling)
            if kind not in kinds or any(one.facts.seed == other.facts.seed for other in named[kinds[kind]]):
                taken[one.head.spec.name] += 1
                number = taken[one.head.spec.name]
                kinds[kind] = one.head.spec.name + (f"-{number}" if number > 1 else "")
            named.setdefault(kinds[kind], []).append(one)
    if not named or not all(named.values()):
        raise _refused("compare()", "at least one trained head", "none", "train heads with ilse.fit")
    for name, several in named.items():
        for one in several:
            _require_head(one)
        seeds = Counter(one.facts.seed for one in several)
        if max(seeds.values()) > 1:
            twice = max(seeds, key=lambda seed: seeds[seed])
            raise _refused(
                f"compare(), '{name}'", "heads of different seeds", f"seed {twice} twice", "drop one of them"
            )
    return named


def _require_head(head: object) -> None:
    if not isinstance(head, TrainedHead):
        found = type(head).__name__
        raise _refused("compare()", "heads that ilse.fit trained on a cache", f"a {found}", "call fit(cache, head=…)")


def _data(named: Mapping[str, Iterable[TrainedHead]], data: str | Path | None) -> tuple[Places, Path]:
    """The caches and examples that all heads were trained on."""
    if data is not None:
        return Path(data) / CACHE_FOLDER, Path(data) / EXAMPLES_FILE
    found = {}
    for name, several in named.items():
        for one in several:
            if one.trained_on is None:
                raise _refused(
                    f"compare(), '{name}'",
                    "a head that was trained in this process, or its data",
                    "a head that was loaded",
                    "give the folder with cache and examples: data=…",
                )
            found[str(one.trained_on)] = one.trained_on
    if len(found) > 1:
        raise _refused("compare()", "heads of one cache and its examples", " and ".join(found), "compare them apart")
    (only,) = found.values()
    return only.caches, only.examples


def _table(leaderboard: pl.DataFrame, comparison: pl.DataFrame | None, baseline: str) -> pl.DataFrame:
    table = leaderboard.select(
        "head", "seeds", pl.col("val_score").alias("validation"), pl.col("test_score").alias("test"), "parameters"
    )
    if comparison is None:
        return table
    gains = comparison.filter(pl.col("baseline") == baseline).select(
        "head",
        pl.col("difference_points").alias("gain_points"),
        pl.col("low_points").alias("gain_low"),
        pl.col("high_points").alias("gain_high"),
        pl.col("p_holm").alias("p"),
    )
    joined = table.join(gains, on="head", how="left", maintain_order="left")
    return joined.select(pl.exclude("parameters"), "parameters")


def _refused(where: str, expected: str, found: str, next_step: str) -> UserError:
    return UserError(where, expected=expected, found=found, next_step=next_step)
