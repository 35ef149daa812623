"""Trained heads without files, for the analyses."""

from __future__ import annotations

from typing import Any

from tests.trainer.conftest import head_of, of_labels, recipe_of
from tests.trainer.test_artifact import FACTS
from trainer.artifacts.artifact import TrainedHead
from trainer.fitting.fit import fit
from trainer.rows.in_memory import Rows
from trainer.treatment import Treatment, TreatmentOptions


def trained_head(name: str, train: Rows, standardise: bool = True, **options: Any) -> TrainedHead:
    """Head `name` of the synthetic task, fitted on its rows for a few epochs."""
    treatment = Treatment(TreatmentOptions(standardise=standardise), *train.x.shape[1:]).fit(train.x)
    treated = Rows(treatment(train.x), train.y, train.text_ids)
    result = fit(head_of(name, **options), treated, treated, of_labels(), recipe_of(), 0, "cpu")
    return TrainedHead(treatment, result.head, FACTS).eval()
