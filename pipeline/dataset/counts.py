"""Counts of a prepared data set for `prepare.json`, and for the terminal: notes on changes and a table of splits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from ilse.core.tables import PAIR_TEXT_ID, SPLIT, SPLITS, TEXT, TEXT_ID, TRAIN
from ilse.core.terminal import in_line
from pipeline.dataset.columns import TARGET
from pipeline.dataset.label_names import MISSING
from pipeline.dataset.targets import Conflicts, Kind, each_label
from pipeline.dataset.texts import Unit

SHOWN_LABELS = 10
"""Labels that the table of splits lists; a data set may have thousands."""
SHOWN_CHARACTERS = 32
"""Width of a label in that table."""

LACKING = "warning: labels without an example in"


def counted(texts: pl.DataFrame, rows: pl.DataFrame, names: list[str] | None) -> dict[str, Any]:
    """Sizes of both tables, and the label map with its counts; the range of the scores if `names` is None."""
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
    """For pairs, the number of texts in several splits: not a leak, as the pair is the example, but worth knowing."""
    if PAIR_TEXT_ID not in rows.columns:
        return {}
    both = pl.concat([rows.select(TEXT_ID, SPLIT), rows.select(pl.col(PAIR_TEXT_ID).alias(TEXT_ID), SPLIT)])
    splits = both.group_by(TEXT_ID).agg(pl.col(SPLIT).n_unique())
    return {"texts_in_several_splits": splits.filter(pl.col(SPLIT) > 1).height}


def notes(counts: Mapping[str, Any], unit: Unit, kind: Kind, conflicts: Conflicts) -> list[str]:
    """One line per change that was made or fact worth knowing; none for a count of zero."""
    fate = "kept although" if conflicts == "keep" else "dropped because"
    noun = unit.noun
    lines = {
        "rows dropped because the text is empty": counts["empty_texts"],
        f"rows dropped because the {kind} is missing": counts["missing_targets"],
        "rows left out by prepare.limit": counts["beyond_limit"],
        f"rows dropped because the {noun} is also in another split (test keeps it, then validation)": counts["leaks"],
        "rows dropped because the data set in exclude_train_of trains on them": counts["seen_elsewhere"],
        "texts in several splits, as parts of different pairs": counts.get("texts_in_several_splits", 0),
        f"rows {fate} the {noun} has several {kind}s": counts["conflicting_rows"],
        f"{noun}s with several {kind}s": counts[f"conflicting_{noun}s"],
        f"duplicate rows kept (same {noun}, {kind} and split)": counts["duplicates"],
        "examples without any label": sum(counts.get("examples_without_labels", {}).values()),
    } | _label_notes(counts.get("examples_per_label", {}))
    return [note(text, found) for text, found in lines.items() if found]


def _label_notes(found: Mapping[str, Mapping[str, int]]) -> dict[str, list[str]]:
    train = found.get(TRAIN, {})
    folded: dict[str, list[str]] = {}
    for name in train:
        folded.setdefault(name.casefold(), []).append(name)
    return {
        "labels that differ only in case": [" and ".join(alike) for alike in folded.values() if len(alike) > 1],
        "labels that look like a missing value": [name for name in train if name in MISSING],
        "labels with a single example": [name for name in train if sum(split[name] for split in found.values()) == 1],
    } | {
        f"{LACKING} {split}": [name for name, number in labels.items() if not number]
        for split, labels in found.items()
        if any(labels.values())  # a split without examples lacks them all: data to test on alone
    }


def split_table(counts: Mapping[str, Any]) -> list[str]:
    """The table that `ilse prepare` prints: examples by split and, for the most frequent labels, by label.

    `counts` are those that `prepare` returns. Labels in excess of `SHOWN_LABELS` are summed up in one line.
    """
    by_split, by_label = counts["examples"], counts.get("examples_per_label", {})
    rows = [("examples", [by_split[split] for split in SPLITS])]
    totals = {name: sum(by_label[split][name] for split in SPLITS) for name in counts.get("labels", {})}
    for name in sorted(totals, key=lambda name: -totals[name])[:SHOWN_LABELS]:
        rows.append((f"  {_short(name)}", [by_label[split][name] for split in SPLITS]))
    width = max(len(title) for title, _ in rows)
    lines = [
        f"{counts['source_rows']:,} rows -> {sum(by_split.values()):,} examples, {counts['texts']:,} distinct texts",
        " " * width + "".join(f"{split:>12}" for split in SPLITS),
        *(f"{title:<{width}}" + "".join(f"{number:>12,}" for number in numbers) for title, numbers in rows),
    ]
    if (more := len(totals) - SHOWN_LABELS) > 0:
        lines.append(f"  and {more:,} more label{'s' if more > 1 else ''}")
    return lines


def _short(label: str) -> str:
    """A label on one line, of at most `SHOWN_CHARACTERS`."""
    label = in_line(label)
    return label if len(label) <= SHOWN_CHARACTERS else label[: SHOWN_CHARACTERS - 1] + "…"


def note(text: str, found: int | list[str]) -> str:
    """One line with a number; of a list also its first five names."""
    if isinstance(found, int):
        return f"{text}: {found:,}"
    return f"{text}: {len(found):,} ({', '.join(found[:5])}{', …' if len(found) > 5 else ''})"
