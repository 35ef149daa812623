"""Training as a library: one head from a folder of tables and cache, as `pipeline.extract` or the stages make it.

from trainer import fit
head = fit("data", "weighted")
head.facts.val_score
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ilse.destinations import require_writable
from ilse.errors import UserError
from ilse.files import replacing_folder
from ilse.ours import HEAD
from ilse.params import validate
from ilse.tables import CACHE_FOLDER, EXAMPLES_FILE
from pipeline.store import open_cache
from trainer.artifact import TrainedHead, save_head
from trainer.config import TrainParams
from trainer.heads import head_kind
from trainer.task import open_task
from trainer.train import HeadTrainer


def fit(
    data: str | Path,
    head: str = "weighted",
    *,
    options: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    **others: Any,
) -> TrainedHead:
    """Trains one head on the folder's training examples, as `ilse train` does with this seed; validation chooses.

    Parameters
    ----------
    data
        The folder with `examples.parquet` and `cache.zarr`.
    head, options, recipe
        The head's name, its options as under `train.options`, and how it is trained, as under `train.recipe`.
    seed
        Of weights, batches and drawn examples.
    out
        A folder to save the head in, for `Predictor.load`, `ilse predict` and `ilse export`.
    others
        Further keys of the section `train`, such as `shots=8` or `objective="ordinal"`.

    Returns
    -------
    TrainedHead
        Rows of the cache in, outputs out; `facts` says what it was trained on and its validation figure.

    Raises
    ------
    UserError
        For an unknown head or key, and whatever `ilse train` refuses.
    """
    head_kind(head)
    for key in others.keys() & {"heads", "seeds"}:
        raise UserError("fit()", expected="a head and a seed", found=f"'{key}'", next_step="call it for each of them")
    own = {"heads": [head], "seeds": 1, "recipe": dict(recipe or {}), "options": {head: dict(options or {})}}
    params = validate("train", TrainParams, {**others, **own}, where="fit()")
    if out is not None:
        require_writable(Path(out), HEAD, "out")
    task = open_task(open_cache(Path(data) / CACHE_FOLDER), Path(data) / EXAMPLES_FILE)
    _, trained = HeadTrainer(task, params, head).of_seed(seed)
    if out is not None:
        with replacing_folder(Path(out), HEAD, "out") as folder:
            save_head(folder, trained)
    return trained.eval()
