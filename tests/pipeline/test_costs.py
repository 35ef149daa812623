"""The cost model against real caches, against hand-computed cases, and against what must hold of any workload."""

from __future__ import annotations

import ast
import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pipeline.forecast.costs
import pipeline.forecast.machines
from pipeline import store
from pipeline.forecast.costs import RUNTIME_BYTES, VALUE_BYTES, Workload, disk_bytes, flops, peak_memory
from pipeline.forecast.machines import MACHINES, START_SECONDS, Machine, dollars, fits, need, times
from pipeline.forecast.quote import size, token_choices, token_line

TWO_CORES, THOUSAND = MACHINES[0], MACHINES[-1]


def workload(**changes: Any) -> Workload:
    """A 7B model over 100 million texts of 128 tokens."""
    values: dict[str, Any] = {
        "texts": 100_000_000,
        "tokens": 12_800_000_000,
        "layers": 33,
        "dim": 4096,
        "parameters": 7_000_000_000,
        "flops_per_token": 14e9,
        "blocks": 32,
        "intermediate": 11_008,
    }
    return Workload(**{**values, **changes})


workloads = st.builds(
    workload,
    texts=st.integers(1, 10**6),
    tokens=st.integers(10**6, 10**9),
    layers=st.integers(1, 100),
    dim=st.integers(1, 10_000),
    parameters=st.integers(10**6, 10**11),
    flops_per_token=st.floats(1e6, 1e12),
    poolings=st.integers(1, 9),
    storage_type=st.sampled_from(list(VALUE_BYTES)),
    shard_rows=st.integers(1, 2048),
)


def replace(work: Workload, **changes: Any) -> Workload:
    return dataclasses.replace(work, **changes)


def write_cache(folder: Path, work: Workload, token_states: bool = False) -> int:
    """Writes a real cache of random values and returns the bytes of its files."""
    capture = store.CaptureSpec(
        model={"sha256": "0" * 64},
        tokenizer="0" * 64,
        layers=tuple(f"block {i}" for i in range(work.layers)),
        dim=work.dim,
        max_tokens=128,
        template="{text}",
        compute_type="float32",
        storage_type=work.storage_type,
        poolings=("mean", "last")[: work.poolings],
        token_states=token_states,
    )
    header = store.CacheHeader(capture, work.texts, work.shard_rows, "made up", 1)
    ids = [f"{i:032x}" for i in range(work.texts)]
    location, records = store.Location(str(folder)), []
    random = np.random.default_rng(0)
    store.create(location, header, ids)
    counts = np.full(work.texts, work.tokens // work.texts)
    for shard in range(header.shards):
        place = header.rows_of(shard)
        rows = place.stop - place.start
        values = {pooling: draw(random, rows, work) for pooling in capture.poolings}
        states = draw(random, int(counts[place].sum()), work) if token_states else None
        shard_rows = store.ShardRows(ids[place], counts[place].tolist(), [False] * rows, values, states)
        records.append(store.write_shard(location, header, shard, shard_rows))
    store.finish(location, header, ids, records)
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def draw(random: np.random.Generator, rows: int, work: Workload) -> np.ndarray[Any, Any]:
    return random.normal(size=(rows, work.layers, work.dim)).astype(np.float32)


@pytest.mark.parametrize("storage_type", list(VALUE_BYTES))
@pytest.mark.parametrize("shape", [(600, 256, 13, 96, 1), (100, 64, 31, 576, 1), (2000, 16, 4, 32, 2)])
def test_the_disk_estimate_is_within_two_per_cent_of_a_real_cache(
    tmp_path: Path, storage_type: str, shape: tuple[int, int, int, int, int]
) -> None:
    texts, shard_rows, layers, dim, poolings = shape
    sizes = {"texts": texts, "shard_rows": shard_rows, "layers": layers, "dim": dim, "poolings": poolings}
    work = workload(tokens=texts * 8, storage_type=storage_type, **sizes)
    assert disk_bytes(work) == pytest.approx(write_cache(tmp_path / "cache.zarr", work), rel=0.02)


@pytest.mark.parametrize("storage_type", ["float16", "bfloat16", "float32"])
def test_the_disk_estimate_holds_for_token_states(tmp_path: Path, storage_type: str) -> None:
    work = workload(
        texts=200, tokens=2400, layers=5, dim=64, shard_rows=32, storage_type=storage_type, token_states=True
    )
    assert disk_bytes(work) == pytest.approx(write_cache(tmp_path / "cache.zarr", work, token_states=True), rel=0.02)


@pytest.mark.parametrize("kept", [False, True])
def test_each_choice_of_token_states_stands_with_its_size(kept: bool) -> None:
    work = workload(token_states=kept)
    said = token_line(work)
    assert said.startswith("not kept; ") is not kept
    choices = token_choices(work)
    assert said.removeprefix("not kept; ").split("; ") == [f"{name}: {size(of)}" for name, of in choices.items()]
    assert f"rank 64 int8: {size(choices['rank 64 int8'])}" in said


def test_the_value_sizes_are_those_of_the_store() -> None:
    assert {kind: store.value_bytes(kind) for kind in store.STORAGE_TYPES} == VALUE_BYTES


def test_the_sizes_of_the_layout_are_those_of_the_store() -> None:
    from pipeline.store import layout

    assert (pipeline.forecast.costs._TOKEN_CHUNK_ROWS, len(store.STATISTICS)) == (layout.TOKEN_CHUNK_ROWS, 4)


def test_the_disk_of_seven_billion_parameters_and_a_hundred_million_texts() -> None:
    """By hand: 390,625 shards × 256 × 33 × 4,096 × 2 bytes = 27.03 TB, and 2.4 GB beside it."""
    rows = 390_625 * 256 * 33 * 4096 * 2
    assert rows == 27_033_600_000_000
    assert rows < disk_bytes(workload()) < rows * 1.0002
    assert disk_bytes(workload(), "float32") == pytest.approx(2 * rows, rel=2e-4)
    assert disk_bytes(workload(), "int8") == pytest.approx(rows / 2 * (1 + 4 / 256), rel=2e-4)


def test_operations_by_hand() -> None:
    """14 G for the weights and 4 × 128 × 4,096 × 32 for attention, for each of 12.8 G tokens."""
    assert flops(workload()) == 12.8e9 * (14e9 + 67_108_864)


def test_memory_by_hand() -> None:
    """Weights 14 GB; a shard 256 × 33 × 4,096 values, three times in float32 and twice as float16."""
    memory = peak_memory(workload(), batch_tokens=1024)
    values = 256 * 33 * 4096
    assert memory.weights == 14_000_000_000
    assert memory.shards == 3 * values * 4 + 2 * values * 2
    assert memory.activations == 1024 * ((6 * 4096 + 3 * 11_008) * 2 + 2 * 4096 * 4)
    assert memory.device == memory.weights + memory.activations
    assert memory.total == memory.device + memory.shards + RUNTIME_BYTES


def test_time_by_hand() -> None:
    """One H100: 1.8e20 operations at 40 % of 989 TFLOP/s, 30 s of start and 14 GB from a disk of 3 GB/s."""
    h100 = next(machine for machine in MACHINES if machine.name == "H100")
    found = times(workload(), h100)
    assert found.compute == pytest.approx(12.8e9 * 14.067108864e9 / (989e12 * 0.4))
    assert found.load == pytest.approx(30 + 14 / 3)
    assert found.finish == pytest.approx(27_036, rel=1e-3)  # 27 TB once more, at 1 GB/s
    assert found.binding == "compute"
    assert found.seconds == found.load + found.compute + found.finish
    assert dollars(workload(), h100) == pytest.approx(3 * found.seconds / 3600)


def test_token_states_of_a_70b_model_bind_on_upload_as_activault_found() -> None:
    """10 G tokens × 6 layers × 8,192 × 2 bytes from a node of 8; the model has to fit a device, which 70B does not."""
    work = workload(
        texts=10_000_000,
        tokens=10_000_000_000,
        layers=6,
        dim=8192,
        parameters=7_000_000_000,
        flops_per_token=14e9,
        token_states=True,
    )
    node = next(machine for machine in MACHINES if machine.name == "8 x H100")
    found = times(work, node)
    assert max(found.overlapping, key=found.overlapping.__getitem__) == "writing"
    assert found.write == pytest.approx(3.5 * 86_400, rel=0.02)
    assert not fits(workload(parameters=70_000_000_000), node)


@given(workloads)
def test_twice_the_texts_take_twice_the_disk(work: Workload) -> None:
    whole = replace(work, texts=work.shards * work.shard_rows)  # full shards: padding does not double
    double = replace(whole, texts=2 * whole.texts, tokens=2 * whole.tokens)
    fixed = 8_000 + work.poolings * 4 * work.layers * 8
    assert disk_bytes(double) - fixed == 2 * (disk_bytes(whole) - fixed)


@given(workloads)
def test_memory_does_not_depend_on_the_number_of_texts(work: Workload) -> None:
    assert peak_memory(work, 1024) == peak_memory(replace(work, texts=10 * work.texts, tokens=10 * work.tokens), 1024)


@given(workloads, st.sampled_from(["texts", "tokens", "layers", "dim", "poolings"]), st.sampled_from(MACHINES))
def test_more_of_anything_never_costs_less(work: Workload, name: str, machine: Machine) -> None:
    more = replace(work, **{name: getattr(work, name) + 1})
    assert disk_bytes(more) >= disk_bytes(work)
    assert times(more, machine).write >= times(work, machine).write
    assert need(more, machine) >= need(work, machine)
    assert times(more, machine).schedule >= times(work, machine).schedule
    if name == "tokens":
        assert flops(more) > flops(work)


@given(workloads, st.sampled_from(MACHINES))
def test_what_binds_is_the_largest_part(work: Workload, machine: Machine) -> None:
    found = times(work, machine)
    parts = {"loading": found.load, **found.overlapping, "finishing": found.finish}
    assert parts[found.binding] == max(parts.values())
    assert found.load >= START_SECONDS
    assert max(parts.values()) <= found.seconds <= sum(parts.values())


@given(workloads)
def test_eight_times_the_nodes_take_an_eighth_of_what_nodes_share(work: Workload) -> None:
    one, eight = (times(work, next(m for m in MACHINES if m.name == name)) for name in ("8 x H100", "64 x H100"))
    assert eight.compute == pytest.approx(one.compute / 8)
    assert eight.write == pytest.approx(one.write / 8)
    assert eight.tokenise == pytest.approx(one.tokenise / 8)
    assert eight.schedule == one.schedule  # one scheduler, however many nodes: this is what breaks at scale


def test_on_a_thousand_gpus_the_number_of_shards_counts_and_not_the_gpus() -> None:
    """390,625 shards × 2 requests × 20 ms, sixteen at once: larger shards are fewer."""
    small = workload(parameters=135_000_000, flops_per_token=2.1e8, layers=31, dim=576, blocks=30, intermediate=1536)
    assert times(small, THOUSAND).finish == pytest.approx(390_625 * 0.0025)
    assert times(small, THOUSAND).binding == "finishing"
    larger = times(replace(small, shard_rows=4096), THOUSAND)
    for part in ("finish", "requests", "schedule"):
        assert getattr(larger, part) == pytest.approx(getattr(times(small, THOUSAND), part) / 16, rel=0.01)


def test_tasks_are_as_long_as_those_of_the_stage() -> None:
    extract = pytest.importorskip("pipeline.extract")
    assert pipeline.forecast.machines.TASK_SHARDS == extract.TASK_SHARDS


def test_a_gpu_needs_room_for_the_model_alone_and_a_cpu_for_everything() -> None:
    memory = peak_memory(workload(), TWO_CORES.batch_tokens)
    assert need(workload(), TWO_CORES) == memory.total
    assert need(workload(), THOUSAND) == peak_memory(workload(), THOUSAND.batch_tokens).device
    assert fits(workload(), TWO_CORES)
    assert not fits(workload(parameters=13_000_000_000), TWO_CORES)


@pytest.mark.parametrize("module", [pipeline.forecast.costs, pipeline.forecast.machines])
def test_the_cost_model_is_arithmetic_alone(module: Any) -> None:
    """Only the standard library: it answers in an environment that has neither torch nor transformers."""
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert all(name == "pipeline.forecast.costs" or name in sys.stdlib_module_names for name in names)
