"""`ilse init`: the parameter file and the stages of a new project, from the templates that come with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from ilse.core.errors import MissingError, UserError
from ilse.core.files.atomic import replacing, write_text
from ilse.core.files.destinations import require_writable
from ilse.core.yaml_edit import set_values
from pipeline.fetching.pinning import named_model

FETCHED = Path("data/raw/model")
"""Where `ilse fetch model` brings a model of the Hub."""
PARAMS, STAGES = "params.yaml", "dvc.yaml"
KEPT = {".gitignore": "gitignore", ".dvcignore": "dvcignore"}
"""Files that a project may have before: file → template. One that is there stays as it is."""


def start(
    folder: Path, data: Path | None = None, model: str | Path | None = None, columns: dict[str, str] | None = None
) -> list[str]:
    """Writes the files of a new project into `folder`, and returns their names.

    Parameters
    ----------
    data, model
        The data set and the model, absolute or relative to `folder`; without one its path is left to fill in. A model
        may also be `owner/name` of the Hugging Face Hub, perhaps with `@revision`: `ilse fetch model` then brings it,
        pinned to the commit that the name stands for now.
    columns
        Keys of section `prepare` → columns of the data set, such as `{"text_column": "review"}`.

    Raises
    ------
    UserError
        Where the folder has a parameter file or stages already, or data or model are not there; nothing is written.
    """
    for name in (PARAMS, STAGES):
        if (folder / name).exists() and not _begun(folder / name):
            raise UserError(
                f"file {folder / name}",
                expected="none yet: 'ilse init' starts a new project",
                found="one that is there",
                next_step="change it by hand, or go to an empty folder",
            )
    named = {} if model is None or (folder / model).exists() else named_model(str(model))
    place = FETCHED if named else None if model is None else Path(model)
    for option, path in (("--data", data), ("--model", None if named else place)):
        if path is not None and not (folder / path).exists():
            raise MissingError(
                f"{option} {path}", expected="a file or folder", found="nothing there", next_step="correct the path"
            )
    for name in KEPT:
        require_writable(folder / name, "file", "another folder for the project")
    kept = {name: template for name, template in KEPT.items() if not (folder / name).exists()}
    for name, template in ({STAGES: STAGES} | kept).items():
        write_text(folder / name, _template(template) + (_ignored(place) if name == ".gitignore" else ""))
    with replacing(folder / PARAMS) as new:  # last, and whole: a folder with it has been started
        new.write_text(_template(PARAMS), encoding="utf-8")
        set_values(new, "prepare", ({"path": str(data)} if data else {}) | (columns or {}))
        set_values(new, "extract.model", {"path": str(place)} if place else {})
        if named:
            artifact = {"kind": "hub", "repo_id": named["hub"], "revision": named["revision"]}
            set_values(new, f"fetch.{FETCHED.name}", artifact)
    return [PARAMS, STAGES, *kept]


def _begun(path: Path) -> bool:
    """Whether an earlier start that was interrupted wrote it: the parameter file comes last."""
    alone = path.name == STAGES and not path.with_name(PARAMS).exists()
    return alone and path.is_file() and path.read_bytes() == _template(STAGES).encode()


def _ignored(model: Path | None) -> str:
    """The line that keeps a model in the project's folder, gigabytes often, out of git."""
    inside = model is not None and not model.is_absolute() and ".." not in model.parts
    return f"/{model.as_posix()}\n" if model is not None and inside else ""


def _template(name: str) -> str:
    return (files("pipeline") / "templates" / name).read_text(encoding="utf-8")
