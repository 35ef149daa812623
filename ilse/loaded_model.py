"""The model of an extraction: a path, a name on the Hub, or a model that is in memory."""

from __future__ import annotations

import filecmp
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ilse.core.errors import UserError


def model_section(model: Any, tokenizer: Any, folder: Path) -> dict[str, Any]:
    """The keys of section `extract.model`. A model in memory is saved to `folder` first, with its tokenizer.

    Raises `UserError` for a model without a tokenizer, and for what is no model.
    """
    if isinstance(model, tuple | list) and len(model) == 2 and tokenizer is None:
        model, tokenizer = model
    if isinstance(model, str | Path):
        from pipeline.fetching.pinning import named_model

        return dict(named_model(model))
    if isinstance(model, dict):
        return model
    if not (hasattr(model, "save_pretrained") and hasattr(model, "config")):
        raise _refused(f"a {type(model).__name__}", "give a path, owner/name of the Hub, or model=(model, tokenizer)")
    if not hasattr(tokenizer, "save_pretrained"):
        raise _refused("a model without its tokenizer", "give both: model=(model, tokenizer)")
    return {"path": str(_saved(model, tokenizer, folder))}


def _saved(model: Any, tokenizer: Any, folder: Path) -> Path:
    """The folder, with the model in it. The files of the same model stay as they are."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as work:
        new = Path(work, folder.name)
        model.save_pretrained(new, safe_serialization=True)
        tokenizer.save_pretrained(new)
        if folder.is_dir():
            if _same(folder, new):
                return folder
            raise UserError(
                f"model {folder}",
                expected="the model of an earlier extraction, or none",
                found="another model",
                next_step="extract into another folder: out=…",
            )
        shutil.move(new, folder)
    return folder


def _same(a: Path, b: Path) -> bool:
    names = sorted(path.name for path in a.iterdir())
    return names == sorted(path.name for path in b.iterdir()) and not any(filecmp.cmpfiles(a, b, names, False)[1:])


def _refused(found: str, next_step: str) -> UserError:
    return UserError("extract(), model", expected="a language model", found=found, next_step=next_step)
