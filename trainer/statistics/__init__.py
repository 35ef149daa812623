"""A fair comparison of heads that were each trained with several seeds and predicted the same examples.

    compare_accuracy({"last": right, "mlp": right}, ["last"])     # right: bool [seeds, rows]; one row per head

`estimates` says how a figure varies with the examples, `differences` how sure a difference of two heads is, `mcnemar`
tests the same without seeds, `multiple` corrects for the number of heads, `comparison` makes the table of all that;
`equivalence` tests whether a change is small.
`calibration` and `classes` look at one head. Arrays in, numbers and tables out: nothing here knows heads or files.
"""

from __future__ import annotations

from trainer.statistics.calibration import calibration_error, reliability
from trainer.statistics.classes import per_class
from trainer.statistics.comparison import compare_accuracy, compare_figure
from trainer.statistics.differences import Difference, difference
from trainer.statistics.equivalence import Change
from trainer.statistics.estimates import Estimate, of_figure, of_rows
from trainer.statistics.mcnemar import McNemar, mcnemar, mcnemar_over_seeds
from trainer.statistics.multiple import holm

__all__ = [
    "Change",
    "Difference",
    "Estimate",
    "McNemar",
    "calibration_error",
    "compare_accuracy",
    "compare_figure",
    "difference",
    "holm",
    "mcnemar",
    "mcnemar_over_seeds",
    "of_figure",
    "of_rows",
    "per_class",
    "reliability",
]
