"""The report stage: what a reader wants to know of one evaluation, as a page, as Markdown and as pictures.

`evaluation` reads the tables. `verdict`, `recommendation` and `findings` say what is in them, `on_test` looks at single
test examples, `charts` and `drawing` draw. `page`, `compare`, `markdown` and `pictures` each write one kind of file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ilse.core.files.atomic import write_text
from trainer.report.compare import compare
from trainer.report.evaluation import read_results
from trainer.report.markdown import as_markdown
from trainer.report.on_test.of_examples import of_examples
from trainer.report.page import render
from trainer.report.pictures import as_pictures
from trainer.report.result_files import facts_of, named_results
from trainer.report.why import why_of

__all__ = ["as_markdown", "as_pictures", "compare", "report"]


def report(results: Path, facts: Mapping[str, Path], out: Path, texts: Path | None = None) -> Path:
    """Write the page of one evaluation to `out`, whole or not at all, and return `out`.

    Parameters
    ----------
    results
        Folder of the stages train and evaluate. `leaderboard.csv`, `runs.csv`, `confusion.csv` and `metrics.json`
        must be there; without the other tables their sections are left out, and the last one says so. `why.json` of
        `ilse why` is shown where it is.
    facts
        JSON files of earlier stages' figures by the stage's name, such as `{"extract": data/extract.json}`. One that
        is missing is left out.
    out
        The page. Equal inputs give equal bytes.
    texts
        `texts.parquet`; with it some test examples are shown, and scores by length of text.

    Raises
    ------
    UserError
        For a missing or unreadable file (naming the stage to run), or files of different runs.
    """
    read = read_results(results)
    figures = {stage: facts_of(path) for stage, path in facts.items()}
    with named_results(results):
        page = render(read, figures, of_examples(results, texts, read), why_of(results, read))
    write_text(out, page)
    return out
