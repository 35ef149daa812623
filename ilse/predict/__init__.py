"""Model and head together on new texts: `predictor` is the core, the other modules give it to other systems.

`pipeline/` makes the cache, `trainer/` trains from it; this package imports both, and neither imports it.
"""

from ilse.predict.capture import ModelChoice
from ilse.predict.predictions import LabelPrediction, LabelSetPrediction, Prediction, ScorePrediction
from ilse.predict.predictor import Predictor
from ilse.predict.text_pipeline import TextPipeline
from ilse.predict.why.explanation import Explanation

__all__ = [
    "Explanation",
    "LabelPrediction",
    "LabelSetPrediction",
    "ModelChoice",
    "Prediction",
    "Predictor",
    "ScorePrediction",
    "TextPipeline",
]
