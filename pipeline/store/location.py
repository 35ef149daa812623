"""Locations of caches: a folder on disk, or a prefix in an object store (s3://, gs://, az://) through obstore.

Every write puts one whole file in one step, so that nothing depends on renaming folders. Credentials come from the
environment alone; a URL that carries any is refused, and no error repeats one.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt
from zarr.abc.store import Store
from zarr.storage import LocalStore

from ilse.core.errors import UserError
from ilse.core.files.json_files import own_path, plain_file
from ilse.core.secrets import holds_secrets, remember, without_secrets

PARTIAL = ".partial"
"""Ending of a local file that is being written; a killed writer leaves it, and `Location.sweep` removes it."""

# Carries a call through some ten seconds of errors at the least, half a minute in the middle; then it fails.
_RETRIES: Any = {
    "max_retries": 10,
    "backoff": {"init_backoff": timedelta(seconds=0.5), "max_backoff": timedelta(seconds=8), "base": 3},
    "retry_timeout": timedelta(minutes=3),
}
# `timeout` is for a whole request: a shard of 300 MB at 3 MB/s.
_CLIENT = {"timeout": "120s", "connect_timeout": "10s"}
# Of the environment, which obstore leaves unread when it is given options: AWS_ALLOW_HTTP and the like.
_CLIENT_SETTINGS = (*_CLIENT, "allow_http", "allow_invalid_certificates", "proxy_url", "proxy_ca_certificate")
_PREFIXES = {"s3": "AWS_", "s3a": "AWS_", "gs": "GOOGLE_", "az": "AZURE_", "azure": "AZURE_", "abfs": "AZURE_"}


@dataclass(frozen=True)
class Location:
    """A folder or a prefix, by its path or URL."""

    url: str

    def __init__(self, url: str | Path | Location) -> None:
        text = str(url)
        if text.startswith("file://"):
            text = unquote(urlsplit(text).path)
        object.__setattr__(self, "url", text.rstrip("/") if "://" in text else str(Path(text)))
        if not self.is_local:
            _refuse_secrets(self.url)

    def __str__(self) -> str:
        return self.url

    @property
    def is_local(self) -> bool:
        """Whether this is a folder on disk."""
        return "://" not in self.url

    @property
    def path(self) -> Path:
        """The folder of a local one."""
        assert self.is_local
        return Path(self.url)

    def child(self, name: str) -> Location:
        """A folder or prefix inside this one."""
        return Location(f"{self.url}/{name}")

    def sibling(self, ending: str) -> Location:
        """The folder or prefix beside this one, of the same name with `ending`."""
        return Location(f"{self.url}{ending}")

    def get(self, name: str) -> bytes:
        """The bytes of a file. Raises `FileNotFoundError`, or `UserError` where the store can't be read, or where the
        name or a link leads out of it.
        """
        if not self.is_local:
            with self._asking(f"reading {name}") as (obstore, patiently):
                return bytes(patiently(lambda: obstore.get(self._store(), name).bytes()))
        try:
            return self._own(name).read_bytes()
        except NotADirectoryError as error:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), error.filename) from error

    def read_into(self, name: str, parts: Iterable[tuple[int, npt.NDArray[np.uint8]]]) -> None:
        """Fills each array with the bytes of a file from its start on; raises as `get` does.

        Raises `EOFError` where the file ends before.
        """
        if not self.is_local:
            self._fetch_into(name, list(parts))
            return
        with self._own(name).open("rb", buffering=0) as file:
            for start, place in parts:
                file.seek(start)
                if file.readinto(place) < len(place):  # type: ignore[arg-type]
                    raise _ends_before(name, start + len(place))

    def announce(self, name: str, parts: Iterable[tuple[int, int]]) -> None:
        """Has the system fetch parts of a file, (start, bytes), into its memory while this process does other things.

        A hint, for a folder alone: what is wrong with the file is for whoever reads it.
        """
        if not self.is_local or not hasattr(os, "posix_fadvise"):
            return
        with suppress(OSError, UserError), self._own(name).open("rb", buffering=0) as file:
            for start, length in parts:
                os.posix_fadvise(file.fileno(), start, length, os.POSIX_FADV_WILLNEED)

    def _fetch_into(self, name: str, parts: Sequence[tuple[int, npt.NDArray[np.uint8]]]) -> None:
        starts, lengths = [start for start, _ in parts], [len(place) for _, place in parts]
        end = max(map(sum, zip(starts, lengths, strict=True)))
        with self._asking(f"reading {name}") as (obstore, patiently):
            store = self._store()
            if sum(lengths) == end:  # the whole file, in one request
                data = memoryview(patiently(lambda: obstore.get(store, name).bytes()))
                found = [data[start : start + length] for start, length in zip(starts, lengths, strict=True)]
            else:
                if patiently(lambda: obstore.head(store, name)["size"]) < end:  # obstore 0.12 panics when asked
                    raise _ends_before(name, end)
                found = patiently(lambda: obstore.get_ranges(store, name, starts=starts, lengths=lengths))
        for (start, place), data in zip(parts, found, strict=True):
            if len(data) < len(place):
                raise _ends_before(name, start + len(place))
            place[:] = np.frombuffer(data, np.uint8)

    def put(self, name: str, data: bytes, create: bool = False) -> None:
        """Puts `data` at `name` in one step; with `create`, raises `FileExistsError` where there is one already."""
        if not self.is_local:
            with self._asking(f"writing {name}", missing=False) as (obstore, _):
                obstore.put(self._store(), name, data, mode="create" if create else "overwrite")
            return
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.parent / f".{target.name}.{secrets.token_hex(8)}{PARTIAL}"
        try:
            partial.write_bytes(data)
            if create:
                os.link(partial, target)
            else:
                partial.replace(target)
        except OSError as error:
            error.filename = error.filename or str(target)  # a full disk does not say where
            raise
        finally:
            partial.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        """Removes a file, if it is there."""
        if self.is_local:
            (self.path / name).unlink(missing_ok=True)
            return
        with suppress(FileNotFoundError), self._asking(f"deleting {name}") as (obstore, _):
            obstore.delete(self._store(), name)

    def list(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Name and size of every file under the folder `prefix`, in no order.

        Raises `UserError` for a link that leads out of a local one, and for what is no file.
        """
        if not self.is_local:
            with self._asking("listing", missing=False) as (obstore, patiently):
                yield from patiently(
                    lambda: [
                        (entry["path"], entry["size"])
                        for page in obstore.list(self._store(), prefix or None)
                        for entry in page
                    ]
                )
            return
        for folder, folders, names in os.walk(self.path / prefix, onerror=_unless_missing):
            inside = Path(folder).relative_to(self.path)
            for name in folders:
                self._own((inside / name).as_posix())
            for name in names:
                if not name.endswith(PARTIAL):
                    file = (inside / name).as_posix()
                    yield file, self._own(file).stat().st_size

    def _own(self, name: str) -> Path:
        try:
            path = own_path(self.path, name)
            # A folder in a file's place is damage, which whoever reads it is told by the system.
            return path if path.is_dir() else plain_file(path, name)
        except FileNotFoundError:
            if (self.path / name).is_symlink():
                raise _foreign(self, f"{name}, a link to nowhere") from None
            raise
        except (ValueError, RuntimeError) as error:  # RuntimeError: a link to itself
            raise _foreign(self, str(error)) from None

    def sweep(self) -> None:
        """Removes what killed writers left half-written."""
        if self.is_local:
            for folder, _, names in os.walk(self.path):
                for name in names:
                    if name.endswith(PARTIAL):
                        Path(folder, name).unlink(missing_ok=True)

    def zarr_store(self) -> Store:
        """What zarr reads from."""
        if self.is_local:
            return LocalStore(self.path, read_only=True)
        with self._asking("opening"):
            from pipeline.store.patience import PatientStore

            return PatientStore(self._store(), read_only=True)

    def refusal(self, error: Exception, doing: str) -> UserError | None:
        """What to say of an error when it is one of the object store's own, without what it repeats of secrets."""
        if not type(error).__module__.startswith("obstore"):
            return None
        return UserError(
            f"{self}, {doing}",
            expected="an object store that answers",
            found=without_secrets(_in_short(error)),
            next_step="check the address, the credentials in the environment and the network, then run the same "
            "command again; finished work is kept",
        )

    def _store(self) -> Any:
        prefix = _PREFIXES.get(urlsplit(self.url).scheme, "-")
        return _object_store(self.url, prefix, tuple(item for item in os.environ.items() if item[0].startswith(prefix)))

    @contextmanager
    def _asking(self, doing: str, missing: bool = True) -> Iterator[Any]:
        """Yield obstore and `patiently` for one call; what goes wrong inside becomes the error of a file system.

        Without `missing`, what the store does not find can only be the bucket.
        """
        try:
            import obstore

            from pipeline.store.patience import patiently
        except ModuleNotFoundError as error:
            raise UserError(
                f"cache {self}",
                expected="the packages of the extra 'remote'",
                found=f"no package '{error.name}'",
                next_step="pip install 'ilse-cache[remote]'",
            ) from error
        from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError

        try:
            yield obstore, patiently
        except AlreadyExistsError:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self)) from None
        except (FileNotFoundError, NotFoundError):
            if not missing:
                raise _no_bucket(self, doing) from None
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self)) from None
        except BaseError as error:
            # The cause would carry what the message leaves out into every traceback.
            raise self.refusal(error, doing) or error from None


@functools.lru_cache(maxsize=32)
def _object_store(url: str, prefix: str, environment: tuple[tuple[str, str], ...]) -> Any:
    """A client of the store, which keeps its connections; a changed `environment` makes another one."""
    from obstore.store import from_url

    given = {name.removeprefix(prefix).lower(): value for name, value in environment}
    options: Any = _CLIENT | {name: given[name] for name in _CLIENT_SETTINGS if name in given}
    return from_url(url, retry_config=_RETRIES, client_options=options)


def _ends_before(name: str, byte: int) -> EOFError:
    return EOFError(f"{name} ends before byte {byte:,}")


def _foreign(location: Location, found: str) -> UserError:
    return UserError(
        f"cache {location}",
        expected="plain files of its own",
        found=found,
        next_step="use it only if you trust who made it, and then copy it with the files that its links name (cp -rL)",
    )


def _no_bucket(location: Location, doing: str) -> UserError:
    return UserError(
        f"{location}, {doing}",
        expected="a bucket or container of this name",
        found="none",
        next_step="create it, or correct the URL",
    )


def _in_short(error: Exception) -> str:
    """The first line of an error, and the code in the XML of the server's answer."""
    text = str(error)
    first = (text.splitlines() or [type(error).__name__])[0].split(": <?xml")[0]
    code = re.search(r"<Code>(\w+)</Code>", text)
    return first[:300] + (f" ({code[1]})" if code else "")


def _unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error


def _refuse_secrets(url: str) -> None:
    if holds_secrets(url):
        remember(url)
        raise UserError(
            f"cache {url}",
            expected="a URL without credentials",
            found="one with a user, a password, a query or a fragment",
            next_step="put credentials into the environment (AWS_ACCESS_KEY_ID, …) and remove them from the URL",
        )
