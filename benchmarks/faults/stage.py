"""What the campaign plays on: a tiny model, some texts, and the ways in which `ilse extract` is called on them."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import yaml

from benchmarks.faults.hook import Hook
from benchmarks.faults.starting import NOTHING, Ended, Env, Running, Starter
from benchmarks.faults.warm import HEAVY
from ilse.core.tables import TEXT, TEXT_ID

SHARD_ROWS = 8
TABLES = {"texts": 240, "older": 120, "grown": 264, "others": 240}
"""Rows of the tables of texts: the campaign's own, half of it, more, and as many others; all are whole shards."""
FIRST = {"others": 1000}
"""The number of a table's first text, where it is not 0."""
SHARDS = TABLES["texts"] // SHARD_ROWS
VARIANTS: dict[str, dict[str, Any]] = {
    "float16": {"storage_type": "float16"},
    "int8": {"storage_type": "int8", "poolings": ["mean", "last"]},
    "bfloat16": {"storage_type": "bfloat16"},
    "tokens": {"storage_type": "float32", "token_states": True},
    "basis": {"token_states": {"layers": [0, -1], "rank": 8, "storage_type": "int8"}},
}
"""Kinds of cache, each with other files in it."""
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


class Stage(Starter):
    """A folder with the model and the tables, and one folder for every piece of work.

    A `quick` one saves what costs most of the time: the start-up of processes.
    """

    def __init__(self, root: Path, quick: bool = False) -> None:
        super().__init__(root, HEAVY if quick else ())
        self.quick, self._works = quick, itertools.count()
        _build_model(root / "model")
        for name, rows in TABLES.items():
            _build_table(root / f"{name}.parquet", FIRST.get(name, 0), rows)

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


def _build_table(path: Path, first: int, rows: int) -> None:
    texts = [_sentence(row) for row in range(first, first + rows)]
    ids = [hashlib.sha256(text.encode()).hexdigest()[:32] for text in texts]
    pl.DataFrame({TEXT_ID: ids, TEXT: texts}).write_parquet(path)


def _sentence(row: int) -> str:
    """1 to 12 words and the row's number: distinct, of different lengths, some cut at 10 tokens."""
    random = Random(row)
    return " ".join([*random.choices(_WORDS, k=random.randint(1, 12)), *str(row)])
