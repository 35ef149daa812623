"""Heads pushed to and pulled from a stand-in of the Hub, and the card that goes with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from huggingface_hub import ModelCard

from ilse.cli import main
from ilse.errors import UserError
from ilse.secrets import without_secrets
from inference.hub import pull, push
from tests.inference.conftest import Project
from tests.inference.hub import Hub, serving
from trainer.artifact import load_head

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
    (tmp_path / "out" / "old").write_text("old")
    with pytest.raises(UserError, match=r"head owner/name of the Hub\n(.|\n)*names of 1000000000000 layers"):
        pull("owner/name", tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_the_hub_refuses_is_said_without_the_token(head: Path, hub: Hub, tmp_path: Path, status: int) -> None:
    hub.refuses = status
    for refused in (lambda: push(head, "owner/name"), lambda: pull("owner/name", tmp_path / "out")):
        with pytest.raises(UserError, match="repository owner/name of the Hub") as caught:
            refused()
        assert TOKEN not in str(caught.value)
        assert "HF_TOKEN" in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["name", "https://user:secret@hub/owner/name", "../name", "a/b/c", ""])
def test_another_name_than_a_repository_s_is_refused(head: Path, name: str) -> None:
    with pytest.raises(UserError, match="expected: owner/name") as caught:
        push(head, name, dry_run=True)
    assert "secret@" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no index at https://me:pass@host/simple", "no index at https://…host/simple"),
        ("Authorization: Bearer abcdef", "Authorization: Bearer …"),
        ("HF_TOKEN=abc and more", "HF_TOKEN=… and more"),
        (f"401 for {TOKEN}", "401 for …"),
        ("the tokens of a text", "the tokens of a text"),
    ],
)
def test_secrets_are_taken_out_of_what_others_say(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_secrets_of_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI")
    assert without_secrets("signed with wJalrXUtnFEMI!") == "signed with …!"
