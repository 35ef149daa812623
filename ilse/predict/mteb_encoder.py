"""A trained head with its model as an encoder for MTEB, version 2.

    import mteb
    mteb.evaluate(MTEBEncoder(predictor), tasks=[mteb.get_task("Banking77Classification")])

Texts go in as they are: what stands around them is the template of the head's cache, and no prompt of a task.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction
from safetensors.torch import save

from ilse.predict.predictor import Predictor
from trainer.artifacts.artifact import HeadFacts, TrainedHead

PREFIX = "ilse-cache"
"""MTEB files results under an organisation and a name."""


class MTEBEncoder(AbsEncoder):
    """`Predictor.embed` for MTEB's tasks; vectors are compared by their cosine."""

    def __init__(self, predictor: Predictor) -> None:
        self.model = self.predictor = predictor
        self.mteb_model_meta = model_meta(predictor)

    def encode(self, inputs: Any, **_others: Any) -> npt.NDArray[np.float32]:
        """The vector of each text, [texts, width]; `inputs` are batches with a list `text` each."""
        # All texts at a time: the predictor sorts them by length before it batches them.
        return self.predictor.embed([text for batch in inputs for text in batch["text"]])


def model_meta(predictor: Predictor) -> ModelMeta:
    """What MTEB files with the results. The revision is that of the capture and of the head's weights."""
    facts = predictor.trained.facts
    trained, frozen = predictor.trained.parameters_trained, facts.frozen_parameters
    return ModelMeta.create_empty(
        overwrites={
            "name": f"{PREFIX}/{predictor.trained.head.spec.name}-{facts.model_names}".replace(" ", "-"),
            "revision": f"{facts.fingerprint[:12]}-{_weights(predictor.trained)[:12]}",
            "n_parameters": trained + frozen,
            "max_tokens": _longest(facts),
            "embed_dim": predictor.width,
            "framework": ["PyTorch"],
            "similarity_fn_name": ScoringFunction.COSINE,
            "use_instructions": False,
        }
    )


def _longest(facts: HeadFacts) -> int | None:
    """Tokens that the model that reads the fewest of a text reads; None for any number."""
    limits = [source.capture.max_tokens for source in facts.sources if source.capture.max_tokens is not None]
    return min(limits, default=None)


def _weights(trained: TrainedHead) -> str:
    """SHA-256 of all weights: MTEB keeps results by name and revision, and two heads must not share them."""
    state = {name: value.contiguous() for name, value in trained.state_dict().items()}
    return hashlib.sha256(save(state)).hexdigest()
