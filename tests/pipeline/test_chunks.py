"""Chunks straight from a file are what zarr reads of it: the same values, and the same refusal of damage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import zarr

from ilse.core.errors import UserError
from pipeline import store
from pipeline.store.chunks import CHECKSUM_BYTES, chunk_bytes, read_chunks, rows_in
from pipeline.store.layout import shard_file
from tests.pipeline.caches import chunks_of, header, random_rows, write

FILE = shard_file("mean", 1)
SOME = [None, (2, 0), (1,)]


def is_read_directly(cache: store.Cache, layers: Sequence[int] | None = None) -> bool:
    wanted = range(len(cache.layers)) if layers is None else layers
    out = np.empty((len(wanted), chunk_bytes(cache.header)), np.uint8)
    return read_chunks(cache.location, cache.header, FILE, wanted, out)


def by_zarr(cache: store.Cache, rows: slice, layers: Sequence[int] | None) -> store.FloatRows:
    """The slow twin: what plain zarr reads of a shard."""
    group, kind = zarr.open_group(cache.path, mode="r"), cache.header.capture.storage_type
    wanted = list(range(len(cache.layers)) if layers is None else layers)
    values = np.asarray(group["pooled/mean"][rows])[:, wanted]  # type: ignore[index]
    shard = rows.start // cache.header.shard_rows
    scales = np.asarray(group["scale/mean"][shard])[wanted] if kind == "int8" else None  # type: ignore[index]
    return store.StoredRows(values, kind, scales).decoded()


@pytest.mark.parametrize("layers", SOME)
@pytest.mark.parametrize("kind", store.STORAGE_TYPES)
def test_the_same_values(tmp_path: Path, kind: str, layers: tuple[int, ...] | None) -> None:
    head = header(storage_type=kind)
    cache = write(tmp_path / "c", head, random_rows(head))
    for shard, rows in enumerate(cache.shards()):  # the last one is short
        np.testing.assert_array_equal(chunks_of(cache, shard, layers), by_zarr(cache, rows, layers))
    assert is_read_directly(cache, layers)


def test_another_pooling_is_another_file(tmp_path: Path) -> None:
    head = header(poolings=("mean", "last"))
    cache = write(tmp_path / "c", head, random_rows(head))
    out = np.empty((3, chunk_bytes(head)), np.uint8)
    cache.read_chunks(0, out, pooling="last")
    np.testing.assert_array_equal(rows_in(out, head).swapaxes(0, 1), cache.read(slice(0, 4), pooling="last"))
    with pytest.raises(UserError, match="pooling 'max'"):
        cache.read_chunks(0, out, pooling="max")


@pytest.mark.parametrize("layers", [None, (2,)])
def test_damage_is_refused(tmp_path: Path, layers: tuple[int, ...] | None) -> None:
    """Every bit of a shard flipped once, and files that are cut, empty or gone: the recorded values or an error."""
    head = header(layers=4, dim=8, storage_type="float16")
    cache = write(tmp_path / "c", head, random_rows(head))
    file = tmp_path / "c" / FILE
    whole, expected = file.read_bytes(), chunks_of(cache, 1, layers)
    refused = 0
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        try:
            np.testing.assert_array_equal(chunks_of(cache, 1, layers), expected)
        except UserError:
            refused += 1
    # All of it is read, or one layer of four and the index.
    assert refused == len(whole) if layers is None else refused > len(whole) / 4
    for damage in (whole[:-5], b""):
        file.write_bytes(damage)
        with pytest.raises(UserError, match=r"rows 4 to 8(.|\n)*ilse verify"):
            chunks_of(cache, 1, layers)
    file.unlink()
    with pytest.raises(UserError, match=r"rows 4 to 8(.|\n)*a chunk that is missing"):
        chunks_of(cache, 1, layers)
    file.write_bytes(whole)
    np.testing.assert_array_equal(chunks_of(cache, 1, layers), expected)


def indexed(data: bytes, places: Sequence[tuple[int, int]]) -> bytes:
    """Chunks with an index of these offsets and lengths, whose checksum fits."""
    index = np.array(places, "<u8").tobytes()
    return data + index + int(google_crc32c.value(index)).to_bytes(CHECKSUM_BYTES, "little")


def test_an_index_that_points_elsewhere_gives_the_recorded_values_or_an_error(tmp_path: Path) -> None:
    head = header()
    cache = write(tmp_path / "c", head, random_rows(head))
    file, size, nothing = tmp_path / "c" / FILE, chunk_bytes(head), 2**64 - 1
    chunks, expected = file.read_bytes()[: 3 * size], chunks_of(cache, 1)
    file.write_bytes(indexed(chunks, [(layer * size, size) for layer in range(3)]))
    assert is_read_directly(cache)
    for second in ((10**9, size), (nothing, nothing), (size, size - 8), (size + 4, size), (2 * size - 8, size)):
        file.write_bytes(indexed(chunks, [(0, size), second, (2 * size, size)]))
        with pytest.raises(UserError, match=r"rows 4 to 8(.|\n)*ilse verify"):
            chunks_of(cache, 1)
    turned = chunks[size:] + chunks[:size]
    file.write_bytes(indexed(turned, [(2 * size, size), (0, size), (size, size)]))
    assert not is_read_directly(cache)
    np.testing.assert_array_equal(chunks_of(cache, 1), expected)


def test_a_chunk_of_fill_values_is_one_that_is_missing(tmp_path: Path) -> None:
    head = header()
    cache = write(tmp_path / "c", head, random_rows(head))
    file, size = tmp_path / "c" / FILE, chunk_bytes(head)
    empty = np.full(4 * 5, np.nan, "<f4").tobytes()
    chunk = empty + int(google_crc32c.value(empty)).to_bytes(CHECKSUM_BYTES, "little")
    data = file.read_bytes()
    file.write_bytes(data[:size] + chunk + data[2 * size :])
    with pytest.raises(UserError, match="a chunk that is missing"):
        chunks_of(cache, 1)
    np.testing.assert_array_equal(chunks_of(cache, 1, [0, 2]), cache.read(slice(4, 8), [0, 2]))
