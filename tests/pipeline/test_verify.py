"""What `ilse verify` says of intact, damaged and unfinished caches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from ilse.cli import main
from ilse.core.errors import UserError
from pipeline import store
from pipeline.stages.verify import verify
from tests.pipeline.caches import header, ids_of, random_rows, write


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    head = header(token_states=True)
    write(tmp_path / "c", head, random_rows(head))
    return tmp_path / "c"


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def said(cache: Path) -> str:
    with pytest.raises(UserError) as caught:
        verify(str(cache))
    return str(caught.value)


def test_an_intact_cache_is_said_to_be_one(cache: Path) -> None:
    assert verify(str(cache)) == f"{cache}: 10 texts in 3 shards, every byte as it was written"


def test_every_damaged_file_is_named_with_its_shard_and_rows(cache: Path) -> None:
    flip(cache / "pooled/mean/c/2/0/0")
    flip(cache / "tokens/1/c/0/0/0")
    (cache / "tokens/0/zarr.json").unlink()
    flip(cache / "token_count/c/0")
    text = said(cache)
    assert "shard 2 (rows 8 to 10), pooled/mean/c/2/0/0: other bytes than were written" in text
    assert "shard 1 (rows 4 to 8), tokens/1/c/0/0/0: other bytes than were written" in text
    assert "shard 0 (rows 0 to 4), tokens/0/zarr.json: missing" in text
    assert "\n            token_count/c/0: other bytes than were written" in text
    assert "'ilse extract' computes only the damaged shards again" in text
    assert text.count("\n") == 3 + 3


def test_a_damaged_header_leaves_the_shards_without_rows(cache: Path) -> None:
    flip(cache / "zarr.json")
    flip(cache / "pooled/mean/c/2/0/0")
    text = said(cache)
    assert "zarr.json: other bytes than were written" in text
    assert "shard 2, pooled/mean/c/2/0/0: other bytes than were written" in text


@pytest.mark.parametrize("damage", [flip, Path.unlink], ids=["flipped", "missing"])
def test_a_damaged_list_is_the_one_damage(cache: Path, damage: Callable[[Path], None]) -> None:
    damage(cache / "SHA256SUMS")
    flip(cache / "pooled/mean/c/2/0/0")
    assert "found:    SHA256SUMS: missing or damaged\n" in said(cache)


def test_a_foreign_file_is_named(cache: Path) -> None:
    (cache / "pooled/mean/c/7/0").mkdir(parents=True)
    (cache / "pooled/mean/c/7/0/0").write_bytes(b"")
    assert "found:    pooled/mean/c/7/0/0: a file that does not belong to the cache\n" in said(cache)


def test_a_file_that_cannot_be_read_is_damage(cache: Path) -> None:
    (cache / "text_id/zarr.json").unlink()
    (cache / "text_id/zarr.json").mkdir()
    assert "text_id/zarr.json: unreadable (Is a directory)" in said(cache)


def test_an_unfinished_cache_is_not_called_damaged(tmp_path: Path) -> None:
    store.create(store.Location(tmp_path / "c"), header(), ids_of(10))
    assert "record says that it is unfinished" in said(tmp_path / "c")


@pytest.mark.parametrize("name", ["none", "folder", "file"])
def test_what_is_no_cache_is_not_called_damaged(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    assert "nothing there" in said(tmp_path / name)


def test_the_command_exits_with_2_for_a_damaged_cache(cache: Path) -> None:
    intact = CliRunner().invoke(main, ["verify", str(cache)])
    assert (intact.exit_code, intact.stdout.strip()) == (0, verify(str(cache)))
    flip(cache / "statistics/mean/c/0/0")
    damaged = CliRunner().invoke(main, ["verify", str(cache)])
    assert damaged.exit_code == 2
    assert "statistics/mean/c/0/0" in damaged.output
