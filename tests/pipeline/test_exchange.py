"""Whole files in the wrong place: of another cache, shard, pooling or piece of work. None passes for what it is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ilse.core.errors import UserError
from pipeline import store
from pipeline.stages.extract import extract
from pipeline.stages.subset import Selection, subset
from tests.pipeline.caches import files_of, header, ids_of, random_rows, write
from tests.pipeline.conftest import sentence
from tests.pipeline.extractions import params_for
from tests.pipeline.test_damage import everything

ALL: dict[str, Any] = {"poolings": ("mean", "last"), "token_states": True}
KINDS: dict[str, dict[str, Any]] = {"several": ALL, "int8": {"poolings": ("mean", "last"), "storage_type": "int8"}}


def pair(folder: Path, **capture: Any) -> tuple[Path, Path]:
    """Two caches of one capture and one shape, of other texts with other rows."""
    head = header(**capture)
    for name, seed, first in (("a", 0, 0), ("b", 1, 40)):
        write(folder / name, head, random_rows(head, seed), ids=ids_of(60)[first : first + 10])
    return folder / "a", folder / "b"


def exchange(one: Path, other: Path) -> None:
    """Each in the other's place."""
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_file_of_another_cache_is_refused_or_changes_nothing(tmp_path: Path, kind: str) -> None:
    """File after file: shards, scales, token states, list of texts, index, header, list of checksums."""
    a, b = pair(tmp_path, **KINDS[kind])
    whole, refused = everything(store.open_cache(a)), set()
    own, other = files_of(a), files_of(b)
    for name in own:
        if own[name] == other[name]:
            continue
        (a / name).write_bytes(other[name])
        try:
            assert everything(store.open_cache(a)) == whole, name
        except UserError:
            refused.add(name)
        (a / name).write_bytes(own[name])
    others = {name for name in own if own[name] != other[name]}
    # The header's notes and the shape of token states say nothing of values.
    assert {name for name in others if "/c/" in name or name == "SHA256SUMS"} == refused


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("int8", "pooled/mean/c/0/0/0", "pooled/mean/c/1/0/0"),
        ("several", "pooled/mean/c/0/0/0", "pooled/last/c/0/0/0"),
        ("int8", "scale/mean/c/0/0/0", "scale/mean/c/1/0/0"),
        ("int8", "scale/mean/c/0/0/0", "scale/last/c/0/0/0"),
        ("several", "statistics/mean/c/0/0", "statistics/last/c/0/0"),
    ],
)
def test_two_files_of_one_cache_are_not_exchanged_unseen(tmp_path: Path, kind: str, one: str, other: str) -> None:
    a, _ = pair(tmp_path, **KINDS[kind])
    exchange(a / one, a / other)
    with pytest.raises(UserError, match="other values than were written for these texts"):
        everything(store.open_cache(a))
    if one.startswith("statistics"):  # a smaller cache has its own
        return
    with pytest.raises(UserError, match="other values than were written for these texts"):
        subset(str(a), tmp_path / "small", Selection(layers=(0, 1, 2)))
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize(
    "states", [True, *(store.TokenSpec(("block 0", "block 1", "block 2"), None, kind) for kind in store.SCALED)]
)
def test_token_states_of_as_many_tokens_are_not_exchanged_unseen(tmp_path: Path, states: Any) -> None:
    """All pieces of such a file end with their own CRC-32C: then that of the whole is the same whatever it holds."""
    write(tmp_path / "a", header(token_states=states, shard_rows=5), random_rows(header()))
    one, other = tmp_path / "a/tokens/0/c", tmp_path / "a/tokens/1/c"
    (one,), (other,) = ([path for path in folder.rglob("*") if path.is_file()] for folder in (one, other))
    assert one.stat().st_size == other.stat().st_size
    exchange(one, other)
    for read in (lambda: store.open_cache(tmp_path / "a").shard_tokens(0),
                 lambda: store.open_cache(tmp_path / "a").token_states(7, [1])):  # fmt: skip
        with pytest.raises(UserError, match="other values than were written for these texts"):
            read()


def test_statistics_are_of_these_texts_by_a_list_of_these_texts(tmp_path: Path) -> None:
    a, b = pair(tmp_path, **ALL)
    for name in ("statistics/mean/c/0/0", "SHA256SUMS"):
        shutil.copy(b / name, a / name)
    with pytest.raises(UserError, match="array 'statistics/mean' of other values"):
        store.open_cache(a).statistics("mean")


def test_one_layer_of_a_foreign_shard_is_refused_where_it_alone_is_read(tmp_path: Path) -> None:
    a, b = pair(tmp_path)
    shutil.copy(b / "pooled/mean/c/1/0/0", a / "pooled/mean/c/1/0/0")
    cache = store.open_cache(a)
    cache.read(slice(0, 4), [2])
    with pytest.raises(UserError, match=r"rows 4 to 8(.|\n)*pooled/mean/c/1/0/0"):
        cache.read(slice(5, 6), [2])


def test_the_header_of_another_model_does_not_name_these_rows(tmp_path: Path) -> None:
    a, _ = pair(tmp_path)
    head = header(model={"sha256": "another"})
    write(tmp_path / "c", head, random_rows(head))
    shutil.copy(tmp_path / "c/zarr.json", a / "zarr.json")
    with pytest.raises(UserError, match="'text_id' of other values"):
        store.open_cache(a).read(slice(0, 4))


def without_binding(cache: Path) -> Path:
    """As earlier releases wrote it."""
    shutil.rmtree(cache / "binding")
    sums = store.listed_sums(store.Location(cache))
    assert sums is not None
    from pipeline.store.layout import sums_file

    kept = {name: digest for name, digest in sums.items() if not name.startswith("binding/")}
    (cache / "SHA256SUMS").write_bytes(sums_file(kept))
    return cache


def test_a_cache_without_a_binding_is_proven_by_its_list_alone(tmp_path: Path) -> None:
    head = header(**ALL)
    cache = write(tmp_path / "a", head, random_rows(head))
    a, whole = without_binding(tmp_path / "a"), everything(cache)
    assert everything(store.open_cache(a)) == whole
    assert everything(store.open_proven(a)) == whole
    assert list(store.verify(store.Location(a))) == []
    subset(str(a), tmp_path / "small", Selection(layers=(0,)))
    exchange(a / "pooled/mean/c/0/0/0", a / "pooled/mean/c/1/0/0")
    for refused in (
        lambda: store.open_proven(a).read(slice(0, 4)),
        lambda: subset(str(a), tmp_path / "small", Selection(layers=(0,))),
    ):
        with pytest.raises(UserError, match=r"pooled/mean/c/0/0/0(.|\n)*list of checksums(.|\n)*other bytes"):
            refused()
    (a / "SHA256SUMS").unlink()
    with pytest.raises(UserError, match="SHA256SUMS, which says what its shards belong to"):
        store.open_proven(a)


TEXTS, SHARD = 24, "pooled/mean/c/1/0/0"


class Project:
    """Two caches of one capture, of other texts, in a folder or a bucket; `out` is the first."""

    def __init__(self, model: Path, table: Callable[..., Path], folder: Path, place: str, made: Path) -> None:
        self.model, self.folder, self.table = model, folder, table
        self.out, self.other = store.Location(f"{place}/cache.zarr"), store.Location(f"{place}/other.zarr")
        for first, cache in ((0, self.out), (100, self.other)):
            own = store.Location(made / f"{first}.zarr")
            if not own.path.exists():  # for all tests
                self.extract(own, first)
            for name, _ in own.list():
                cache.put(name, own.get(name))
        self.whole = self.files(self.out)
        shutil.rmtree(folder / "scratch", ignore_errors=True)

    def extract(self, out: store.Location, first: int = 0, count: int = TEXTS, **changes: Any) -> dict[str, Any]:
        texts = self.table(0, [f"{sentence(i)} {' '.join(str(i))}" for i in range(first, first + count)])
        return extract(params_for(self.model, **changes), texts, str(out), self.folder / "scratch")

    @staticmethod
    def files(place: store.Location) -> dict[str, bytes]:
        return {name: place.get(name) for name, _ in place.list()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the two caches are kept for all tests."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def local(llama: Path, texts_table: Callable[..., Path], tmp_path: Path, made: Path) -> Project:
    """A project in a folder."""
    return Project(llama, texts_table, tmp_path, str(tmp_path), made)


@pytest.fixture(params=["a folder", "an object store"])
def project(
    request: pytest.FixtureRequest, llama: Path, texts_table: Callable[..., Path], tmp_path: Path, made: Path
) -> Project:
    """A project in either place."""
    place = tmp_path if request.param == "a folder" else request.getfixturevalue("bucket")
    return Project(llama, texts_table, tmp_path, str(place), made)


def test_repair_does_not_sign_a_shard_of_another_cache(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    """An interrupted copy between two versions."""
    project.out.put(SHARD, project.other.get(SHARD))
    assert [damage.file for damage in store.verify(project.out)] == [SHARD]
    capsys.readouterr()
    assert project.extract(project.out)["texts_computed"] == 8
    assert project.files(project.out) == project.whole
    said = capsys.readouterr().err
    assert f"donor {project.out}: 1 of its shards are not as its list of checksums says" in said
    assert f"shard 1 ({SHARD}: other bytes)" in said


def test_a_named_donor_with_two_shards_exchanged_lends_neither(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    donor, new = project.out, store.Location(f"{project.out}.new")
    one, other = donor.get("pooled/mean/c/0/0/0"), donor.get("pooled/mean/c/2/0/0")
    donor.put("pooled/mean/c/0/0/0", other)
    donor.put("pooled/mean/c/2/0/0", one)
    assert project.extract(new, donors=[str(donor)])["texts_computed"] == 16
    assert project.files(new) == project.whole
    assert f"donor {donor}: 2 of its shards" in capsys.readouterr().err


@pytest.mark.parametrize("exchanged", ["text_id/c/0/0", "SHA256SUMS", "binding/c/0/0", "zarr.json"])
def test_repair_with_a_foreign_file_of_what_binds_keeps_the_right_rows(local: Project, exchanged: str) -> None:
    local.out.put(exchanged, local.other.get(exchanged))
    local.out.put(SHARD, local.other.get(SHARD))
    assert local.extract(local.out)["texts_computed"] == 8
    assert local.files(local.out) == local.whole


def test_a_donor_whose_texts_are_anothers_is_refused(local: Project, capsys: pytest.CaptureFixture[str]) -> None:
    local.out.put("text_id/c/0/0", local.other.get("text_id/c/0/0"))
    with pytest.raises(UserError, match=r"'text_id' of other values|text_id/c/0/0(.|\n)*other bytes"):
        local.extract(store.Location(local.folder / "new.zarr"), first=100, donors=[str(local.out)])
    # The cache that is replaced is no named one: it lends nothing, and the run says so.
    assert local.extract(local.out, first=100, count=TEXTS + 1)["texts_computed"] == TEXTS + 1
    assert f"donor {local.out} lends nothing" in capsys.readouterr().err


def interrupted(project: Project, first: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The unfinished work on texts from `first` on, with all shards recorded."""

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            project.extract(store.Location(project.folder / "new.zarr"), first=first)
    (record,) = (project.folder / "scratch").glob("*-*/records/1.json")
    return record.parent.parent


@pytest.mark.parametrize("names", [("cache.zarr/" + SHARD,), ("cache.zarr/" + SHARD, "records/1.json"), ()])
def test_unfinished_work_of_other_texts_is_not_gone_on_with(
    local: Project, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    """A shard, with its record, or all of the work under another's name."""
    foreign = interrupted(local, 100, monkeypatch)
    foreign = foreign.rename(local.folder / "foreign")
    own = interrupted(local, 0, monkeypatch)
    for name in names:
        shutil.copy(foreign / name, own / name)
    if not names:
        shutil.rmtree(own)
        foreign.rename(own)
    new = store.Location(local.folder / "new.zarr")
    assert local.extract(new)["texts_computed"] == (8 if names else TEXTS)
    assert local.files(new) == local.whole


def test_records_of_two_shards_are_not_exchanged(local: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    own = interrupted(local, 0, monkeypatch)
    exchange(own / "records/0.json", own / "records/2.json")
    exchange(own / "cache.zarr/pooled/mean/c/0/0/0", own / "cache.zarr/pooled/mean/c/2/0/0")
    assert json.loads((own / "records/0.json").read_bytes())["shard"] == 2
    new = store.Location(local.folder / "new.zarr")
    assert local.extract(new)["texts_computed"] == 16
    assert local.files(new) == local.whole


def test_rows_of_another_text_are_not_recorded(tmp_path: Path) -> None:
    """The last door: a record of other texts does not finish a cache."""
    head, place = header(texts=8), store.Location(tmp_path / "c")
    store.create(place, head, ids_of(8))
    rows = store.ShardRows(ids_of(48)[40:44], [1] * 4, [False] * 4, {"mean": np.ones((4, 3, 5), np.float32)})
    records = [store.write_shard(place, head, shard, rows) for shard in range(2)]
    with pytest.raises(UserError, match="none of shard 0"):
        store.finish(place, head, ids_of(8), records)
