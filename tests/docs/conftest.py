"""One tiny model and one small project for all pages: the quick start makes it, the other pages begin with copies."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.blocks import evaluate
from tests.pipeline.conftest import WORDS, sentence, tiny_model
from tests.pipeline.test_scale_out import s3

__all__ = ["s3", "tiny_model"]  # fixtures
DOCS = Path(__file__).parent.parent.parent / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
FIRST = DOCS / "quick-start.md"
EXAMPLES = 120


@pytest.fixture(scope="session")
def project(tiny_model: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one who has followed the quick start with a table and a model of their own."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(tiny_model("llama"), folder / "my-model")
    shutil.copytree(tiny_model("bert"), folder / "another-model")
    texts = [f"{sentence(i)} {' '.join(str(i))}" for i in range(EXAMPLES)]
    rows = [f"{text},{('art', 'law')[WORDS.index(text.split()[0]) % 2]}" for text in texts]
    (folder / "news.csv").write_text("\n".join(["headline,topic", *rows, ""]))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        evaluate(FIRST)
    return folder
