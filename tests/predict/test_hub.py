"""Heads pushed to and pulled from a stand-in of the Hub, and the card that goes with them."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
import yaml
from click.testing import CliRunner
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from benchmarks.hostile.project import PARAMS, lay_out
from ilse.cli import main
from ilse.core.errors import UserError
from ilse.core.secrets import without_secrets
from ilse.predict import Predictor
from ilse.predict.hub import pull, push
from pipeline.model import load
from tests.predict.conftest import Project
from tests.predict.hub import Hub, serving
from trainer.artifacts.artifact import load_head

TOKEN = "hf_thetokenthatisnevershown"


@pytest.fixture(scope="module")
def head(project: Callable[..., Project]) -> Path:
    return project().trained("mean")


@pytest.fixture(scope="module")
def results(head: Path) -> Path:
    return head.parent.parent.parent / "results"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving(monkeypatch) as running:
        yield running


def test_a_pushed_head_comes_back_with_the_same_bytes(head: Path, results: Path, hub: Hub, tmp_path: Path) -> None:
    lines = push(head, "owner/name", results)
    assert sorted(hub.files["owner/name"]) == ["README.md", "config.json", "head.safetensors"]
    assert lines[0].startswith("owner/name at ")
    assert f"Bearer {TOKEN}" in hub.asked_by
    assert TOKEN not in "\n".join(lines)
    hub.files["owner/name"] |= {"own.py": b"code", "weights.bin": b"pickle"}
    pulled = pull("owner/name", tmp_path / "pulled")
    assert sorted(path.name for path in pulled.rglob("*")) == ["README.md", "config.json", "head.safetensors"]
    for name in ("config.json", "head.safetensors"):
        assert (pulled / name).read_bytes() == (head / name).read_bytes()
    assert load_head(pulled).facts == load_head(head).facts


def test_the_card_says_what_the_run_found(head: Path, results: Path) -> None:
    card = ModelCard("\n".join(push(head, "owner/name", results, dry_run=True)).split("\n\n", 1)[1])
    facts = load_head(head).facts
    run = pl.read_csv(results / "runs.csv").row(0, named=True)
    found = {result.dataset_split: result.metric_value for result in card.data.eval_results}
    assert found == {"validation": round(facts.val_score, 4), "test": round(run["test_score"], 4)}
    assert card.data.license is None
    assert card.data.base_model is None
    assert card.data.library_name == "ilse-cache"
    assert facts.capture.model["sha256"] in card.text
    assert all(f"`{label}`" in card.text for label in facts.labels)


def test_a_head_that_reads_tokens_goes_with_its_basis(
    project: Callable[..., Project], hub: Hub, tmp_path: Path
) -> None:
    made = project(token_states={"rank": 8, "storage_type": "bfloat16"})
    head = made.trained("weighted", weighted={"tokens": {"rank": 6}})
    push(head, "owner/name", made.folder / "results")
    pulled = pull("owner/name", tmp_path / "pulled")
    card = (pulled / "README.md").read_text()
    assert "- Tokens: the states of every token of 4 layers, in a basis of rank 8, which is among the weights" in card
    assert "stored as\n  bfloat16." in card
    texts = list(made.texts().values())
    here, there = (Predictor.load(folder, made.model, device="cpu").predictions(texts) for folder in (head, pulled))
    assert here == there
    config = json.loads((pulled / "config.json").read_text())
    weights = load_file(pulled / "head.safetensors")
    save_file({n: v for n, v in weights.items() if not n.startswith("basis.")}, pulled / "head.safetensors")
    (pulled / "config.json").write_text(json.dumps(config | {"format_version": 5}))
    with pytest.raises(UserError, match=r"a model card for the Hub(.|\n)*carries the basis"):
        push(pulled, "owner/name", made.folder / "results")


def test_test_figures_of_another_fit_stay_out(head: Path, results: Path, tmp_path: Path) -> None:
    pl.read_csv(results / "runs.csv").with_columns(pl.col("val_score") - 0.01).write_csv(tmp_path / "runs.csv")
    for place in (tmp_path, tmp_path / "none"):
        shown = "\n".join(push(head, "owner/name", place, dry_run=True))
        assert "- test:" not in shown
        assert "No figure on a test split" in shown


def test_a_dry_run_shows_the_files_and_asks_nobody(head: Path, results: Path, hub: Hub) -> None:
    ended = CliRunner().invoke(main, ["push", str(head), "owner/name", "--results", str(results), "--dry-run"])
    assert ended.exit_code == 0, ended.output
    assert f"{(head / 'head.safetensors').stat().st_size:,} bytes  head.safetensors" in ended.output
    assert "library_name: ilse-cache" in ended.output
    assert not hub.asked_by
    assert not hub.files


def test_a_pulled_head_that_is_none_leaves_the_old_one(head: Path, hub: Hub, tmp_path: Path) -> None:
    config = json.loads((head / "config.json").read_bytes())
    config["head"]["layers"] = 10**12
    weights = (head / "head.safetensors").read_bytes()
    hub.files["owner/name"] = {"config.json": json.dumps(config).encode(), "head.safetensors": weights}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "head.safetensors").write_text("old")
    with pytest.raises(UserError, match=r"head owner/name of the Hub\n(.|\n)*names of 1000000000000 layers"):
        pull("owner/name", tmp_path / "out")
    assert {path.name: path.read_text() for path in tmp_path.rglob("*.*")} == {"head.safetensors": "old"}


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_the_hub_refuses_is_said_without_the_token(head: Path, hub: Hub, tmp_path: Path, status: int) -> None:
    hub.refuses = status
    for refused in (lambda: push(head, "owner/name"), lambda: pull("owner/name", tmp_path / "out")):
        with pytest.raises(UserError, match="repository owner/name of the Hub") as caught:
            refused()
        assert TOKEN not in str(caught.value)
        assert "HF_TOKEN" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_download_that_is_cut_in_a_file_is_said_and_goes_well_the_next_time(
    head: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    hub.files["owner/name"] = {name: (head / name).read_bytes() for name in ("config.json", "head.safetensors")}
    hub.cuts = True
    ended = CliRunner().invoke(main, ["pull", "owner/name", str(tmp_path / "head")])
    assert (ended.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert "repository owner/name of the Hub" in ended.stderr
    assert "Traceback" not in ended.stderr
    hub.cuts = False
    assert load_head(pull("owner/name", tmp_path / "head")).facts == load_head(head).facts


@pytest.fixture(scope="module")
def over_hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose model and whose artifact to fetch are to be on the Hub, and the model's files in `model`."""
    folder = tmp_path_factory.mktemp("hub")
    lay_out(folder)
    with contextlib.chdir(folder):
        assert CliRunner().invoke(main, ["prepare"]).exit_code == 0
    return folder


@pytest.mark.parametrize("cut", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize(
    "command",
    [["fetch", "folder"], ["plan"], ["extract", "--out", "data/new.zarr", "--figures", "data/new.json"]],
    ids=lambda command: command[0],
)
def test_a_model_that_is_cut_in_a_file_is_said_and_comes_the_next_time(
    over_hub: Path, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str], cut: str
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    shutil.copytree(over_hub, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    hub.files["owner/model"] = {path.name: path.read_bytes() for path in Path("model").iterdir()}
    model = {"hub": "owner/model", "revision": hub.commit("owner/model")}
    artifact = {"kind": "hub", "repo_id": "owner/model", "revision": model["revision"]}
    params = PARAMS | {"extract": PARAMS["extract"] | {"model": model}, "fetch": {"folder": artifact}}
    Path("params.yaml").write_text(yaml.safe_dump(params))
    before = sorted(path for path in Path().rglob("*") if path.is_file())
    hub.cuts = cut
    load.MODELS.forget()
    ended = CliRunner().invoke(main, command)
    assert ended.exit_code == 2, ended.output
    assert "found:    no answer from 127.0.0.1: " in ended.stderr
    assert ended.stderr.count("error: ") == 1
    assert sorted(path for path in Path().rglob("*") if path.is_file()) == before
    hub.cuts = False
    ended = CliRunner().invoke(main, command)
    assert ended.exit_code == 0, ended.output


def test_without_a_connection_the_hub_is_named(head: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("time.sleep", lambda _: None)  # the library asks six times within half a minute
    for command in (["push", str(head), "owner/name"], ["pull", "owner/name", str(tmp_path / "head")]):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 2
        assert "found:    no answer from 127.0.0.1: [Errno 111] Connection refused" in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["name", "https://user:secret@hub/owner/name", "../name", "a/b/c", ""])
def test_another_name_than_a_repository_s_is_refused(head: Path, name: str) -> None:
    with pytest.raises(UserError, match="expected: owner/name") as caught:
        push(head, name, dry_run=True)
    assert "secret@" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no index at https://me:pass@host/simple", "no index at https://…@host/simple"),
        ("Authorization: Bearer abcdef", "Authorization: Bearer …"),
        ("HF_TOKEN=abc and more", "HF_TOKEN=… and more"),
        (f"401 for {TOKEN}", "401 for …"),
        ("unset HF_HUB_OFFLINE", "unset HF_HUB_OFFLINE"),
        ("the tokens of a text", "the tokens of a text"),
    ],
)
def test_secrets_are_taken_out_of_what_others_say(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_secrets_of_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    assert without_secrets("signed with wJalrXUtnFEMI!") == "signed with …!"


def test_a_predictor_goes_to_the_hub_and_comes_back(
    project: Callable[..., Project], hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the names that huggingface_hub gives them."""
    made = project()
    monkeypatch.chdir(tmp_path)
    predictor = Predictor.from_pretrained(made.trained("mean"), made.model)
    predictor.push_to_hub("owner/topics")
    assert {"config.json", "head.safetensors", "README.md"} <= hub.files["owner/topics"].keys()
    assert not any(name.endswith((".bin", ".pkl", ".pt", ".py")) for name in hub.files["owner/topics"])
    again = Predictor.from_pretrained("owner/topics", made.model, cache_dir=tmp_path / "hub")
    texts = ["the film wins", "the law falls"]
    assert (again.predict_proba(texts) == predictor.predict_proba(texts)).all()
    assert not list(tmp_path.glob("*.safetensors")), "nothing stays beside the caller"


def test_a_new_project_pins_the_model_that_the_hub_names(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    hub.files["owner/model"] = {"config.json": b"{}", "model.safetensors": b""}
    monkeypatch.chdir(tmp_path)
    Path("news.csv").write_text("text,label\na,x\nb,y\n")
    given = ["init", "--data", "news.csv", "--model", "owner/model"]
    hub.refuses = 404
    found = CliRunner().invoke(main, given)
    assert found.exit_code == 2
    assert "Hub model owner/model" in found.output
    assert [path.name for path in tmp_path.iterdir()] == ["news.csv"]
    hub.refuses = None
    found = CliRunner().invoke(main, given)
    assert found.exit_code == 0, found.output
    params = yaml.safe_load(Path("params.yaml").read_text())
    fetched = params["fetch"]["model"]
    pinned = (fetched["kind"], fetched["repo_id"], fetched["revision"])
    assert pinned == ("hub", "owner/model", hub.commit("owner/model"))
    assert params["extract"]["model"] == {"path": "data/raw/model"}
