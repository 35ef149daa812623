"""What others made may claim or unfold to anything: it is refused before time or memory is taken."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import pytest

from benchmarks.hostile import bombs
from benchmarks.hostile.given import DOUBLES, LAUGHS, MERGES
from benchmarks.hostile.models import TOKENIZERS
from ilse.core.errors import UserError
from ilse.core.files.json_files import MOST_JSON, parse_json
from ilse.core.files.table_files import read_csv, read_parquet, scan_parquet
from ilse.core.files.yaml_bounds import BYTES, VALUES, plain_values
from ilse.core.params import load_document
from ilse.predict.inputs import Fields, format_of, pieces
from pipeline.capture.tokens import tokenise
from pipeline.dataset.texts import LONGEST
from pipeline.stages.prepare import PrepareParams, prepare
from pipeline.tokenizer.bounds import require_bounded, runs_away

SOON = 20.0
"""Seconds: what takes longer hangs."""


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("aliases", LAUGHS + "prepare: *a9\n", "values, with all names"),
        ("merge keys", MERGES + "prepare: *a9\n", "values, with all names"),
        ("doubling", DOUBLES + "prepare: *a25\n", "values, with all names"),
        ("keys", "".join(f"k{i}: 1\n" for i in range(40_000)), f"more than {VALUES:,} values"),
        ("depth", "a: " + "[" * 100 + "]" * 100, "more than 64 deep"),
        ("itself", "a: &a [*a]", "the name 'a', which refers to a value that contains it"),
        ("base 60", "a: 1" + ":1" * 300_000, "a number of 600,001 characters"),
        ("bytes", "#" * (BYTES + 1), f"more than {BYTES:,} bytes"),
        ("twice", "a: 1\nb: 1\na: 2\n", "the key 'a' twice"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "",
)
def test_a_parameter_file_that_unfolds_is_refused_at_once(tmp_path: Path, name: str, text: str, found: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    started = time.monotonic()
    with pytest.raises(UserError, match="valid YAML") as refused:
        load_document(tmp_path / "params.yaml")
    assert found in refused.value.found
    assert time.monotonic() - started < SOON, name


def test_names_and_merge_keys_of_a_hand_s_size_are_read() -> None:
    text = b"a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\nc: [*a, 1e3, 0x10, 1.5]\n"
    assert plain_values(text) == {
        "a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": [{"x": 1, "y": 2}, "1e3", 16, 1.5],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[" * 200_000, "too deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "4300"),
        (b'{"a": 1e999}', "too large for a computer"),
        (b'{"a": NaN}', "not a number"),
        (b"{" + b"".join(b'"%d": 1,' % i for i in range(200_000)) + b'"7": 1}', "the key '7' twice"),
        (b" " * (MOST_JSON + 1), "bytes"),
    ],
    ids=["depth", "digits", "infinite", "nan", "twice", "bytes"],
)
def test_json_beyond_sense_is_refused_at_once(data: bytes, message: str) -> None:
    started = time.monotonic()
    with pytest.raises(ValueError, match=message):
        parse_json(data)
    assert time.monotonic() - started < SOON


# The others are the campaign's: these take a second each.
@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("20 million rows of one text", "40,000,000 values in a file of"),
        ("100,000 rows of one text of a megabyte", "bytes or more in the first"),
        ("a long text, CSV", f"line 3, column 'text'\n  expected: a text of at most {LONGEST:,} bytes"),
        ("a long text, JSON", f"row 0 (from 0), text\n  expected: a text of at most {LONGEST:,} bytes"),
        ("a long text, Parquet", f"row 1 (from 0), text\n  expected: a text of at most {LONGEST:,} bytes"),
    ],
)
def test_a_source_that_unfolds_is_refused_before_memory_is_taken(tmp_path: Path, name: str, found: str) -> None:
    file, make = bombs.SOURCES[name]
    make(tmp_path / file)
    with pytest.raises(UserError) as refused:
        prepare(PrepareParams(path=str(tmp_path / file)), tmp_path / "out")
    assert found in str(refused.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=f"at most ({LONGEST:,} bytes|200 bytes per compressed byte)"):
        list(pieces(str(tmp_path / file), format_of(file), Fields(), 100))


def test_a_line_or_a_row_without_an_end_is_not_read_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ilse.predict.inputs.LONGEST_ROW", 1000)
    (tmp_path / "a.txt").write_bytes(b"a\n" + b"a" * 1001)
    with pytest.raises(UserError, match=r"line 2\n +expected: at most 1,000 characters"):
        list(pieces(str(tmp_path / "a.txt"), "lines", Fields(), 100))
    monkeypatch.setattr("pipeline.dataset.delimited.MOST_LINES", 100)
    (tmp_path / "a.csv").write_text('text,label\n"' + "b\n" * 200)
    with pytest.raises(UserError, match=r"line 2\n(.|\n)*a row of more than"):
        list(pieces(str(tmp_path / "a.csv"), "csv", Fields(), 100))


def test_tables_of_a_size_that_is_packed_well_are_read_and_bombs_are_not(tmp_path: Path) -> None:
    bombs.repeated(tmp_path / "well.parquet", rows=1_000_000)
    assert len(read_parquet(tmp_path / "well.parquet", columns=["label"])) == 1_000_000
    bombs.in_lists(tmp_path / "lists.parquet")
    for read in (read_parquet, scan_parquet):
        with pytest.raises(UserError, match="20,000,001 values in a file of"):
            read(tmp_path / "lists.parquet")
    assert len(read_parquet(tmp_path / "lists.parquet", ["text_id"], values=20_000_001)) == 1


def test_a_packed_table_of_results_is_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(gzip.compress(b"a,b\n1,2\n"))
    with pytest.raises(UserError, match=r"CSV as plain text\n +found: +a packed file"):
        read_csv(tmp_path / "a.csv")


BOUNDED = [name for name in TOKENIZERS if name not in ("no word", "ids beyond 2³²")]


@pytest.mark.parametrize("name", BOUNDED)
def test_a_tokenizer_that_never_ends_is_refused_before_it_is_loaded(tmp_path: Path, name: str) -> None:
    values = {"model": {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}, "added_tokens": []}
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(values))
    require_bounded(file)
    TOKENIZERS[name](values)
    file.write_text(json.dumps(values))
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"tokens|normaliser|pattern|steps|id"):
        require_bounded(file)
    assert time.monotonic() - started < SOON


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        (r"'s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", False),  # GPT-2
        (r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}]+[\r\n]*|\s*[\r\n]+", False),  # Llama 3
        (r"[^\r\n]?[\p{Lu}]*[\p{Ll}\p{M}]+(?i:'s|'t)?|\p{N}{1,3}", False),  # o200k
        (r" ?[^(\s|[.,!?…。，、।۔،])]+", False),  # BLOOM
        (r"(?=(\d{3})+(?!\d))", False),  # digits by threes
        (r"(\(+\))*", True), (r"(a+)+$", True), (r"(?:a*b?)*", True), (r"((x+)y){2,}", True), (r"(a{2,})*", True),
    ],
)  # fmt: skip
def test_a_pattern_with_a_repetition_in_a_repetition_is_told_from_others(pattern: str, found: bool) -> None:
    assert runs_away(pattern) is found


class PanicException(BaseException):
    """As the tokenizers' native code raises it."""


@pytest.mark.parametrize("error", [PanicException("too many retries"), OverflowError("out of range")])
def test_whatever_a_tokenizer_raises_is_said(error: BaseException) -> None:
    def tokenizer(*_: object, **__: object) -> None:
        raise error

    with pytest.raises(UserError, match=str(error)):
        tokenise(tokenizer, ["a"], ["id"], "{text}", 8)
