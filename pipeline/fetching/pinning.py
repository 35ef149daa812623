"""Which model a name means: a file or folder of this machine, or a repository of the Hub at a commit."""

from __future__ import annotations

import re
from pathlib import Path

from ilse.core.errors import MissingError
from ilse.core.network import asking_hub

_REPOSITORY = re.compile(r"(?P<hub>\w[\w.-]*(/\w[\w.-]*)?)(@(?P<revision>\S+))?")
_COMMIT = re.compile("[0-9a-f]{40}")


def named_model(name: str | Path) -> dict[str, str]:
    """The keys of section `extract.model` for a path, or for `owner/name` of the Hub, perhaps with `@revision`.

    A path that exists wins. A repository is pinned to the commit that its branch or tag (`main` without one) has now.
    Raises `UserError` for what is neither, and for what the Hub refuses.
    """
    path = Path(name)
    if path.exists():
        return {"path": str(path)}
    found = _REPOSITORY.fullmatch(str(name))
    if isinstance(name, Path) or found is None or "/" not in found["hub"]:
        raise MissingError(
            f"model {name}",
            expected="a folder in Hugging Face's layout, a GGUF file, or owner/name of the Hugging Face Hub",
            found="no such file or folder",
            next_step="check the path, or name the model as the Hub does",
        )
    revision = found["revision"] or "main"
    return {
        "hub": found["hub"],
        "revision": revision if _COMMIT.fullmatch(revision) else latest_commit(found["hub"], "model", revision),
    }


def latest_commit(repo_id: str, repo_type: str, revision: str = "main") -> str:
    """The commit of a branch or tag, from the Hub. Raises `UserError` where it does not say."""
    from huggingface_hub import HfApi

    with asking_hub(
        f"Hub {repo_type} {repo_id}",
        expected=f"the commit of '{revision}'",
        next_step="check the name, or give the commit (with --revision or after @; the Hub shows it under 'History' of "
        "the files), or a local path",
    ):
        return str(HfApi().repo_info(repo_id, repo_type=repo_type, revision=revision).sha)
