"""Trained heads without files, for the analyses."""

from __future__ import annotations

from typing import Any

from tests.trainer.conftest import LABELS, LAYERS, head_of, of_labels, recipe_of
from trainer.artifact import HeadFacts, TrainedHead
from trainer.fit import fit
from trainer.rows import Rows
from trainer.treatment import Treatment, TreatmentOptions


def trained_head(name: str, train: Rows, standardise: bool = True, **options: Any) -> TrainedHead:
    """Head `name` of the synthetic task, fitted on its rows for a few epochs."""
    treatment = Treatment(TreatmentOptions(standardise=standardise), *train.x.shape[1:]).fit(train.x)
    treated = Rows(treatment(train.x), train.y, train.text_ids)
    result = fit(head_of(name, **options), treated, treated, of_labels(), recipe_of(), 0, "cpu")
    facts = HeadFacts(
        objective=of_labels().facts(),
        labels=list(LABELS),
        fingerprint="00",
        pooling="mean",
        layer_names=list(LAYERS),
        model_name="tiny",
        model_parameters=1000,
        recipe={},
        seed=0,
        best_epoch=result.best.epoch,
        val_score=result.best.val_score,
        val_loss=result.best.val_loss,
        train_seconds=result.seconds,
    )
    return TrainedHead(treatment, result.head, facts).eval()
