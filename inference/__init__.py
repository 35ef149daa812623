"""Model and head together on new texts: `predictor` is the core, the other modules give it to other systems.

`pipeline/` makes the cache, `trainer/` trains from it; this package imports both, and neither imports it.
"""

from inference.capture import ModelChoice
from inference.predictions import LabelPrediction, LabelSetPrediction, Prediction, ScorePrediction
from inference.predictor import Predictor
from inference.text_pipeline import TextPipeline
from inference.why import Explanation

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
