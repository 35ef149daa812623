"""Heads on the Hugging Face Hub: `push` sends a head with its card, `pull` brings one back and checks it.

Through huggingface_hub, which finds the token (HF_TOKEN, or its own login) and the Hub (HF_ENDPOINT) by itself.
"""

from __future__ import annotations

import re
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download

from ilse.core.errors import MissingError, UserError
from ilse.core.files.atomic import replacing_folder
from ilse.core.files.ownership import PULLED
from ilse.core.network import asking_hub
from ilse.core.secrets import without_secrets
from ilse.predict.card import model_card
from trainer.artifacts.artifact import CONFIG, WEIGHTS, TrainedHead, load_head, require_basis, save_head
from trainer.artifacts.best_seed import best_seed

CARD = "README.md"
FILES = (CONFIG, WEIGHTS, CARD)
"""What a head's repository holds; nothing else is sent, and nothing else is taken."""
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def write_folder(trained: TrainedHead, folder: Path) -> Path:
    """Writes a head with its card to a folder, which it replaces as a whole; returns the folder."""
    require_basis(trained, "a model card, which says how to predict,")
    with replacing_folder(folder, PULLED, "another folder") as new:
        save_head(new, trained)
        name = trained.head.spec.name
        (new / CARD).write_text(str(model_card(trained, name, Path("no results"))), encoding="utf-8")
    return folder


def downloaded(repository: str, missing: Path, **options: Any) -> Path:
    """The folder of the Hub's own cache that holds a repository's head, downloaded where it is not there yet.

    Raises `UserError` for a name that is neither a folder, `missing`, nor a repository, and for what the Hub refuses.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise MissingError(
            f"head {missing}",
            expected="a folder such as models/last/seed-0, or owner/name of the Hugging Face Hub",
            found="no such folder",
            next_step="check the path, or train the head first",
        )
    with _asking(repository):
        return Path(snapshot_download(repository, allow_patterns=list(FILES), **options))


def push(
    head: Path, repository: str, results: Path = Path("results"), dry_run: bool = False, private: bool = False
) -> list[str]:
    """Sends the head in `head` to the Hub in one commit, and returns what to say of it.

    With `dry_run` nothing is asked of the Hub: the lines are the files with their sizes, and the card. Raises
    `UserError` for a damaged head, a name that is no repository's, and what the Hub refuses.
    """
    _require_repository(repository)
    head = best_seed(head)
    trained = load_head(head)
    require_basis(trained, "a model card for the Hub, which says how to predict,")
    place = head.resolve()
    name = place.parent.name if place.name.startswith("seed-") else trained.head.spec.name
    card = str(model_card(trained, name, results)).encode()
    sizes = {CONFIG: (head / CONFIG).stat().st_size, WEIGHTS: (head / WEIGHTS).stat().st_size, CARD: len(card)}
    lines = [f"{size:>12,} bytes  {file}" for file, size in sizes.items()]
    if dry_run:
        return [f"would go to {repository}:", *lines, "", card.decode()]
    contents: dict[str, bytes | Path] = {CONFIG: (head / CONFIG).read_bytes(), WEIGHTS: head / WEIGHTS, CARD: card}
    with _asking(repository):
        api = HfApi()
        api.create_repo(repository, exist_ok=True, private=private or None)
        commit = api.create_commit(
            repository,
            [CommitOperationAdd(file, content) for file, content in contents.items()],
            commit_message=f"{name}, seed {trained.facts.seed}",
        )
    return [f"{repository} at {commit.oid}:", *lines]


def pull(repository: str, out: Path, revision: str | None = None) -> Path:
    """The head of a repository, in the folder `out`, which it replaces as a whole; returns it.

    Raises `UserError` for what the Hub refuses, and as `load_head` does for what is no head; `out` then stays as it
    was.
    """
    _require_repository(repository)
    with replacing_folder(out, PULLED, "OUT") as folder:
        with _asking(repository):
            snapshot_download(repository, revision=revision, allow_patterns=list(FILES), local_dir=folder)
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # the library's own records
        try:
            load_head(folder)
        except UserError as error:
            raise UserError(
                f"head {repository} of the Hub",
                expected=error.expected,
                found=error.found,
                next_step="name another repository or --revision, or tell its owner",
            ) from error
    return out


def _asking(repository: str) -> AbstractContextManager[None]:
    return asking_hub(
        f"repository {repository} of the Hub",
        expected="a repository that may be read, or to push to, written",
        next_step="check the name and HF_TOKEN",
    )


def _require_repository(name: str) -> None:
    if not _REPOSITORY.fullmatch(name):
        raise UserError(
            f"repository '{without_secrets(name)[:80]}'",
            expected="owner/name",
            found="another form",
            next_step="name it as the Hub does, without an address before it",
        )
