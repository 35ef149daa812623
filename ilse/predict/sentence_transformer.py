"""A trained head over its model as a folder that sentence-transformers loads.

    export(Predictor.load("models/cayley/seed-0", model), "out/cayley")
    load("out/cayley").encode(texts)                                       # Predictor.embed

The folder holds the head, and the model's files or, for one of the Hub, its id and commit; no code. Its only module is
this package's `HeadModule`, so whoever loads it has ilse-cache installed. From release 6 on, sentence-transformers
imports classes of other packages by name only with `SentenceTransformer(folder, trust_remote_code=True)`; `load` gives
it the module itself, and needs no such leave.
"""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule
from sentence_transformers.util import load_dir_path

from ilse.core.errors import UserError
from ilse.core.files.atomic import replacing_folder, require_ours, write_json, write_text
from ilse.core.files.json_files import own_file, own_path, read_json
from ilse.core.files.ownership import EXPORT
from ilse.predict.capture import Capture
from ilse.predict.command import configured
from ilse.predict.predictor import Predictor
from pipeline.config import ModelParams
from pipeline.model.identity import model_files
from pipeline.model.quiet import quietly
from trainer.artifacts.artifact import load_head, require_one_model, save_head
from trainer.artifacts.best_seed import best_seed

HEAD, MODEL, REFERENCE = "head", "model", "model.json"
"""Files in the module's folder: the head's artifact, the model's files, and which of them to load."""
TO = "export to sentence-transformer"
INSTEAD = "take the vectors from Predictor.embed, or export a head on one cache"
README = """A trained head over a frozen language model, exported by ilse-cache. It holds no code.

    from ilse.predict.sentence_transformer import load
    load("this folder").encode(texts)

or, with ilse-cache installed, SentenceTransformer("this folder", trust_remote_code=True): the class that this names is
ilse-cache's own.
"""


class HeadModule(InputModule):
    """The one module of such a folder: texts in, vectors out."""

    save_in_root = False

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.predictor = predictor

    def preprocess(self, inputs: list[str], prompt: str | None = None, **_others: Any) -> dict[str, Any]:
        """The texts as they are, behind the prompt if there is one."""
        return {"texts": [(prompt or "") + text for text in inputs]}

    def forward(self, features: dict[str, Any], **_others: Any) -> dict[str, Any]:
        """Adds `sentence_embedding`, [texts, width]."""
        return {**features, "sentence_embedding": torch.from_numpy(self.predictor.embed(features["texts"]))}

    def get_embedding_dimension(self) -> int:
        """Width of the vectors."""
        return self.predictor.width

    def save(self, output_path: str, *_args: Any, **_others: Any) -> None:
        """Writes the head, and a copy of a local model."""
        require_one_model(self.predictor.trained, TO, INSTEAD)
        assert isinstance(self.predictor.capture, Capture)
        folder, model = Path(output_path), self.predictor.capture.model
        save_head(folder / HEAD, self.predictor.trained)
        write_json(folder / REFERENCE, _copied(model, folder / MODEL))

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **others: Any) -> HeadModule:
        """Loads the module from a folder or a Hub repository. Raises `UserError` as `Predictor.load` does."""
        names = {"token", "cache_folder", "revision", "local_files_only"} & others.keys()
        found = load_dir_path(model_name_or_path, subfolder, **{name: others[name] for name in names})
        folder = Path(found or "")
        return cls(Predictor.load(folder / HEAD, _reference(folder)))


def export(predictor: Predictor, folder: str | Path) -> None:
    """Writes the folder, whole or not at all; vectors are compared by their cosine."""
    require_one_model(predictor.trained, TO, INSTEAD)
    with replacing_folder(Path(folder), EXPORT, "--out") as new:
        _around(HeadModule(predictor)).save(str(new), create_model_card=False)
        write_text(new / "README.md", README)


@quietly()
def export_folder(head: Path, out: Path, model: Path | None, params: Path) -> None:
    """`ilse export HEAD --to sentence-transformer`; model and errors are those of `ilse predict`."""
    require_ours(out, EXPORT, "--out")
    head = best_seed(head)
    trained = load_head(head)
    require_one_model(trained, TO, INSTEAD)
    export(Predictor.load(head, model or configured(trained, params)), out)


def load(folder: str | Path) -> SentenceTransformer:
    """Loads what `export` wrote. Raises `UserError` for another folder, and as `Predictor.load` does."""
    return _around(HeadModule.load(str(folder), f"0_{HeadModule.__name__}"))


def _around(module: HeadModule) -> SentenceTransformer:
    return SentenceTransformer(modules=[module], similarity_fn_name="cosine", device="cpu")


def _copied(model: ModelParams, folder: Path) -> dict[str, Any]:
    """Copies a local model's files, and says where the model is; leave to run its code is not passed on."""
    if model.path is None:
        return {"hub": str(model.hub), "revision": str(model.revision)}
    folder.mkdir()
    files = model_files(model)
    for file in files:
        shutil.copyfile(file, folder / file.name)
    return {
        "path": MODEL if model.path.is_dir() else f"{MODEL}/{model.path.name}",
        "files": [file.name for file in files],  # what may go when the folder is replaced (`ilse.core.files.ownership`)
    }


def _reference(folder: Path) -> ModelParams:
    try:
        values = read_json(own_file(folder, REFERENCE))
        if "path" in values:
            parts = PurePosixPath(values["path"]).parts
            if parts[0] != MODEL or ".." in parts:
                raise ValueError(f"a path outside of it, {values['path']}")
            return ModelParams.model_validate({"path": own_path(folder, str(PurePosixPath(*parts)))})
        return ModelParams.model_validate({name: values[name] for name in ("hub", "revision")})
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"exported head {folder}",
            expected=f"a folder as 'export' wrote it, with {REFERENCE}",
            found=" ".join(str(error).split())[:200],
            next_step="export the head again",
        ) from error
