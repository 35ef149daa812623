"""A cache is told from any other folder, here and in an object store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import zarr

from ilse.core.errors import UserError
from ilse.core.files.ownership import CACHE
from pipeline.store import Location, text_id_rows
from pipeline.work.standing import standing
from tests.pipeline.caches import header, ids_of, random_rows, write


@pytest.mark.parametrize(
    "capture",
    [{}, {"storage_type": "int8"}, {"token_states": True, "poolings": ("mean", "last"), "storage_type": "bfloat16"}],
    ids=["float16", "int8", "tokens"],
)
def test_a_cache_of_any_kind_is_ours_until_something_is_put_into_it(capture: dict[str, Any], tmp_path: Path) -> None:
    head = header(**capture)
    write(tmp_path / "c", head, random_rows(head))
    assert CACHE.foreign(tmp_path / "c") is None
    (tmp_path / "c" / ".DS_Store").touch()
    (tmp_path / "c" / "zarr.json").unlink()
    assert CACHE.foreign(tmp_path / "c") is None, "what damage left of it"
    for name in ("thesis.txt", "pooled/thesis.txt", "pooled/mean/c/0/thesis", "text_id/c/1.txt", ".git/HEAD"):
        (tmp_path / "c" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "c" / name).touch()
        assert CACHE.foreign(tmp_path / "c") == f"{name!r}, which is not part of a cache"
        (tmp_path / "c" / name).unlink()


def test_a_link_within_a_folder_is_its_owners_but_where_a_store_made_it(tmp_path: Path) -> None:
    head = header()
    write(tmp_path / "c", head, random_rows(head))
    sums = tmp_path / "c" / "SHA256SUMS"
    stored = tmp_path / "store" / "0123456789abcdef0123456789abcdef"  # as DVC's links lead
    stored.parent.mkdir()
    for name, found in ((stored, None), (tmp_path / "store" / "mine", "'SHA256SUMS', a link")):
        sums.rename(name)
        sums.symlink_to(name)
        assert CACHE.foreign(tmp_path / "c") == found
        name.rename(sums)


def test_another_zarr_group_is_not_ours(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "g")
    assert CACHE.foreign(tmp_path / "g") == "'zarr.json', which is not part of a cache"
    group.create_array("pooled", shape=(2,), dtype="f4")[...] = 1
    assert CACHE.foreign(tmp_path / "g") is not None


@pytest.mark.parametrize("name", ["thesis.txt", "zarr.json", "pooled/thesis.txt"])
def test_a_prefix_of_other_things_is_not_written_to(bucket: Location, name: str) -> None:
    bucket.put(name, b"{}")
    with pytest.raises(UserError, match=r"destination s3:(.|\n)*name another URL"):
        standing(bucket, header(), text_id_rows(ids_of(10)))
    assert [(name, bucket.get(name)) for name, _ in bucket.list()] == [(name, b"{}")]
