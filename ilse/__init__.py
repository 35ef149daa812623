"""Cache every layer of a frozen language model once, then train small heads over all layers anywhere.

    import ilse

    cache = ilse.extract(frame, model="path/or/hub-id")       # every layer of every text, once
    head = ilse.fit(cache, head="linear")                     # from the cache alone
    ilse.compare([head, ilse.fit(cache, head="last")])        # on the test split, with intervals
    ilse.Predictor.from_head(head, model="path/or/hub-id").predict(["a new text"])

Nothing heavy is imported before it is used: a machine that trains needs no transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from ilse.comparing import Comparison as Comparison
    from ilse.comparing import compare as compare
    from ilse.core.errors import UserError as UserError
    from ilse.extracting import extract as extract
    from ilse.fitting import fit as fit
    from ilse.opening import open_cache as open_cache
    from ilse.predict.predictor import Predictor as Predictor
    from ilse.text_classifier import TextClassifier as TextClassifier
    from pipeline.store import Cache as Cache
    from trainer.artifacts.artifact import TrainedHead as TrainedHead
    from trainer.estimator import HeadClassifier as HeadClassifier
    from trainer.estimator import rows_of as rows_of
    from trainer.library import auto as auto
    from trainer.library import drift as drift
    from trainer.library import layers as layers

_HOMES = {
    "Cache": "pipeline.store",
    "Comparison": "ilse.comparing",
    "HeadClassifier": "trainer.estimator",
    "Predictor": "ilse.predict.predictor",
    "TextClassifier": "ilse.text_classifier",
    "TrainedHead": "trainer.artifacts.artifact",
    "UserError": "ilse.core.errors",
    "auto": "trainer.library",
    "compare": "ilse.comparing",
    "drift": "trainer.library",
    "extract": "ilse.extracting",
    "fit": "ilse.fitting",
    "layers": "trainer.library",
    "open_cache": "ilse.opening",
    "rows_of": "trainer.estimator",
}
"""Public name → the module that defines it."""

__all__ = [
    "Cache",
    "Comparison",
    "HeadClassifier",
    "Predictor",
    "TextClassifier",
    "TrainedHead",
    "UserError",
    "auto",
    "compare",
    "drift",
    "extract",
    "fit",
    "layers",
    "open_cache",
    "rows_of",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ilse' has no attribute {name!r}")
    from ilse.core.shadows import require_ours

    require_ours()
    found = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
