"""The join of examples and cache, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from ilse.core.errors import UserError
from pipeline.store import open_cache
from tests.trainer.conftest import LABELS, Made, write_task
from trainer.data.task import Task, open_task
from trainer.rows.in_memory import PairRows, Rows


def opened(made: Made) -> Task:
    return open_task(open_cache(made.cache), made.examples)


def obvious(made: Made, split: str) -> tuple[np.ndarray, list[int], list[str]]:
    """The same rows by a dictionary, one example after the other."""
    chosen = [row for row in made.table.to_dicts() if row["split"] == split]
    values = np.stack([made.values[row["text_id"]] for row in chosen])
    return values, [row["label_index"] for row in chosen], [row["text_id"] for row in chosen]


def assert_is(rows: Rows, made: Made, split: str) -> None:
    values, labels, ids = obvious(made, split)
    np.testing.assert_array_equal(rows.x.numpy(), values)
    assert rows.y.tolist() == labels
    assert rows.text_ids == ids


@pytest.mark.parametrize("seed", range(3))
def test_each_example_gets_its_texts_row_whatever_the_orders(tmp_path: Path, seed: int) -> None:
    made = write_task(tmp_path, seed=seed)
    task = opened(made)
    for split in ("train", "validation"):
        assert_is(task.training_split(split), made, split)
    assert_is(task.held_out(), made, "test")
    assert [task.rows(split) for split in ("train", "validation", "test", "no")] == [90, 45, 45, 0]


def test_the_chosen_layers_come_in_the_order_asked(made: Made) -> None:
    rows = opened(made).training_split("train", (3, 1))
    np.testing.assert_array_equal(rows.x.numpy(), obvious(made, "train")[0][:, [3, 1]])


def test_a_text_may_be_in_two_examples(made: Made) -> None:
    first = made.table.filter(pl.col("split") == "train").head(1)
    pl.concat([made.table, first]).write_parquet(made.examples)
    x = opened(made).training_split("train").x
    assert len(x) == 91
    np.testing.assert_array_equal(x[-1].numpy(), made.values[first["text_id"][0]])


def test_labels_are_in_the_order_of_their_indices_over_all_splits(made: Made) -> None:
    assert opened(made).labels == LABELS
    only_in_test = pl.when(pl.col("split") == "test").then(pl.lit("zoo")).otherwise("label").alias("label")
    index = pl.when(pl.col("split") == "test").then(3).otherwise("label_index").alias("label_index")
    made.table.with_columns(only_in_test, index).write_parquet(made.examples)
    assert opened(made).labels == (*LABELS, "zoo")


@pytest.mark.parametrize("split", ["test", "all", ""])
def test_training_cannot_ask_for_the_test_split(made: Made, split: str) -> None:
    with pytest.raises(ValueError, match="no split to train or choose on"):
        opened(made).training_split(split)


@pytest.mark.parametrize("streamed", [False, True])
def test_what_is_to_be_answered_has_rows_and_no_target(made: Made, streamed: bool) -> None:
    """Of the test labels as they are, and of others, the same comes out."""
    values, labels, ids = obvious(made, "test")
    for _ in ("as they are", "others"):
        task = opened(made)
        rows = task.unlabelled_streamed((0, 1, 2, 3), memory_budget=10**9) if streamed else task.unlabelled()
        x, y = (torch.cat(parts) for parts in zip(*rows.chunks(7), strict=True))
        np.testing.assert_array_equal(x.numpy(), values[rows.order().numpy()])
        assert rows.text_ids == task.unlabelled_ids()["text_id"].to_list() == ids
        assert rows.y.shape == y.shape == (len(ids), 0), "room for no target"
        assert not [name for name, value in vars(rows).items() if np.array_equal(value, labels)]
        other = pl.when(pl.col("split") == "test")
        made.table.with_columns(
            label=other.then(pl.lit(LABELS[0])).otherwise("label"), label_index=other.then(0).otherwise("label_index")
        ).write_parquet(made.examples)


def test_texts_and_targets_come_without_rows(made: Made) -> None:
    task = opened(made)
    for split in ("train", "validation"):
        _, labels, ids = obvious(made, split)
        assert task.training_ids(split).to_dict(as_series=False) == {"text_id": ids}
        assert task.training_targets(split).tolist() == labels
    assert task.held_out_targets().tolist() == obvious(made, "test")[1]
    for door in (task.training_ids, task.training_targets):
        with pytest.raises(ValueError, match="no split to train or choose on"):
            door("test")


def test_texts_that_the_cache_lacks_are_counted(made: Made) -> None:
    ids = ["f" * 32 if i < 3 else text_id for i, text_id in enumerate(made.table["text_id"])]
    made.table.with_columns(pl.Series("text_id", ids)).write_parquet(made.examples)
    with pytest.raises(UserError, match=r"cache .*\n(.|\n)*3 of 180 examples(.|\n)*run 'ilse extract'"):
        opened(made)


def test_a_missing_table(made: Made) -> None:
    made.examples.unlink()
    with pytest.raises(UserError, match=r"examples .*parquet(.|\n)*no such file(.|\n)*ilse prepare"):
        opened(made)


def test_a_damaged_table(made: Made) -> None:
    made.examples.write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"a Parquet table(.|\n)*ilse prepare"):
        opened(made)


def test_an_empty_split(made: Made) -> None:
    made.table.filter(pl.col("split") != "validation").write_parquet(made.examples)
    task = opened(made)
    with pytest.raises(UserError, match=r"split 'validation'(.|\n)*at least one example(.|\n)*section 'prepare'"):
        task.training_split("validation")


def test_scores_are_targets_without_labels(made: Made) -> None:
    table = made.table.drop("label", "label_index").with_columns(score=pl.int_range(pl.len()) / 7)
    table.write_parquet(made.examples)
    task = opened(made)
    assert (task.targets.kind, task.labels, task.pairs) == ("score", (), False)
    assert task.training_split("train").y.tolist() == table.filter(split="train")["score"].to_list()


def test_lists_of_labels_are_ones_and_zeros(made: Made) -> None:
    """The third label stands in the test split alone, and has its column in all."""
    lists = {"train": [0, 1], "validation": [], "test": [2]}
    table = made.table.drop("label", "label_index").with_columns(
        label_indices=pl.Series([lists[split] for split in made.table["split"]], dtype=pl.List(pl.Int64))
    )
    names = [[LABELS[i] for i in row] for row in table["label_indices"].to_list()]
    table.with_columns(labels=pl.Series(names, dtype=pl.List(pl.String))).write_parquet(made.examples)
    task = opened(made)
    assert (task.targets.kind, task.labels) == ("labels", LABELS)
    assert task.training_split("train").y.tolist() == [[1.0, 1.0, 0.0]] * 90
    assert task.training_split("validation").y.tolist() == [[0.0, 0.0, 0.0]] * 45


def test_both_texts_of_a_pair_are_found_and_held_once(made: Made) -> None:
    """Pairs of a text with the next one of its split: every text is in two pairs."""
    table = made.table.with_columns(pair_text_id=pl.col("text_id").shift(1).over("split"))
    table = table.with_columns(pl.col("pair_text_id").fill_null(pl.col("text_id")))
    table.write_parquet(made.examples)
    rows = opened(made).training_split("train")
    assert isinstance(rows, PairRows)
    assert len(rows.x) == 90
    train = table.filter(split="train")
    for i, (x, y) in enumerate(rows.chunks(1)):
        both = [made.values[train[name][i]] for name in ("text_id", "pair_text_id")]
        np.testing.assert_array_equal(x.numpy(), np.stack(both))
        assert int(y) == train["label_index"][i]
    some = rows.take(torch.tensor([5, 2]))
    assert len(some.x) == len({train[name][i] for i in (5, 2) for name in ("text_id", "pair_text_id")})
    torch.testing.assert_close(
        next(iter(some.chunks(9)))[0], torch.cat([rows.batch(torch.tensor([i]))[0] for i in (5, 2)])
    )


def test_a_second_text_that_the_cache_lacks(made: Made) -> None:
    made.table.with_columns(pair_text_id=pl.lit("ff" * 16)).write_parquet(made.examples)
    with pytest.raises(UserError, match=r"180 of 180 examples whose text is not in it"):
        opened(made)


def test_a_table_without_its_columns(made: Made) -> None:
    made.table.drop("split").write_parquet(made.examples)
    with pytest.raises(UserError, match=r"expected: columns split\n"):
        opened(made)


@pytest.mark.parametrize("change", [pl.col("label_index") + 1, pl.lit(0), pl.int_range(pl.len())])
def test_a_label_map_that_is_none(made: Made, change: pl.Expr) -> None:
    made.table.with_columns(label_index=change).write_parquet(made.examples)
    with pytest.raises(UserError, match="one index from 0 for each label"):
        opened(made)
