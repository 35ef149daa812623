"""An exported head: the same vectors in a process that knows nothing but the folder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ilse.cli import main
from ilse.core.errors import UserError
from ilse.core.files.ownership import EXPORT
from tests.predict.conftest import Project, source

pytest.importorskip("sentence_transformers")
from ilse.predict.sentence_transformer import HeadModule, export, load
from pipeline.config import ModelParams

Build = Callable[..., Project]
FRESH = """
import json, sys
import numpy as np
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], trust_remote_code=True, local_files_only=True)
texts = json.load(open(sys.argv[2]))
np.save(sys.argv[3], model.encode(texts, batch_size=16, show_progress_bar=False))
assert model.similarity_fn_name == "cosine"
"""


@pytest.fixture
def texts() -> list[str]:
    return source()["text"].to_list()


@pytest.mark.slow
def test_a_fresh_process_gives_the_same_vectors(project: Build, texts: list[str], tmp_path: Path) -> None:
    """The model that made them is gone by then: the folder holds all that is needed."""
    made = project("pairs with a score", storage_type="float32")
    expected = made.predictor("cayley").embed(texts)
    copied = Path(shutil.copytree(made.model, tmp_path / "model"))
    moved = Project(made.folder, copied, made.objective)
    export(moved.predictor("cayley"), tmp_path / "exported")
    assert EXPORT.foreign(tmp_path / "exported") is None
    mine = tmp_path / "exported" / "0_HeadModule" / "model" / "thesis.txt"
    mine.touch()
    assert "thesis.txt" in str(EXPORT.foreign(tmp_path / "exported"))
    mine.unlink()
    shutil.rmtree(copied)
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    arguments = (tmp_path / "exported", tmp_path / "texts.json", tmp_path / "found.npy")
    subprocess.run([sys.executable, "-c", FRESH, *map(str, arguments)], check=True, cwd=Path(__file__).parents[2])
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)
    assert expected.std(0).min() > 1e-3
    assert not list((tmp_path / "exported").rglob("*.py"))


def test_loaded_here_it_is_the_same_and_needs_no_leave(project: Build, texts: list[str], tmp_path: Path) -> None:
    predictor = project(storage_type="float32").predictor("weighted")
    export(predictor, tmp_path / "exported")
    model = load(tmp_path / "exported")
    found = model.encode(texts, show_progress_bar=False)
    np.testing.assert_allclose(found, predictor.embed(texts), atol=1e-5, rtol=1e-5)
    assert model.get_embedding_dimension() == predictor.width
    prompted = model.encode("wins", prompt="the film ", show_progress_bar=False)
    np.testing.assert_allclose(prompted, predictor.embed(["the film wins"])[0], atol=1e-5, rtol=1e-5)


def test_so_does_a_head_that_reads_tokens(project: Build, texts: list[str], tmp_path: Path) -> None:
    made = project("pairs with a score", token_states={"rank": 8, "storage_type": "float32"})
    predictor = made.predictor("weighted", weighted={"tokens": {"rank": 6}})
    export(predictor, tmp_path / "exported")
    assert EXPORT.foreign(tmp_path / "exported") is None
    model = load(tmp_path / "exported")
    found = model.encode(texts, show_progress_bar=False, batch_size=7)
    np.testing.assert_allclose(found, predictor.embed(texts), atol=1e-5, rtol=1e-5)
    assert model.get_embedding_dimension() == predictor.width == 6


def test_rows_of_two_bytes_differ_where_a_last_bit_tips_their_rounding(
    project: Build, texts: list[str], tmp_path: Path
) -> None:
    """In other batches a row differs by 1e-7 of itself; rounded to float16, seldom by one step, which is 1e-3."""
    predictor = project().predictor("weighted")
    export(predictor, tmp_path / "exported")
    found, expected = load(tmp_path / "exported").encode(texts, show_progress_bar=False), predictor.embed(texts)
    assert (np.abs(found - expected) <= 1e-5).mean() > 0.98
    np.testing.assert_allclose(found, expected, atol=5e-3, rtol=5e-3)


def test_exporting_again_replaces_the_folder(project: Build, tmp_path: Path) -> None:
    made = project()
    for head in ("mean", "last"):
        export(made.predictor(head), tmp_path / "exported")
    assert load(tmp_path / "exported")[0].predictor.trained.head.spec.name == "last"
    files = {str(file.relative_to(tmp_path / "exported")) for file in (tmp_path / "exported").rglob("*.*")}
    module = f"0_{HeadModule.__name__}"
    assert {
        "README.md",
        "modules.json",
        f"{module}/head/head.safetensors",
        f"{module}/model/model.safetensors",
    } <= files


def test_the_command_writes_the_folder_and_names_its_extra(
    project: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, out = project(), tmp_path / "exported"
    given = ["export", made.trained("mean"), "--to", "sentence-transformer", "--out", out, "--model", made.model]
    found = CliRunner().invoke(main, [str(part) for part in given])
    assert found.exit_code == 0, found.output
    assert load(out)[0].predictor.trained.head.spec.name == "mean"
    monkeypatch.delitem(sys.modules, "ilse.predict.sentence_transformer")
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    found = CliRunner().invoke(main, [str(part) for part in given])
    assert (found.exit_code, "pip install 'ilse-cache[mteb]'" in found.stderr) == (2, True)


def test_a_model_of_the_hub_is_named_and_leave_to_run_code_stays_here(tmp_path: Path) -> None:
    from ilse.predict.sentence_transformer import _copied

    model = ModelParams(hub="someone/model", revision="0" * 40, trust_remote_code=True)
    assert _copied(model, tmp_path / "model") == {"hub": "someone/model", "revision": "0" * 40}
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ('{"path": "/etc"}', "a path outside of it, /etc"),
        ('{"path": "model/../../model"}', "a path outside of it"),
        ('{"hub": "someone/model"}', "revision"),
        ("[", "Expecting value"),
        (None, "No such file"),
    ],
)
def test_an_edited_reference_is_refused(project: Build, tmp_path: Path, reference: str | None, found: str) -> None:
    export(project().predictor("mean"), tmp_path / "exported")
    file = tmp_path / "exported" / f"0_{HeadModule.__name__}" / "model.json"
    file.unlink()
    if reference is not None:
        file.write_text(reference)
    with pytest.raises(UserError, match=f"exported head .*\n +expected: a folder as 'export' wrote it(.|\n)*{found}"):
        load(tmp_path / "exported")
