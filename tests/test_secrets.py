"""What a user gave as a secret is in no output: not of a command, an error, a traceback, a log or a file."""

from __future__ import annotations

import logging
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from ilse.cli import main
from ilse.core.errors import UserError
from ilse.core.secrets import holds_secrets, masked, remember
from ilse.core.terminal import say, tell

SECRET = "Zx9topsecret"
WAYS = {
    "password": "{scheme}://ann:{secret}@db.invalid:1/trials",
    "odd password": "{scheme}://ann:a/b?{secret}#c@d@db.invalid/trials",
    "user": "{scheme}://{secret}@db.invalid/trials",
    "query": "{scheme}://db.invalid/trials?password={secret}",
    "fragment": "{scheme}://db.invalid/trials#{secret}",
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return WAYS[request.param]


def address(way: str, scheme: str = "s3") -> str:
    return way.format(scheme=scheme, secret=SECRET)


def everything_of(error: BaseException) -> str:
    """Its text, its arguments, and its traceback with those of its causes."""
    return f"{error}\n{error.args!r}\n{''.join(traceback.format_exception(error))}"


def written(folder: Path) -> bytes:
    """All names and bytes in the folder but the parameter file's."""
    return b"\n".join(
        str(path.relative_to(folder)).encode() + (path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
        if path.name != "params.yaml"
    )


def test_an_address_keeps_its_place_alone(way: str) -> None:
    shown = masked(f"storage '{address(way, 'postgresql')}' (see https://docs.invalid/e/20)")
    assert SECRET not in shown
    assert "db.invalid" in shown
    assert "(see https://docs.invalid/e/20)" in shown
    assert holds_secrets(address(way))


@pytest.mark.parametrize(
    "text",
    ["s3://bucket/a@b", "tcp://10.0.0.1:8786", "tls://[::1]:1", "sqlite:////abs/trials.db", "a: b@c", "max_tokens: 1"],
)
def test_what_has_no_secret_stays(text: str) -> None:
    assert masked(text) == text
    assert not holds_secrets(text)


def test_a_remembered_secret_is_hidden_wherever_it_stands() -> None:
    remember({"tune": [{"storage": "mysql://u:s%40cret1@h/d"}, "redis://:pw@h/0?sslmode=require"]})
    assert masked("denied: 's@cret1', s%40cret1, pw, but pwd is required") == "denied: '…', …, …, but pwd is required"


def test_a_section_of_many_names_for_one_value_is_walked_once() -> None:
    nested: Any = ["s3://u:hidden1@h"]
    for _ in range(60):
        nested = [nested, nested]
    remember(nested)
    assert masked("hidden1") == "…"


COMMANDS = [
    ["inspect", "{url}"],
    ["verify", "{url}"],
    ["verify", "--nosuch={url}"],
    ["{url}"],
    ["subset", "{url}", "out"],
    ["subset", "out", "{url}"],
    ["train", "last", "--cache", "{url}"],
    ["control", "majority", "--cache={url}"],
    ["analyse", "--cache", "{url}"],
    ["evaluate", "--cache", "{url}"],
    ["tune", "last", "--cache", "{url}"],
    ["lora", "--cache", "{url}"],
    ["extract", "--out", "{url}"],
    ["extract", "--section", "donors"],
    ["extract", "--section", "address"],
    ["extract", "--section", "elsewhere"],
    ["plan", "--model-config", "{url}"],
    ["plan", "--layers", "{url}"],
    ["identify", "--section", "elsewhere"],
    ["predict", "nohead", "--input", "{url}"],
    ["predict", "{url}"],
    ["push", "{url}", "{url}", "--dry-run"],
    ["pull", "{url}", "out", "--revision", "{url}"],
    ["export", "{url}", "--to", "onnx", "--out", "out"],
    ["compare", "a={url}"],
    ["report", "--results", "{url}"],
    ["preset", "tasks/banking77", "--path", "{url}"],
    ["preset", "{url}"],
    ["init", "--data", "{url}"],
    ["fetch", "copy"],
    ["fetch", "hub"],
    ["prepare"],
]


# One way each, in turn: a process that reads all of them is the same.
@pytest.mark.parametrize(
    ("command", "way"),
    [(command, list(WAYS.values())[i % len(WAYS)]) for i, command in enumerate(COMMANDS)],
    ids=map(" ".join, COMMANDS),
)
def test_no_command_shows_logs_or_writes_it(
    command: list[str],
    way: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for module in ("transformers", "distributed", "lightning", "optuna"):
        pytest.importorskip(module, reason="needs every extra")
    pytest.importorskip("obstore", reason="needs the extra 'remote'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name, value in {"ACCESS_KEY_ID": "k" * 9, "SECRET_ACCESS_KEY": "s" * 9, "REGION": "r"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    url = address(way)
    model = {"model": {"path": "nomodel"}}
    sections = {
        "extract": model,
        "donors": {**model, "donors": [url]},
        "address": {**model, "cluster": {"kind": "address", "address": address(way, "tcp")}},
        "elsewhere": {"model": {"path": url}},
        "prepare": {"path": url},
        "fetch": {"copy": {"kind": "path", "path": url}, "hub": {"kind": "hub", "repo_id": url, "revision": url}},
        "tune": {"storage": address(way, "postgresql")},
        "train": {"heads": ["last"]},
        "controls": {},
        "lora": {},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(sections))
    with caplog.at_level(logging.DEBUG):
        done = CliRunner().invoke(main, [part.format(url=url) for part in command])
    assert done.exit_code == 2, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), "no traceback"
    assert SECRET not in done.output + caplog.text
    assert SECRET.encode() not in written(tmp_path)


WRONG = {
    "another type": {"tune": {"storage": ["{url}"]}},
    "a wrong key beside": {"tune": {"storage": "{url}", "trails": 1}},
    "a wrong key": {"tune": {"storag{url}": 1}},
    "a wrong value": {"tune": {"space": "{url}"}},
    "cut in the middle": {"tune": {"space": {"dropout": {"low": "{long}"}}}},
    "a section that is one": {"tune": "{url}"},
}


@pytest.mark.parametrize("given", WRONG.values(), ids=list(WRONG))
def test_refused_parameters_do_not_show_it(given: Any, way: str, tmp_path: Path) -> None:
    space = pytest.importorskip("trainer.search.space", reason="needs the extra 'train'")
    from ilse.core.params import load_section

    long = address(way, "postgresql") + "/" + "x" * 500
    text = yaml.safe_dump(given).replace("{url}", address(way, "postgresql")).replace("{long}", long)
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_section("tune", space.TuneParams, tmp_path / "params.yaml")
    assert SECRET not in everything_of(caught.value)


@pytest.mark.parametrize("line", ['storage: "{url}', "storage: [{url}: x", "{{storage: '{url}'"])
def test_a_broken_parameter_file_does_not_show_it(line: str, way: str, tmp_path: Path) -> None:
    from ilse.core.params import load_document

    (tmp_path / "params.yaml").write_text(f"tune:\n  trials: 1\n  {line.format(url=address(way, 'mysql'))}\n")
    with pytest.raises(UserError, match=r"valid YAML(.|\n)*line \d") as caught:
        load_document(tmp_path / "params.yaml")
    assert SECRET not in everything_of(caught.value)


@pytest.mark.parametrize("scheme", ["postgresql", "mysql+pymysql", "redis", "nosuch"])
def test_a_storage_that_cannot_be_used_does_not_show_it(scheme: str, way: str) -> None:
    tune = pytest.importorskip("trainer.stages.tune", reason="needs the extra 'tune'")
    from trainer.search.space import TuneParams

    with pytest.raises(UserError, match=r"tune\.storage") as caught:
        tune._study(TuneParams(storage=address(way, scheme)), "last", "key")
    assert SECRET not in everything_of(caught.value)


def test_what_a_database_says_while_trials_run_does_not_show_it() -> None:
    tune = pytest.importorskip("trainer.stages.tune", reason="needs the extra 'tune'")
    from sqlalchemy.exc import OperationalError

    storage = address(WAYS["password"], "postgresql")
    remember(storage)
    with pytest.raises(UserError, match=r"tune\.storage") as caught, tune._usable(storage):
        raise OperationalError("SELECT 1", {}, Exception(f"could not connect with {SECRET} to {storage}"))
    assert SECRET not in everything_of(caught.value)


def test_a_schema_made_in_a_program_does_not_show_it(way: str) -> None:
    config = pytest.importorskip("pipeline.config", reason="needs the extra 'params'")
    with pytest.raises(ValueError, match="host and port alone") as caught:
        config.ClusterParams(kind="address", address=address(way, "tcp"))
    assert SECRET not in str(caught.value)


def test_progress_and_answers_do_not_show_it(way: str, capsys: pytest.CaptureFixture[str]) -> None:
    remember(address(way, "tcp"))
    say(f"no worker has connected to {address(way, 'tcp')}, {SECRET if 'password' in way else ''}")
    tell(address(way))
    assert SECRET not in "".join(capsys.readouterr())


FAULT = """
import sys
from ilse.cli import main
from ilse.core.secrets import remember
import pipeline.stages.inspect
def fault(cache):
    raise RuntimeError("a library says \\x1b[31m {secret} of {url}")
pipeline.stages.inspect.describe = fault
main(["inspect", "{url}"])
"""


def test_the_traceback_of_a_fault_of_ours_does_not_show_it() -> None:
    code = FAULT.format(secret=SECRET, url=address(WAYS["password"]))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert r"RuntimeError: a library says \x1b[31m … of s3://…@db.invalid:1/trials" in done.stderr
    assert SECRET not in done.stderr
