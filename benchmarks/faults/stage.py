"""What the campaign plays on: a tiny model, some texts, and the ways in which `ilse extract` is called on them."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import yaml

from benchmarks.faults.hook import INSIDE, Hook
from benchmarks.faults.warm import Forked, Warm
from ilse.tables import TEXT, TEXT_ID

ROOT = Path(__file__).parent.parent.parent
SHARD_ROWS = 8
TABLES = {"texts": 240, "older": 120, "grown": 264}
"""Rows of the tables of texts: the campaign's own, half of it, and more; all are whole shards."""
SHARDS = TABLES["texts"] // SHARD_ROWS
VARIANTS: dict[str, dict[str, Any]] = {
    "float16": {"storage_type": "float16"},
    "int8": {"storage_type": "int8", "poolings": ["mean", "last"]},
    "bfloat16": {"storage_type": "bfloat16"},
    "tokens": {"storage_type": "float32", "token_states": True},
}
"""Kinds of cache, each with other files in it."""
PATIENCE = 300.0
"""Seconds after which a command counts as one that hangs."""
Env = Mapping[str, str]
NOTHING: Env = {}
SECRET = "the-secret-that-is-never-shown"

_WORDS = (
    "the",
    "market",
    "film",
    "game",
    "vote",
    "phone",
    "wins",
    "falls",
    "new",
    "minister",
    "club",
    "profit",
    "song",
)
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code (negative for a signal) and all it said."""

    code: int
    said: str


@dataclass(frozen=True)
class Call:
    """One `ilse extract`: the same call again is the rerun that every error asks for."""

    folder: Path
    variant: str
    out: str
    table: Path
    params: Path

    @property
    def scratch(self) -> Path:
        """Where unfinished work is kept."""
        return self.folder / "scratch"

    @property
    def figures(self) -> Path:
        """Where the run's figures go."""
        return self.folder / "extract.json"

    def arguments(self) -> list[str]:
        """The command's arguments."""
        named = {"params": self.params, "texts": self.table, "out": self.out}
        named |= {"scratch": self.scratch, "figures": self.figures}
        return ["extract", *(part for name, value in named.items() for part in (f"--{name}", str(value)))]


class Running:
    """A command in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes] | Forked, said: Path) -> None:
        self.process, self._said = process, said

    def wait(self) -> Ended:
        """Waits for its end; one that hangs is killed."""
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait() * 1000
        return Ended(code, self._said.read_text(errors="replace"))


class Stage:
    """A folder with the model and the tables, and one folder for every piece of work.

    A `quick` one saves what costs most of the time: the start-up of processes.
    """

    def __init__(self, root: Path, quick: bool = False) -> None:
        self.root, self.quick = root, quick
        self._works, self._commands = itertools.count(), itertools.count()
        self._started: list[Running] = []
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "FAULTS_"))},
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{INSIDE}{os.pathsep}{ROOT}",
            "TOKENIZERS_PARALLELISM": "false",
        }
        self._warm = Warm(self.environment) if quick else None
        _build_model(root / "model")
        for name, rows in TABLES.items():
            _build_table(root / f"{name}.parquet", rows)

    def some_variant(self, random: Random) -> str:
        """One of `VARIANTS`; the quick campaign has two."""
        return random.choice(list(VARIANTS)[: 2 if self.quick else None])

    def folder(self) -> Path:
        """A new empty folder for a piece of work."""
        folder = self.root / f"work{next(self._works)}"
        folder.mkdir()
        return folder

    def call(self, folder: Path, variant: str = "float16", table: str = "texts", out: str = "", **changes: Any) -> Call:
        """The call that extracts a table; `changes` are parameters of section `extract`."""
        values = {
            "model": {"path": str(self.root / "model")},
            "compute_type": "float32",
            "max_tokens": 10,
            "batch_tokens": 64,
            "shard_rows": SHARD_ROWS,
            "threads": 1,
            "cluster": {"kind": "synchronous"},
            **VARIANTS[variant],
            **changes,
        }
        params = folder / "params.yaml"
        params.write_text(yaml.safe_dump({"extract": values}))
        return Call(folder, variant, out or str(folder / "cache.zarr"), self.root / f"{table}.parquet", params)

    def start(
        self, call: Call, hook: Hook | None = None, before: Sequence[str] = (), environment: Env = NOTHING
    ) -> Running:
        """Starts the real command line; `before` stands before it, such as `setpriv`."""
        return self.start_module(["ilse.cli", *call.arguments()], call.folder, hook, before, environment)

    def start_module(
        self,
        command: list[str],
        folder: Path,
        hook: Hook | None = None,
        before: Sequence[str] = (),
        environment: Env = NOTHING,
    ) -> Running:
        """Starts `python -m command`, in a session of its own."""
        variables = {**self.environment, **(hook.environment() if hook else {}), **environment}
        # Beside the folder: the disk under it may be full.
        said = folder.with_suffix(f".said{next(self._commands)}")
        if self._warm and not before:
            running = Running(self._warm.start(command, folder, variables, str(said)), said)
        else:
            whole = [*before, sys.executable, "-m", *command]
            with said.open("w") as file:
                streams: Any = {"stdout": file, "stderr": file, "stdin": subprocess.DEVNULL}
                process = subprocess.Popen(whole, cwd=folder, env=variables, start_new_session=True, **streams)
            running = Running(process, said)
        self._started.append(running)
        return running

    def end(self) -> None:
        """Ends what an error of the campaign itself has left running."""
        for running in self._started:
            if running.process.poll() is None:
                os.killpg(running.process.pid, signal.SIGKILL)
                running.process.wait()
        if self._warm:
            self._warm.end()

    def run(self, call: Call, hook: Hook | None = None) -> Ended:
        """Runs it to its end."""
        return self.start(call, hook).wait()

    def here(self, arguments: list[str]) -> Ended:
        """The same command line inside this process, which has its imports behind it; one at a time."""
        from click.testing import CliRunner

        from ilse.cli import main

        with _ONE_AT_A_TIME:
            result = CliRunner().invoke(main, arguments)
        crash = result.exception
        traceback = "" if crash is None or isinstance(crash, SystemExit) else f"\nTraceback: {crash!r}"
        return Ended(result.exit_code, result.output + traceback)


def _build_model(folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import AutoModel, LlamaConfig, PreTrainedTokenizerFast

    torch.manual_seed(0)
    shape: Any = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    config = LlamaConfig(**shape, num_key_value_heads=2, vocab_size=64, max_position_embeddings=64)
    AutoModel.from_config(config).save_pretrained(folder)
    words = {word: i for i, word in enumerate(["[UNK]", "[PAD]", *_WORDS, *"0123456789"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")
    fast.save_pretrained(folder)


def _build_table(path: Path, rows: int) -> None:
    texts = [_sentence(row) for row in range(rows)]
    ids = [hashlib.sha256(text.encode()).hexdigest()[:32] for text in texts]
    pl.DataFrame({TEXT_ID: ids, TEXT: texts}).write_parquet(path)


def _sentence(row: int) -> str:
    """1 to 12 words and the row's number: distinct, of different lengths, some cut at 10 tokens."""
    random = Random(row)
    return " ".join([*random.choices(_WORDS, k=random.randint(1, 12)), *str(row)])
