"""A damaged cache never reads as numbers: it is refused when read, named when verified, put back where it can be."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ilse.core.errors import UserError
from pipeline import store
from tests.pipeline.caches import chunks_of, files_of, header, ids_of, random_rows, shard_rows, write

ALL = {"poolings": ("mean", "last"), "token_states": True}


@pytest.mark.parametrize("kind", list(store.STORAGE_TYPES))
def test_a_missing_shard_never_reads_as_numbers(tmp_path: Path, kind: str) -> None:
    head = header(storage_type=kind)
    cache = write(tmp_path / "c", head, random_rows(head))
    (tmp_path / "c/pooled/mean/c/1/0/0").unlink()
    with pytest.raises(UserError, match=r"rows 4 to 8(.|\n)*missing"):
        cache.read(slice(4, 8))
    with pytest.raises(UserError, match="missing"):
        cache.gather(np.array([0, 5]), [1])


@pytest.mark.parametrize("name", ["text_id", "token_count", "truncated", "statistics/mean"])
def test_a_missing_index_file_never_reads_as_numbers(tmp_path: Path, name: str) -> None:
    write(tmp_path / "c", header(), random_rows(header()))
    (chunk,) = [file for file in (tmp_path / "c" / name / "c").rglob("*") if file.is_file()]
    chunk.unlink()
    with pytest.raises(UserError, match=rf"'{name}' with 0 of its chunks"):
        everything(store.open_cache(tmp_path / "c"))


def test_missing_scales_never_read_as_numbers(tmp_path: Path) -> None:
    head = header(storage_type="int8")
    cache = write(tmp_path / "c", head, random_rows(head))
    (tmp_path / "c/scale/mean/c/2/0/0").unlink()
    cache.read(slice(0, 8))
    with pytest.raises(UserError, match=r"rows 8 to 10(.|\n)*scales that are missing"):
        cache.read(slice(6, 10))


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_shard_is_noticed_when_read_and_when_verified(tmp_path: Path, damage: str) -> None:
    head, place = header(), store.Location(tmp_path / "c")
    store.create(place, head, ids_of(10))
    records = [store.write_shard(place, head, s, shard_rows(head, s, random_rows(head))) for s in range(3)]
    store.finish(place, head, ids_of(10), records)
    shard = tmp_path / "c/pooled/mean/c/1/0/0"
    content = shard.read_bytes()
    flipped = content[:7] + bytes([content[7] ^ 1]) + content[8:]
    shard.write_bytes({"flip": flipped, "cut": content[:-20], "empty": b""}[damage])
    assert [store.verify_shard(place, record) for record in records] == [True, False, True]
    with pytest.raises(UserError, match=rf"rows 4 to 8(.|\n)*'ilse verify {place}' lists all damage"):
        store.open_cache(place).read(slice(4, 8))


def everything(cache: store.Cache) -> list[bytes]:
    """All that a reader can ask for."""
    found: list[Any] = [cache.text_id_rows(), cache.token_counts(), cache.truncated()]
    for pooling in cache.header.capture.poolings:
        found += [cache.read(place, pooling=pooling) for place in cache.shards()]
        shards = range(cache.header.shards)
        found += [chunks_of(cache, shard, pooling=pooling) for shard in shards]
        found += [cache.read(slice(2, 9), [1], pooling), cache.gather(np.array([9, 0, 5]), pooling=pooling)]
        found += list(cache.statistics(pooling).values())
    if cache.header.capture.token_states:
        found += [cache.token_states(text) for text in range(cache.header.texts)]
    return [repr(cache.header).encode(), *(np.ascontiguousarray(values).tobytes() for values in found)]


def flips(name: str, data: bytes, every: int) -> list[tuple[int, int]]:
    """Positions and masks: of metadata every digit into a few others and each bit in turn, of the rest a sample."""
    random = np.random.default_rng(len(data))
    if not name.endswith("zarr.json"):
        return [(int(at), 1 << int(random.integers(8))) for at in random.integers(0, len(data), 6)]
    digits = [(at, mask) for at, byte in enumerate(data) if chr(byte).isdigit() for mask in (1, 2, 4)]
    return [*digits[:: max(1, every // 4)], *((at, 1 << at // every % 8) for at in range(0, len(data), every))]


def damage_everywhere(path: Path, head: store.CacheHeader, every: int) -> None:
    place = store.Location(path)
    whole = everything(write(path, head, random_rows(head)))
    content = files_of(path)
    refused = same = 0
    for name, data in content.items():
        if every == 1 and name.startswith(("pooled/last", "statistics/last", "tokens/1", "tokens/2")):
            continue  # of the same kind as others
        for at, mask in flips(name, data, every):
            place.put(name, data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :])
            try:
                assert everything(store.open_cache(path)) == whole, f"{name}, byte {at}, mask {mask}"
                same += 1
            except UserError:
                refused += 1
            assert [damage.file for damage in store.verify(place)] == [name], f"{name}, byte {at}, mask {mask}"
        place.put(name, data)
    assert everything(store.open_cache(path)) == whole
    assert refused > same  # what reads as it did is white space, names of dimensions and the list of checksums


DAMAGED = {
    "several": header(poolings=("mean", "last"), token_states=True, storage_type="float16", dim=3),
    "int8": header(storage_type="int8", dim=3),
}


@pytest.mark.parametrize("kind", list(DAMAGED))
def test_a_flipped_bit_is_refused_or_changes_nothing_and_is_always_named(tmp_path: Path, kind: str) -> None:
    damage_everywhere(tmp_path / "c", DAMAGED[kind], every=97)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", list(DAMAGED))
def test_a_flipped_bit_anywhere_in_the_metadata_is_refused_or_changes_nothing(tmp_path: Path, kind: str) -> None:
    damage_everywhere(tmp_path / "c", DAMAGED[kind], every=1)


def test_sha256sum_checks_a_cache(tmp_path: Path) -> None:
    write(tmp_path / "c", header(**ALL), random_rows(header()))
    listed = set(files_of(tmp_path / "c")) - {"SHA256SUMS"}

    def check() -> subprocess.CompletedProcess[str]:
        command = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
        return subprocess.run(command, cwd=tmp_path / "c", capture_output=True, text=True)

    intact = check()
    assert intact.returncode == 0, intact.stderr
    assert {line.removesuffix(": OK") for line in intact.stdout.splitlines()} == listed
    shard = tmp_path / "c/pooled/mean/c/1/0/0"
    shard.write_bytes(shard.read_bytes() + b"\0")
    assert "pooled/mean/c/1/0/0: FAILED" in check().stdout


def test_a_record_reads_as_it_was_written_or_not_at_all(tmp_path: Path) -> None:
    head = header(texts=3)
    record = store.write_shard(store.Location(tmp_path), head, 0, shard_rows(head, 0, random_rows(head)))
    data = store.record_to_json(record)
    assert store.record_from_json(data) == record
    for at in range(len(data)):
        for mask in (1, 0x80):
            damaged = store.record_from_json(data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :])
            assert damaged in (None, record)
    for broken in (b"", b"[]", b"3", b"{}", data[:-1], data[: len(data) // 2]):
        assert store.record_from_json(broken) is None


def test_damaged_metadata_is_put_back(tmp_path: Path) -> None:
    head, place = header(**ALL), store.Location(tmp_path / "c")
    write(tmp_path / "c", head, random_rows(head))
    before = files_of(place.path)
    sums = store.listed_sums(place)
    assert sums is not None
    assert {name: hashlib.sha256(data).hexdigest() for name, data in before.items() if name != "SHA256SUMS"} == sums
    assert store.is_same_cache(sums, head, ids_of(10))
    assert not store.is_same_cache(sums, head, ids_of(11)[1:])
    assert not store.is_same_cache(sums, dataclasses.replace(head, texts=11), ids_of(11))
    for name in ("zarr.json", "pooled/mean/zarr.json", "text_id/c/0/0"):
        place.put(name, b"")
    store.restore_metadata(place, head, ids_of(10))
    assert files_of(place.path) == before
