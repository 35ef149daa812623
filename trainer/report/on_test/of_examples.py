"""All that the page says of single test examples."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.report.evaluation import BASELINE, Results
from trainer.report.on_test.confident_errors import Errors, confident_errors
from trainer.report.on_test.examples import Examples, differing
from trainer.report.on_test.text_length import by_length
from trainer.report.result_files import Row


@dataclass(frozen=True)
class OfExamples:
    """Where the chosen head and `last` differ, the chosen head's most confident errors, and scores by length."""

    examples: Examples
    errors: Errors
    lengths: list[Row]


def of_examples(folder: Path, texts: Path | None, results: Results) -> OfExamples:
    """Of the predictions in `folder` and the table of `texts`; nothing of what is missing."""
    chosen = results.chosen["head"]
    return OfExamples(
        differing(folder, texts, chosen, BASELINE),
        confident_errors(folder, texts, chosen),
        by_length(folder, texts, [chosen, BASELINE], results.metrics.metric),
    )
