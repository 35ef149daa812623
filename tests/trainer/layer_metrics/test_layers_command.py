"""The whole table of a cache: each figure where it belongs, a reason where there is none, the command, its advice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner

from ilse.cli import main
from ilse.core.errors import UserError
from pipeline.store import open_cache
from tests.pipeline.caches import header, random_rows
from tests.pipeline.caches import write as write_small
from tests.trainer.conftest import DIM, LABELS, LAYERS, TELLING, Made, write_cache, write_task
from trainer import layers
from trainer.analysis.cka import cka
from trainer.layer_metrics import measuring, spectra
from trainer.layer_metrics.advice import Advice, advise, is_numbered
from trainer.layer_metrics.dimension import two_nn
from trainer.layer_metrics.probes import Probed
from trainer.layer_metrics.sampling import drawn
from trainer.stages.layers import write
from trainer.treatment import Standardise

Array = np.ndarray


def figures_of(table: pl.DataFrame, metric: str, column: str = "value") -> list[Any]:
    """By layer."""
    return table.filter(pl.col("metric") == metric).sort("layer")[column].to_list()


def cache_of(folder: Path, values: Array) -> Path:
    write_cache(folder / "cache.zarr", [f"{i:032x}" for i in range(len(values))], values.astype(np.float32))
    return folder / "cache.zarr"


def test_figures_of_rows_are_those_of_the_layer_s_own_rows(made: Made) -> None:
    """Against each layer's rows, read at once; the sample is all texts."""
    table = layers(made.cache)
    x = torch.from_numpy(open_cache(made.cache).gather(np.arange(len(made.values))))
    for layer in range(len(LAYERS)):
        rows = x[:, layer].double()
        for centred, name in ((False, ""), (True, "_centred")):
            sigma = torch.linalg.svdvals(rows - rows.mean(0) * centred)
            assert figures_of(table, f"entropy{name}")[layer] == pytest.approx(spectra.entropy(sigma**2), rel=1e-6)
            assert figures_of(table, f"rankme{name}")[layer] == pytest.approx(spectra.rankme(sigma**2), rel=1e-6)
        assert figures_of(table, "norm")[layer] == pytest.approx(float(rows.norm(dim=1).mean()), rel=1e-6)
        assert figures_of(table, "dimension")[layer] == pytest.approx(two_nn(rows).value, rel=1e-6)
    alike = cka(Standardise(*x.shape[1:]).fit(x)(x))
    assert figures_of(table, "cka_last") == pytest.approx(alike[:, -1].tolist(), abs=1e-4)
    assert table.filter(pl.col("metric") == "cka")["value"].to_list() == pytest.approx(
        alike.flatten().tolist(), abs=1e-4
    )
    assert table.filter(pl.col("value").is_null() & (pl.col("note") == "")).is_empty()


def test_neither_the_budget_nor_the_order_of_texts_nor_shards_change_a_figure(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = layers(made.cache, examples=made.examples, texts=60)
    ids = sorted(made.values)
    values = np.stack([made.values[one] for one in ids])
    write_cache(tmp_path / "sorted.zarr", ids, values)
    again = layers(tmp_path / "sorted.zarr", examples=made.examples, texts=60)
    monkeypatch.setattr(measuring, "_layers_at_once", lambda *_: 1)
    layer_by_layer = layers(made.cache, examples=made.examples, texts=60)
    for other in (again, layer_by_layer):
        assert other.drop("value", "error").equals(whole.drop("value", "error"))
        for column in ("value", "error"):
            assert other[column].is_null().equals(whole[column].is_null())
            told, expected = (table[column].drop_nulls().to_list() for table in (other, whole))
            assert told == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_the_sample_is_of_the_texts_and_not_of_their_order() -> None:
    ids = np.random.default_rng(0).integers(0, 256, size=(50, 16)).astype(np.uint8)
    chosen = drawn(ids, 10)
    turned = drawn(ids[::-1], 10)
    assert (ids[::-1][turned] == ids[chosen]).all()
    assert (drawn(ids, 4) == chosen[:4]).all()
    assert set(drawn(ids, 5, np.array([3, 9, 9, 4]))) == {3, 4, 9}


def test_labels_separate_the_telling_layer_and_test_labels_change_nothing(made: Made) -> None:
    table = layers(made.cache, examples=made.examples)
    for metric in ("fisher", "silhouette", "probe"):
        assert int(np.argmax(figures_of(table, metric))) == TELLING
    assert figures_of(table, "fisher", "texts") == [135] * len(LAYERS)
    assert figures_of(table, "probe", "texts") == [45] * len(LAYERS)
    wrong = made.table.with_columns(
        label_index=pl.when(pl.col("split") == "test").then(0).otherwise("label_index"),
        label=pl.when(pl.col("split") == "test").then(pl.lit(LABELS[0])).otherwise("label"),
    )
    wrong.write_parquet(made.examples)
    assert layers(made.cache, examples=made.examples).equals(table)


def test_published_entropies_differ_and_nothing_else_of_pooled_rows(made: Made) -> None:
    ours, theirs = layers(made.cache), layers(made.cache, variant="published")
    differs = ours.filter(ours["value"] != theirs["value"])["metric"].unique().to_list()
    assert set(differs) == {"entropy", "entropy_centred"}


@pytest.mark.parametrize(
    ("values", "missing"),
    [
        (np.ones((1, 4, DIM)), {"entropy_centred", "anisotropy", "cosine", "dimension", "cka_last", "rankme_centred"}),
        (np.random.default_rng(0).normal(size=(3, 4, DIM)), {"dimension", "cka_last"}),
        (np.ones((20, 4, DIM)), {"entropy_centred", "anisotropy", "dimension", "cka_last", "cka", "rankme_centred"}),
        (np.zeros((20, 4, DIM)), {"entropy", "rankme", "cosine", "massive", "anisotropy", "dimension"}),
    ],
    ids=["one text", "three texts", "constant layers", "rows of zeros"],
)
def test_what_has_no_figure_says_why(values: Array, missing: set[str], tmp_path: Path) -> None:
    table = layers(cache_of(tmp_path, values))
    none = table.filter(pl.col("value").is_null())
    assert missing <= set(none["metric"].to_list())
    assert (none["note"] != "").all()
    assert not table["value"].is_nan().any()
    assert not table["error"].is_nan().any()
    assert {"norm"} & set(table.filter(pl.col("value").is_not_null())["metric"].to_list())


@pytest.mark.parametrize("variant", ["ours", "published"])
@pytest.mark.parametrize(
    ("texts", "count", "dim", "kind"),
    [(1, 1, 1, "float32"), (2, 1, 1, "float16"), (5, 2, 1, "int8"), (30, 1, 3, "bfloat16"), (30, 2, 40, "int8")],
)
@pytest.mark.parametrize("options", [{}, {"normalise": "max", "alpha": 2, "memory_budget": 1e-9}])
def test_the_smallest_caches_have_numbers_or_reasons(
    texts: int, count: int, dim: int, kind: str, options: dict[str, Any], variant: Any, tmp_path: Path
) -> None:
    head = header(texts=texts, layers=count, dim=dim, storage_type=kind, token_states=kind != "int8")
    table = layers(write_small(tmp_path / "cache", head, random_rows(head)).path, variant=variant, **options)
    assert set(table["layer"]) == set(range(count))
    assert (table.filter(pl.col("value").is_null())["note"] != "").all()
    assert table["value"].is_finite().fill_null(True).all()
    assert table["error"].is_finite().fill_null(True).all()


def test_copies_of_texts_are_counted(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(30, 4, DIM))
    table = layers(cache_of(tmp_path, np.concatenate([values, values[:12]])))
    assert figures_of(table, "dimension", "texts") == [30] * 4
    assert figures_of(table, "dimension", "excluded") == [12] * 4
    assert figures_of(table, "dimension", "note")[0] == "12 of 42 texts have the row of another"


def test_texts_with_several_labels_are_left_out_and_counted(made: Made) -> None:
    first = made.table.filter(pl.col("split") == "train").head(1)
    other = (first["label_index"].item() + 1) % len(LABELS)
    again = first.with_columns(label_index=pl.lit(other, pl.Int64), label=pl.lit(LABELS[other]))
    pl.concat([made.table, again]).write_parquet(made.examples)
    table = layers(made.cache, examples=made.examples)
    assert figures_of(table, "fisher", "texts") == [134] * len(LAYERS)
    assert figures_of(table, "fisher", "note")[0] == "1 texts with several labels are left out"


@pytest.mark.parametrize(
    ("change", "expected", "found"),
    [
        (lambda table: table.with_columns(text_id=pl.lit("f" * 32)), "the texts of all examples", "not in it"),
        (lambda table: table.drop("label", "label_index").with_columns(score=1.0), "one label each", "'score'"),
        (lambda table: table.with_columns(split=pl.lit("test")), "training or validation examples", "test examples"),
    ],
)
def test_examples_that_have_no_labels_for_it_are_refused(
    made: Made, change: Callable[[pl.DataFrame], pl.DataFrame], expected: str, found: str
) -> None:
    change(made.table).write_parquet(made.examples)
    with pytest.raises(UserError) as refused:
        layers(made.cache, examples=made.examples)
    assert expected in refused.value.expected
    assert found in refused.value.found


def test_too_few_labelled_texts_have_no_probe_and_no_suggestion(tmp_path: Path) -> None:
    made = write_task(tmp_path, {"train": 30, "validation": 6})
    table = layers(made.cache, examples=made.examples)
    assert figures_of(table, "probe") == [None] * len(LAYERS)
    assert "6 validation texts with a label, 10 of each needed" in figures_of(table, "probe", "note")[0]
    done = ilse("--cache", made.cache, "--examples", made.examples, "--out", tmp_path / "t.csv", "--suggest")
    assert done.exit_code == 2
    assert "at least 40 validation texts" in done.stderr


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"alpha": -1}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"memory_budget": 0}, "memory_budget"),
        ({"memory_budget": float("inf")}, "memory_budget"),
        ({"texts": 0}, "texts"),
    ],
)
def test_options_out_of_range_are_refused(made: Made, options: dict[str, Any], where: str) -> None:
    with pytest.raises(UserError, match=where):
        layers(made.cache, **options)


def test_a_pooling_that_the_cache_lacks_is_refused(made: Made) -> None:
    with pytest.raises(UserError, match="the pooling 'max'"):
        layers(made.cache, pooling="max")


def ilse(*arguments: object) -> Any:
    return CliRunner().invoke(main, ["layers", *map(str, arguments)])


def test_the_command_writes_the_table_and_says_what_is_in_it(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    done = ilse("--cache", made.cache, "--examples", made.examples, "--out", out, "--suggest")
    assert done.exit_code == 0, done.output
    table = layers(made.cache, examples=made.examples)
    written = pl.read_csv(out)
    assert figures_of(written, "suggested") == [float(layer == TELLING) for layer in range(len(LAYERS))]
    of_layers = written.filter(pl.col("metric") != "suggested")
    assert of_layers["value"].to_list() == pytest.approx(table["value"].to_list())
    assert "no token states in this cache" in done.stdout
    assert f"ilse subset {made.cache} OUT --layers {TELLING}\n" in done.stdout
    assert sum(line.split()[:1] == [str(TELLING)] for line in done.stdout.splitlines()) == 1
    for name, read in (("table.parquet", pl.read_parquet), ("table.jsonl", pl.read_ndjson)):
        write(table, tmp_path / name)
        assert read(tmp_path / name)["value"].to_list() == table["value"].to_list()


def test_a_suggestion_wants_labels(made: Made, tmp_path: Path) -> None:
    done = ilse("--cache", made.cache, "--out", tmp_path / "t.csv", "--suggest")
    assert done.exit_code == 2
    assert "name the examples" in done.stderr
    assert not (tmp_path / "t.csv").exists()


def probed(right: Array, labels: int = 3) -> Probed:
    """Probes with these texts right, [texts, layers], equally sure each."""
    y = torch.arange(len(right)) % labels
    told = (y[:, None] + torch.from_numpy(~right)) % labels
    logits = 2.0 * torch.nn.functional.one_hot(told, labels).double()
    return Probed(logits.log_softmax(2), y, 100)


def test_the_cheapest_set_near_the_best_is_suggested() -> None:
    random = np.random.default_rng(0)
    share = np.array([0.4, 0.9, 0.6, 0.9, 0.9, 0.5])
    right = random.permuted(np.stack([np.arange(200) < 200 * s for s in share], 1), axis=0)
    right[:, 3] = right[:, 4] = right[:, 1]  # deeper layers that add nothing
    found = advise(probed(right))
    assert found is not None
    assert found.layers == (1,)
    assert found.accuracy == pytest.approx(right[1::2, 1].mean())
    assert found.last == pytest.approx(right[1::2, 5].mean())
    told = "\n".join(found.lines(("embedding", *(f"block {i}" for i in range(1, 5)), "final"), "cache.zarr"))
    assert "extract:\n  layers: [1]" in told
    assert "1 of 5 blocks are run" in told


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        (0.02, "2.0 points (± 4.0) below the best set;"),
        (-0.01, "1.0 points (± 4.0) above the best set;"),
        (-0.0004, "as good as the best set (± 4.0 points);"),
    ],
)
def test_what_is_suggested_stands_below_or_above_the_best_set(lost: float, said: str) -> None:
    """The best set was best on the texts that chose, which are not those that judge."""
    found = Advice((1,), 3, accuracy=0.8, lost=lost, error=0.04, all_layers=0.8, last=0.7, texts=100)
    assert said in found.lines(("embedding", "block 1", "final"), "cache.zarr")[1]


def test_layers_that_complete_one_another_are_kept_together() -> None:
    """Three layers, each surely right on a third that no other knows: no one of them is enough."""
    right = np.arange(240)[:, None] % 3 == np.arange(3)
    y = torch.arange(240) // 3 % 4
    logits = torch.zeros(240, 4, 4, dtype=torch.float64)
    for layer in range(3):
        logits[torch.arange(240), layer, y] = torch.from_numpy(3.0 * right[:, layer])
        logits[:, layer, layer] += 0.01  # when it does not know, it says its own
    found = advise(Probed(logits.log_softmax(2), y, 100))
    assert found is not None
    assert found.layers == (0, 1, 2)
    assert found.accuracy == 1
    assert advise(Probed(logits[:30].log_softmax(2), y[:30], 100)) is None


def test_layers_are_numbered_where_none_of_the_first_is_missing() -> None:
    assert is_numbered(("embedding", "block 1", "block 2", "final"))
    assert not is_numbered(("embedding", "block 2", "final"))
    assert not is_numbered(("block 1", "block 2", "final"))
    assert not is_numbered(LAYERS)
