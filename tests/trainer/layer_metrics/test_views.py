"""InfoNCE, LiDAR and DiME: slow twins, closed forms, the published variant as it is written, and caches of views."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from ilse.cli import main
from ilse.core.errors import UserError
from pipeline import store
from tests.trainer.conftest import DIM, LAYERS, write_cache
from tests.trainer.layer_metrics.test_layers_command import figures_of
from trainer import layers
from trainer.layer_metrics import views
from trainer.layer_metrics.measuring import Options
from trainer.layer_metrics.viewing import Viewed

N = 12


def made(texts: int = N, width: int = 5, count: int = 3, spread: float = 0.4) -> Tensor:
    random = torch.Generator().manual_seed(0)
    own = torch.randn(texts, width, generator=random, dtype=torch.float64) + 0.3
    return own + spread * torch.randn(count, texts, width, generator=random, dtype=torch.float64)


def entropy_of(matrix: Tensor) -> float:
    """−Σ p log p of the positive eigenvalues, one by one."""
    values = [float(value) for value in torch.linalg.eigvalsh(matrix) if value > 1e-12 * matrix.diagonal().sum()]
    return -sum(value / sum(values) * math.log(value / sum(values)) for value in values)


@pytest.mark.parametrize("published", [False, True])
def test_infonce_is_its_formula_row_by_row(published: bool) -> None:
    x = made()[:2]
    unit = x if published else x / x.norm(dim=2, keepdim=True)
    rows = [(view, text) for view in range(2) for text in range(N)]
    losses = {}
    for view, text in rows:
        score = {
            other: math.exp(float(unit[view, text] @ unit[other]) / 0.1) for other in rows if other != (view, text)
        }
        losses[view, text] = -math.log(score[1 - view, text] / sum(score.values()))
    each = [(losses[0, text] + losses[1, text]) / 2 for text in range(N)]
    found = views.infonce(made(), published)
    assert found.value == pytest.approx(np.mean(each), abs=1e-6)
    assert found.error == pytest.approx(np.std(each, ddof=1) / math.sqrt(N), abs=1e-6)


def test_infonce_of_texts_that_are_nothing_alike_is_that_of_one_row_among_all() -> None:
    """Orthogonal texts with equal views: e¹⁰ against 2N − 2 ones."""
    x = torch.eye(N, dtype=torch.float64).expand(2, N, N)
    expected = -math.log(math.exp(10) / (math.exp(10) + 2 * N - 2))
    assert views.infonce(x).value == pytest.approx(expected, abs=1e-9)
    same = torch.ones(2, N, 3, dtype=torch.float64)
    assert views.infonce(same).value == pytest.approx(math.log(2 * N - 1), abs=1e-9)


def scatters(x: Tensor) -> tuple[Tensor, Tensor]:
    """Σ_b and Σ_w, member by member."""
    count, texts, width = x.shape
    mean = x.flatten(0, 1).mean(0)
    between, within = torch.zeros(width, width, dtype=x.dtype), torch.zeros(width, width, dtype=x.dtype)
    for text in range(texts):
        own = x[:, text].mean(0)
        between += torch.outer(own - mean, own - mean) / texts
        for view in range(count):
            within += torch.outer(x[view, text] - own, x[view, text] - own) / (texts * count)
    return between, within


@pytest.mark.parametrize("width", [5, 30], ids=["more texts than coordinates", "fewer"])
@pytest.mark.parametrize("published", [False, True])
def test_lidar_is_the_entropy_of_whitened_class_means(published: bool, width: int) -> None:
    x = made(width=width)
    between, within = scatters(x)
    scale = 1.0 if published else float(within.trace()) / width
    values, vectors = torch.linalg.eigh(within + 1e-4 * scale * torch.eye(width, dtype=x.dtype))
    root = vectors @ torch.diag(values**-0.5) @ vectors.T
    entropy = entropy_of(root @ between @ root)
    found = views.lidar(x, published)
    assert found is not None
    assert found.value == pytest.approx(entropy if published else math.exp(entropy), rel=1e-6)


def test_lidar_counts_the_directions_of_texts_whatever_their_scale() -> None:
    """Means at ± each axis, and the same spread within all of them in every direction."""
    axes = torch.cat([torch.eye(4), -torch.eye(4)]).double()
    steps = torch.cat([torch.eye(4), -torch.eye(4)]).double() * 0.1
    x = axes[None] + steps[:, None]
    for scale in (1e-3, 1.0, 1e3):
        found = views.lidar(scale * x)
        assert found is not None
        assert found.value == pytest.approx(4, rel=1e-9)
    flat = axes.clone()
    flat[:, 1:] = 0
    one = views.lidar(flat[None] + steps[:, None])
    assert one is not None
    assert one.value == pytest.approx(1, rel=1e-9)
    assert views.lidar(torch.zeros(8, 1, 4, dtype=torch.float64) + steps[:, None]) is None


@pytest.mark.parametrize(
    ("width", "published"), [(5, False), (30, False), (5, True), (30, True)], ids=["wide", "narrow", "D × D", "N × N"]
)
def test_dime_is_its_formula(width: int, published: bool) -> None:
    x = made(width=width)
    grams = []
    for view in x[:2]:
        if published:
            # As the code has it: rows as they are, width × width for more texts than coordinates, clamped.
            gram = view.T @ view if width < N else view @ view.T
            grams.append(torch.where(gram < 0, torch.zeros_like(gram), gram))
        else:
            norms = view.norm(dim=1)
            grams.append(torch.stack([torch.stack([a @ b for b in view]) for a in view]) / torch.outer(norms, norms))
    one, other = grams
    random, mixed = torch.Generator().manual_seed(0), []
    for _ in range(10):
        shuffle = torch.eye(len(other), dtype=x.dtype)[torch.randperm(len(other), generator=random)]
        mixed.append(entropy_of(one * (shuffle @ other @ shuffle.T)))
    found = views.dime(x, published=published)
    assert found.value == pytest.approx(np.mean(mixed) - entropy_of(one * other), abs=1e-6)
    assert found.error == pytest.approx(np.std(mixed, ddof=1) / math.sqrt(10), abs=1e-6)


def test_dime_knows_whether_views_are_of_the_same_texts() -> None:
    """Blocks of alike texts: together few, mixed up many. Unlike ones are always as many as can be."""
    block = torch.eye(3, dtype=torch.float64).repeat_interleave(4, 0)
    assert views.dime(block.expand(2, 12, 3)).value > 0.5
    assert views.dime(torch.eye(N, dtype=torch.float64).expand(2, N, N)).value == pytest.approx(0, abs=1e-9)


def write_views(folder: Path, texts: int = 40, count: int = 3, **capture: Any) -> list[Path]:
    """A cache, and views of it with the more noise the later the layer, their texts in another order."""
    random = np.random.default_rng(0)
    ids = [f"{i:032x}" for i in range(texts)]
    values = random.normal(1, 1, (texts, len(LAYERS), DIM)).astype(np.float32)
    write_cache(folder / "cache.zarr", ids, values)
    places = [folder / "cache.zarr"]
    for view in range(count):
        order = random.permutation(texts)
        noise = random.normal(size=values.shape) * np.array([0.05, 0.2, 0.8, 3.0])[:, None]
        place = folder / f"view{view}.zarr"
        own = {"noise": store.NoiseSpec(0.1, 0.0, 0.0, view), **capture}
        write_cache(place, [ids[i] for i in order], (values + noise)[order].astype(np.float32), **own)
        places.append(place)
    return places


def test_the_table_has_the_figures_of_each_layer_s_views(tmp_path: Path) -> None:
    cache, *places = write_views(tmp_path)
    table = layers(cache, views=places)
    ids = store.open_cache(cache).text_ids()
    x = []
    for place in places:
        opened = store.open_cache(place)
        at = {text: row for row, text in enumerate(opened.text_ids())}
        x.append(opened.gather(np.array([at[one] for one in ids])))
    stacked = torch.from_numpy(np.stack(x)).double()
    for layer in range(len(LAYERS)):
        assert figures_of(table, "infonce")[layer] == pytest.approx(views.infonce(stacked[:, :, layer]).value, rel=1e-9)
        assert figures_of(table, "lidar")[layer] == pytest.approx(views.lidar(stacked[:, :, layer]).value, rel=1e-9)  # type: ignore[union-attr]
    assert figures_of(table, "infonce") == sorted(figures_of(table, "infonce"))
    ours = table.filter(~pl.col("metric").is_in(views.NAMES))
    assert ours.equals(layers(cache))
    again = layers(cache, views=places, memory_budget=1e-9)
    assert figures_of(again, "dime") == pytest.approx(figures_of(table, "dime"), rel=1e-9)


@pytest.mark.parametrize("variant", ["ours", "published"])
@pytest.mark.parametrize("kind", ["zeros", "constant", "one text"])
def test_what_has_no_figure_says_why(kind: str, variant: Any, tmp_path: Path) -> None:
    texts = 1 if kind == "one text" else 6
    values = np.full((texts, len(LAYERS), DIM), 0 if kind == "zeros" else 3, np.float32)
    for name in ("cache", "a", "b"):
        noise = None if name == "cache" else store.NoiseSpec(0.1, 0.0, 0.0, int(name == "a"))
        write_cache(tmp_path / name, [f"{i:032x}" for i in range(texts)], values, noise=noise)
    table = layers(tmp_path / "cache", views=[tmp_path / "a", tmp_path / "b"], variant=variant, normalise="max")
    of_views = table.filter(pl.col("metric").is_in(views.NAMES))
    assert of_views["value"].null_count() == len(of_views) == 3 * len(LAYERS)
    assert (of_views["note"] != "").all()
    assert figures_of(of_views, "infonce", "excluded") == [6 if kind == "zeros" else 0] * len(LAYERS)


def test_views_that_are_none_are_refused(tmp_path: Path) -> None:
    cache, *places = write_views(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    foreign, *fewer = write_views(other, texts=39)
    write_cache(tmp_path / "wide.zarr", ["0" * 32], np.ones((1, len(LAYERS), 3), np.float32), dim=3)
    write_cache(tmp_path / "model.zarr", ["0" * 32], np.ones((1, len(LAYERS), DIM), np.float32), model={"sha256": "11"})
    for given, message in (
        (places[:1], "at least 2 caches of views"),
        ([places[0], places[0]], "the same capture twice"),
        ([places[0], fewer[1]], "the same texts in both"),
        ([places[0], tmp_path / "model.zarr"], "rows of the cache's own model"),
        ([places[0], tmp_path / "wide.zarr"], f"4 layers of width {DIM}"),
    ):
        with pytest.raises(UserError, match=message):
            Viewed(store.open_cache(cache), [str(place) for place in given])
    assert foreign.exists()
    assert Options().variant == "ours"


def test_the_command_takes_a_view_at_a_time(tmp_path: Path) -> None:
    cache, *places = write_views(tmp_path)
    arguments = ["layers", "--cache", str(cache), "--out", str(tmp_path / "t.csv")]
    with_views = [part for place in places for part in ("--views", str(place))]
    done = CliRunner().invoke(main, [*arguments, *with_views])
    assert done.exit_code == 0, done.output
    assert all(name in done.stdout.splitlines()[0] for name in ("InfoNCE", "LiDAR", "DiME"))
    assert "no --views" in CliRunner().invoke(main, arguments).stdout
