"""What preparing did to a data set and what came of it: numbers for `prepare.json`, and a line for each thing done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from ilse.core.tables import PAIR_TEXT_ID, SPLIT, SPLITS, TEXT, TEXT_ID, TRAIN
from pipeline.dataset.columns import TARGET
from pipeline.dataset.label_names import MISSING
from pipeline.dataset.targets import Conflicts, Kind, each_label
from pipeline.dataset.texts import Unit


def counted(texts: pl.DataFrame, rows: pl.DataFrame, names: list[str] | None) -> dict[str, Any]:
    """The sizes of both tables, and the label map with its counts or, for `names` of None, the scores' ranges."""
    length = texts[TEXT].str.len_chars()
    by_split = {split: rows.filter(pl.col(SPLIT) == split)[TARGET] for split in SPLITS}
    return {
        "examples": {split: len(target) for split, target in by_split.items()},
        "texts": texts.height,
        "characters": {"total": length.sum(), "mean": length.mean(), "max": length.max()},
        **_target_counts(by_split, names),
        **_shared_texts(rows),
    }


def _target_counts(by_split: Mapping[str, pl.Series], names: list[str] | None) -> dict[str, Any]:
    if names is None:
        return {
            "scores": {
                split: {"min": score.min(), "mean": score.mean(), "max": score.max()}
                for split, score in by_split.items()
            }
        }
    found = {split: dict(each_label(target).value_counts().iter_rows()) for split, target in by_split.items()}
    counts: dict[str, Any] = {
        "labels": {name: index for index, name in enumerate(names)},
        "examples_per_label": {split: {name: found[split].get(name, 0) for name in names} for split in SPLITS},
    }
    if isinstance(by_split[TRAIN].dtype, pl.List):
        bare = {split: int((target.list.len() == 0).sum()) for split, target in by_split.items()}
        counts["examples_without_labels"] = bare
    return counts


def _shared_texts(rows: pl.DataFrame) -> dict[str, int]:
    """For pairs, the texts that stand in several splits: no leak, as the pair is the example, but worth knowing."""
    if PAIR_TEXT_ID not in rows.columns:
        return {}
    both = pl.concat([rows.select(TEXT_ID, SPLIT), rows.select(pl.col(PAIR_TEXT_ID).alias(TEXT_ID), SPLIT)])
    splits = both.group_by(TEXT_ID).agg(pl.col(SPLIT).n_unique())
    return {"texts_in_several_splits": splits.filter(pl.col(SPLIT) > 1).height}


def notes(counts: Mapping[str, Any], unit: Unit, kind: Kind, conflicts: Conflicts) -> list[str]:
    """One line for each thing that was done, or that the reader should know; nothing for a zero."""
    fate = "kept" if conflicts == "keep" else "dropped"
    noun = unit.noun
    lines = {
        "rows dropped for an empty text": counts["empty_texts"],
        f"rows dropped for want of a {kind}": counts["missing_targets"],
        f"rows dropped whose {noun} stands in another split (test keeps it, then validation)": counts["leaks"],
        "rows dropped that the data set of exclude_train_of trains on": counts["seen_elsewhere"],
        "texts that stand in several splits, in other pairs": counts.get("texts_in_several_splits", 0),
        f"rows {fate} whose {noun} has several {kind}s": counts["conflicting_rows"],
        f"{noun}s with several {kind}s": counts[f"conflicting_{noun}s"],
        f"rows kept that repeat a {noun} and its {kind} within a split": counts["duplicates"],
        "examples without any label": sum(counts.get("examples_without_labels", {}).values()),
    } | _label_notes(counts.get("examples_per_label", {}))
    return [note(text, found) for text, found in lines.items() if found]


def _label_notes(found: Mapping[str, Mapping[str, int]]) -> dict[str, list[str]]:
    train = found.get(TRAIN, {})
    folded: dict[str, list[str]] = {}
    for name in train:
        folded.setdefault(name.casefold(), []).append(name)
    return {
        "labels that differ in case alone": [" and ".join(alike) for alike in folded.values() if len(alike) > 1],
        "labels that look like a missing value": [name for name in train if name in MISSING],
        "labels with a single example": [name for name in train if sum(split[name] for split in found.values()) == 1],
        f"labels absent from {TRAIN}": [name for name, number in train.items() if not number],
    }


def note(text: str, found: int | list[str]) -> str:
    """One line; of many names the first five."""
    if isinstance(found, int):
        return f"{text}: {found:,}"
    return f"{text}: {len(found):,} ({', '.join(found[:5])}{', …' if len(found) > 5 else ''})"
