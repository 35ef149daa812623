"""The tables beside a cache, as `ilse prepare` writes and the trainer reads them: file names and columns.

`texts.parquet` holds every distinct text once, in first-seen order; a cache finds its rows by their ids.
`examples.parquet` is one task over those texts: one row per example, which is about one text or about a pair of them.
"""

from __future__ import annotations

TEXTS_FILE = "texts.parquet"
EXAMPLES_FILE = "examples.parquet"
CACHE_FOLDER = "cache.zarr"
"""The cache beside them, unless another place is named."""

TEXT_ID = "text_id"
"""32 hexadecimal digits: the first 128 bits of the SHA-256 of the text's normalised UTF-8 bytes."""

PAIR_TEXT_ID = "pair_text_id"
"""examples.parquet: the `TEXT_ID` of the second text, where an example is a pair."""

TEXT = "text"
"""texts.parquet: the normalised text."""

SOURCE_ROW = "source_row"
"""examples.parquet: the row's position in its source, from 0."""

LABEL = "label"
"""examples.parquet: the label's name, as a string (classification)."""

LABEL_INDEX = "label_index"
"""examples.parquet: the label's position in the one label map over all splits (names in sorted order)."""

LABELS = "labels"
"""examples.parquet: the names of all labels of the example, List(String) in the label map's order, empty where it has
none (several labels per example); stands with `LABEL_INDICES` instead of the two label columns."""

LABEL_INDICES = "label_indices"
"""examples.parquet: the positions of `LABELS` in the label map, List(Int64), ascending."""

SCORE = "score"
"""examples.parquet: the gold score on its original scale (regression); stands instead of the two label columns."""

SPLIT = "split"
"""examples.parquet: one of `SPLITS`."""

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS = (TRAIN, VALIDATION, TEST)
