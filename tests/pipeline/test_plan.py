"""`ilse plan`: for the model that is here against a real run, for one that is not here from its configuration alone."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from transformers import AutoConfig, AutoModel, LlamaConfig, MixtralConfig, T5Config

from ilse.core.errors import UserError
from pipeline.cluster.executor import Serial
from pipeline.config import ClusterParams, ExtractParams
from pipeline.forecast import calibration, estimate
from pipeline.forecast.calibration import SAMPLE_TEXTS, Calibration, sample_texts
from pipeline.forecast.costs import Memory, disk_bytes, peak_memory
from pipeline.forecast.elsewhere import Quote, quote
from pipeline.forecast.estimate import Estimate
from pipeline.forecast.machines import MACHINES
from pipeline.forecast.quote import aligned, duration, parse_count, size
from pipeline.forecast.room import Room, most_tokens, shortage
from pipeline.forecast.shapes import from_config
from pipeline.forecast.todo import ToDo, to_do_of
from pipeline.stages.extract import compute_of, extract, header_of, request_of
from pipeline.stages.plan import plan

TEXTS = 300
ROOT = Path(__file__).parents[2]


def params_for(model: Path, **changes: Any) -> ExtractParams:
    values = {
        "model": {"path": str(model)},
        "compute_type": "float32",
        "batch_tokens": 64,
        "shard_rows": 64,
        "threads": 1,
        "cluster": {"kind": "synchronous"},
    }
    return ExtractParams.model_validate({**values, **changes})


@pytest.fixture
def forecast(tiny_model: Callable[[str], Path], texts_table: Callable[..., Path]) -> Estimate:
    return plan(params_for(tiny_model("llama")), texts_table(TEXTS))


def test_the_plan_says_what_the_run_then_finds(
    tiny_model: Callable[[str], Path], texts_table: Callable[..., Path], tmp_path: Path
) -> None:
    params, texts = params_for(tiny_model("llama"), poolings=["mean", "last"]), texts_table(TEXTS)
    forecast = plan(params, texts)
    assert not list(tmp_path.glob("*.zarr"))  # planning writes nothing
    figures = extract(params, texts, tmp_path / "cache.zarr", tmp_path / "scratch")
    disk = sum(file.stat().st_size for file in (tmp_path / "cache.zarr").rglob("*") if file.is_file())
    assert forecast.work.tokens == figures["tokens"]  # every text was counted
    assert forecast.calibration.spread == 0
    assert disk_bytes(forecast.work) == pytest.approx(disk, rel=0.02)
    assert forecast.facts.name == figures["model"]


def test_every_part_of_the_time_is_there_and_counted(forecast: Estimate) -> None:
    assert list(forecast.parts) == [
        "starting and loading",
        "calibration",
        "computing",
        "tokenising and writing",
        "finishing",
    ]
    assert all(seconds > 0 for seconds in forecast.parts.values())
    assert forecast.seconds == sum(forecast.parts.values())
    found = forecast.calibration
    assert found.seconds >= calibration.SECONDS * 0.5 or found.shapes_seen == found.shapes
    assert found.padded_tokens >= found.tokens


def measured(**changes: Any) -> Calibration:
    """A calibration of 1,000 texts of 10 tokens without padding, at 100 tokens a second."""
    values: dict[str, Any] = {
        "texts": 1_000,
        "tokens": 10_000,
        "windows": 1_000,
        "tokens_read": 10_000,
        "spread": 0.0,
        "padded_tokens": 10_000,
        "shapes": 4,
        "padded_rate": 100.0,
        "first_seconds": 0.5,
        "shapes_seen": 4,
        "tokenise_rate": 10_000.0,
        "write_rate": 1e6,
        "cpu_share": 0.95,
        "seconds": 2.0,
        "threads": 1,
        "batch": 64,
        "longest": 16,
        "room": Room(10**12),
    }
    return Calibration(**{**values, **changes})


def test_time_by_hand(forecast: Estimate) -> None:
    """16 times the sample: 1,600 s of passes, four times the shapes of which four were seen, 12 × 0.5 s."""
    work = replace(forecast.work, texts=16_000, tokens=160_000, layers=4, dim=25)
    on_cpu = replace(forecast, work=work, calibration=measured(), speed=1.0)
    assert on_cpu.compute_seconds == pytest.approx(1600 + 12 * 0.5)
    assert on_cpu.beside_seconds == pytest.approx(160_000 / 10_000 + 16_000 * 4 * 25 / 1e6)
    assert on_cpu.parts["tokenising and writing"] == on_cpu.beside_seconds
    on_gpu = replace(on_cpu, facts=replace(forecast.facts, device="cuda"))
    assert on_gpu.parts["tokenising and writing"] == 0  # beside the GPU, and shorter than its work
    slow_disk = replace(on_gpu, calibration=measured(write_rate=800.0))
    assert slow_disk.parts["tokenising and writing"] == pytest.approx(16 + 2000 - 1606)


def test_texts_that_an_earlier_cache_holds_take_no_passes(forecast: Estimate) -> None:
    """A quarter of 16 times the sample: four times its passes and twice its shapes; all texts are still written."""
    work = replace(forecast.work, texts=16_000, tokens=160_000)
    whole = replace(forecast, work=work, calibration=measured(), speed=1.0)
    part = replace(whole, to_do=ToDo(texts=100, share=0.25))
    assert part.compute_seconds == pytest.approx(400 + 4 * 0.5)
    assert part.beside_seconds == whole.beside_seconds
    assert "; 100 texts to compute, an earlier cache holds the others" in part.lines()[-1]
    assert "texts to compute" not in whole.lines()[-1]
    assert (part.document()["texts_to_compute"], whole.document()["texts_to_compute"]) == (100, 16_000)


class Noting(Serial):
    """An executor that notes how long a calibration may take."""

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        assert function is calibration.calibrate
        self.seconds = args[-1]
        return measured()


def test_few_new_texts_are_worth_no_long_calibration(forecast: Estimate, texts_table: Callable[..., Path]) -> None:
    params, executor = params_for(Path("model")), Noting()
    request, header = request_of(params, forecast.facts), header_of(params, forecast.facts, TEXTS)
    arguments = (params, compute_of(params), request, header, forecast.facts, texts_table(TEXTS), 0.0)
    few, many = ToDo(200, 0.5), ToDo(10 * SAMPLE_TEXTS, 0.5)
    for to_do, part in ((None, 1.0), (few, 200 / SAMPLE_TEXTS), (many, 1.0)):
        assert estimate.estimate(executor, *arguments, to_do).to_do == to_do
        assert executor.seconds == pytest.approx(part * calibration.SECONDS)


def test_what_is_to_do_goes_by_the_texts_bytes(tmp_path: Path) -> None:
    path = tmp_path / "texts.parquet"
    pl.DataFrame({"text_id": list("abcd"), "text": ["a" * 10, "é" * 10, "c" * 10, "d" * 60]}).write_parquet(path)
    assert to_do_of(path, np.array([1, 3])) == ToDo(texts=2, share=0.8)
    assert to_do_of(path, np.array([3, 1, 0, 2])) is None


@pytest.mark.parametrize(
    ("cluster", "device", "threads", "speed"),
    [
        ({"kind": "synchronous"}, "cpu", 1, 1),
        ({"kind": "local", "workers": 4}, "cpu", 4, 1),
        ({"kind": "local", "workers": 4}, "cpu", 1, 4),
        ({"kind": "local", "workers": 4}, "cpu", 2, 2),
        ({"kind": "local", "workers": 8}, "cpu", 1, 4),
        ({"kind": "slurm", "workers": 8}, "cpu", 4, 8),
        ({"kind": "cuda", "workers": 8}, "cuda", 1, 8),
        ({"kind": "address", "address": "tcp://a:1"}, "cpu", 4, 3),
    ],
)
def test_workers_on_one_machine_add_no_cores(
    cluster: dict[str, Any], device: str, threads: int, speed: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "cores", lambda: 4)
    params = ClusterParams.model_validate(cluster)
    workers = speed if params.kind == "address" else params.workers  # as many as are connected
    assert estimate._speed(params, device, threads, connected=3) == (workers, speed)


NEED = Memory(weights=1_000, activations=64_000, shards=500, runtime=500)
"""Of a batch of 64 tokens."""


@pytest.mark.parametrize(
    ("room", "workers", "key", "cure"),
    [
        (Room(55_000), 1, None, None),
        (Room(110_000), 2, None, None),
        (Room(10, 65_000), 1, "extract.model", "more memory"),  # the host has to hold the shards
        (Room(2_000, 55_000), 1, None, None),
        (Room(54_999), 1, "extract.batch_tokens", "set it to 32 or less"),
        (Room(2_000, 40_000), 1, "extract.batch_tokens", "set it to 32 or less"),
        (Room(60_000), 3, "extract.batch_tokens", "set it to 16 or less"),
        (Room(36_000), 3, "extract.cluster.workers", "set it to 2"),
        (Room(17_000), 1, "extract.model", "a machine with more memory"),
    ],
)
def test_a_run_that_no_worker_can_hold_is_refused_by_the_key_that_mends_it(
    room: Room, workers: int, key: str | None, cure: str | None
) -> None:
    """Of 64 tokens at 1,000 bytes, 2,000 beside them, and texts of up to 16 tokens: 1.2 times the room is too much."""
    found = shortage(NEED, 64, room, workers, longest=16)
    assert (found.where if found else None) == key
    if found is not None:
        assert cure in found.next_step
        assert "a batch of 64 tokens 64 kB" in found.found
    most = most_tokens(NEED, 64, room.shared(workers).stretched)
    assert (most >= 64) == (found is None)


def test_large_shards_are_named_where_they_are_the_need() -> None:
    found = shortage(replace(NEED, shards=10**6), 64, Room(10**5), 1, longest=16)
    assert found is not None
    assert found.where == "extract.shard_rows"


@pytest.mark.parametrize(("texts", "shard_rows"), [(TEXTS, 64), (3 * SAMPLE_TEXTS, 3 * SAMPLE_TEXTS)])
def test_a_batch_takes_no_more_than_the_texts_of_a_shard(
    tiny_model: Callable[[str], Path], texts_table: Callable[..., Path], texts: int, shard_rows: int
) -> None:
    """100 million tokens a batch of ten-word texts once read as terabytes."""
    params, table = params_for(tiny_model("llama"), batch_tokens=10**8, shard_rows=shard_rows), texts_table(texts)
    found = plan(params, table)
    longest = 12  # of conftest's sentences; widths up to 16 are no multiple of anything
    mean = found.work.tokens_per_text
    assert mean * shard_rows < found.calibration.batch <= longest * shard_rows
    assert found.memory == peak_memory(found.work, found.calibration.batch)
    assert found.memory.total < 2e9
    assert found.lacking is None


def test_a_batch_beyond_the_memory_is_refused_before_it_runs_and_planned_without(
    tiny_model: Callable[[str], Path], texts_table: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params, texts = params_for(tiny_model("llama"), batch_tokens=10**8, shard_rows=64), texts_table(TEXTS)
    need = plan(params, texts).memory
    room = Room(need.weights + need.shards + need.runtime + need.activations // 2)
    monkeypatch.setattr("pipeline.forecast.room.CLEARLY", 1.0)  # of a tiny model, nothing is clearly too much
    monkeypatch.setattr(calibration, "room_here", lambda _: room)
    sizes: list[int] = []
    timed = calibration._timed

    def noting(reader: Any, work: Any, seconds: float) -> Any:
        sizes.extend(batch.ids.numel() for batch in work)
        return timed(reader, work, seconds)

    monkeypatch.setattr(calibration, "_timed", noting)
    found = plan(params, texts)
    assert found.memory == need
    assert re.search(r"Too much: extract\.batch_tokens: set it to \d+ or less", "\n".join(found.lines()))
    assert max(sizes) < found.calibration.batch
    with pytest.raises(UserError, match=r"extract.batch_tokens\n.*fits into(.|\n)*set it to \d+ or less") as caught:
        extract(params, texts, tmp_path / "cache.zarr", tmp_path / "scratch")
    fitting = int(re.search(r"set it to (\d+)", str(caught.value))[1])  # type: ignore[index]
    extract(params.model_copy(update={"batch_tokens": fitting}), texts, tmp_path / "cache.zarr", tmp_path / "scratch")


def test_the_estimate_says_what_matters_in_six_lines(forecast: Estimate) -> None:
    lines = forecast.lines()
    assert [line.split()[0] for line in lines] == ["model", "texts", "disk", "tokens", "memory", "time"]
    assert f"{TEXTS} of" in lines[1]
    assert "5 shards of 64 texts" in lines[1]
    for kind in ("float16", "bfloat16", "float32", "int8"):
        assert kind in lines[2]
    assert "tokens/s" in lines[5]
    json.dumps(forecast.document())
    disk = forecast.document()["disk_bytes_by_type"]
    assert disk["float16"] == forecast.document()["disk_bytes"] < disk["float32"]


def test_the_error_is_said_in_plain_digits(forecast: Estimate) -> None:
    for spread, said in ((0.0021, "± 0.4 %"), (0.057, "± 10 %"), (0.7, "± 100 %")):
        assert f"({said}, from" in replace(forecast, calibration=measured(spread=spread)).lines()[1]


def test_a_calibration_beside_other_work_says_so(forecast: Estimate) -> None:
    """Threads that wait for one another lose more than their share to a neighbour: the estimate is then too high."""
    assert 0 < forecast.calibration.cpu_share <= 1
    idle, busy = (replace(forecast, calibration=measured(cpu_share=share)) for share in (0.95, 0.4))
    assert "Other processes" not in idle.lines()[-1]
    assert "Other processes used this machine meanwhile" in busy.lines()[-1]


def test_a_long_table_is_sampled_evenly(tmp_path: Path) -> None:
    path = tmp_path / "texts.parquet"
    pl.DataFrame({"text_id": ["0"] * 100_000, "text": [str(i) for i in range(100_000)]}).write_parquet(path)
    sampled = [int(text) for text in sample_texts(path, 100_000)]
    assert len(sampled) <= SAMPLE_TEXTS
    assert (sampled[0], sampled[-1]) == (0, 99_999)
    assert np.mean(sampled) == pytest.approx(50_000, rel=0.01)
    assert max(np.diff(sampled)) < 1.1 * 100_000 / (len(sampled) / calibration.SAMPLE_RUN - 1)


def test_the_error_of_a_sample_is_known(tmp_path: Path) -> None:
    """Random lengths: the sample's mean misses the true one by more than three standard errors once in 400 times."""
    lengths = np.random.default_rng(0).integers(1, 200, 50_000)
    starts = np.linspace(0, 50_000 - 64, 31).astype(int)
    sample = np.concatenate([lengths[start : start + 64] for start in starts])
    error = calibration._standard_error(sample, 50_000)
    assert 0.001 < error < 0.03
    assert abs(sample.mean() - lengths.mean()) < 3 * error * lengths.mean()
    assert calibration._standard_error(lengths, 50_000) == 0


# --- a model that is not here


SEVEN = {"hidden_size": 4096, "intermediate_size": 11_008, "num_hidden_layers": 32, "num_attention_heads": 32}


def config_file(folder: Path, config: Any) -> Path:
    config.save_pretrained(folder)
    return folder


def test_a_7b_model_and_a_hundred_million_texts_are_answered_in_seconds_from_the_configuration(tmp_path: Path) -> None:
    folder = config_file(tmp_path / "seven", LlamaConfig(**SEVEN))
    started = time.perf_counter()
    result = ilse("plan", "--model-config", str(folder))
    assert time.perf_counter() - started < 60  # about 5 s on an idle machine, most of it imports
    assert result.returncode == 0, result.stderr
    assert "6.61 B parameters, 33 layers of width 4096" in result.stdout
    assert "100,000,000 of 128 tokens" in result.stdout
    assert "27 TB as float16" in result.stdout
    for machine in MACHINES:
        assert f"\n{machine.name} " in result.stdout


@pytest.mark.parametrize("path", ["seven", "seven/config.json"])
def test_a_configuration_is_a_folder_or_a_file(tmp_path: Path, path: str) -> None:
    config_file(tmp_path / "seven", LlamaConfig(**SEVEN))
    shape = from_config(tmp_path / path)
    assert (shape.name, shape.layers, shape.dim, shape.intermediate) == ("seven", 33, 4096, 11_008)
    block = 4 * 4096**2 + 3 * 4096 * 11_008
    assert shape.flops_per_token == 2 * 32 * block
    assert shape.parameters == 32_000 * 4096 + 32 * block + (2 * 32 + 1) * 4096


def test_a_configuration_gives_the_parameters_of_the_model_itself(tiny_model: Callable[[str], Path]) -> None:
    for name in ("llama", "gpt2", "bert", "gpt_neox"):
        model = AutoModel.from_pretrained(tiny_model(name))
        shape = from_config(tiny_model(name))
        assert shape.parameters == sum(weight.numel() for weight in model.parameters())
        assert (shape.layers, shape.dim) == (4, 32)


def test_of_an_encoder_decoder_the_encoder_counts(tmp_path: Path) -> None:
    sizes = {"d_model": 32, "d_ff": 64, "num_layers": 3, "num_heads": 4, "d_kv": 8, "vocab_size": 64}
    shape = from_config(config_file(tmp_path, T5Config(**sizes)))
    encoder = AutoModel.from_config(AutoConfig.from_pretrained(tmp_path)).get_encoder()
    assert shape.parameters == sum(weight.numel() for weight in encoder.parameters())
    assert shape.layers == 4


def test_a_mixture_of_experts_counts_the_experts_that_a_token_meets(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    more = {"num_key_value_heads": 4, "vocab_size": 64, "num_local_experts": 8, "num_experts_per_tok": 2}
    shape = from_config(config_file(tmp_path, MixtralConfig(**sizes, **more)))
    assert shape.flops_per_token == 2 * 2 * (4 * 32 * 32 + 8 * 32 + 2 * 3 * 32 * 64)


def test_counting_takes_no_memory(tmp_path: Path) -> None:
    shape = from_config(config_file(tmp_path, LlamaConfig(**{**SEVEN, "num_hidden_layers": 800})))
    assert shape.parameters > 160e9  # 640 GB, had they been allocated
    assert torch.empty(0).device.type == "cpu"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (None, "nothing there"),
        ('{"model_type": "zork"}', "zork"),
        ('{"model', "not a valid JSON"),
        ("[]", "model_type"),
    ],
)
def test_what_is_no_configuration_is_refused(tmp_path: Path, content: str | None, found: str) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="model configuration") as error:
        from_config(path)
    assert found in str(error.value)


def test_three_numbers_are_enough_without_torch() -> None:
    code = "import sys; from pipeline.forecast.elsewhere import quote;"
    code += "quote(parameters='7B', layers='33', dim='4096').lines();"
    code += "print([m for m in ('torch', 'transformers', 'dask') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_json_holds_the_same_figures() -> None:
    arguments = ("--parameters", "7e9", "--layers", "33", "--dim", "4096", "--texts-count", "1M")
    document = json.loads(ilse("plan", *arguments, "--tokens-per-text", "200", "--json").stdout)
    assert (document["texts"], document["tokens"]) == (1_000_000, 200_000_000)
    assert [machine["machine"] for machine in document["machines"]] == [machine.name for machine in MACHINES]
    assert document == json.loads(json.dumps(quoted("1M", "200").document()))


def quoted(texts: str, tokens: str) -> Quote:
    return quote(parameters="7e9", layers="33", dim="4096", texts_count=texts, tokens_per_text=tokens)


def test_a_model_that_fits_no_device_has_no_time() -> None:
    found = quote(parameters="70B", layers="81", dim="8192")
    rows = {row["machine"]: row for row in found.document()["machines"]}
    assert rows["H100"] | {"seconds": None, "bound_by": "memory", "dollars": None} == rows["H100"]
    assert all(" memory " in line for line in found.lines() if line.startswith(("L4", "A10G", "H100", "8 x")))


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["--texts-count", "1M"], "no model"),
        (["--parameters", "7B"], "--parameters"),
        (["--model-config", "x", "--dim", "3"], "--model-config and --dim"),
        (["--parameters", "many", "--layers", "33", "--dim", "4096"], "'many'"),
        (["--parameters", "7B", "--layers", "2.5", "--dim", "4096"], "'2.5'"),
    ],
)
def test_what_the_command_line_does_not_say_clearly_is_refused(arguments: list[str], found: str) -> None:
    result = ilse("plan", *arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert found in result.stderr
    assert "next: " in result.stderr


@pytest.mark.parametrize(
    ("text", "value"),
    [("7e9", 7e9), ("7B", 7e9), ("100M", 1e8), ("100e6", 1e8), ("1.5k", 1500), ("100_000", 1e5), ("1,000", 1e3)],
)
def test_numbers_are_read_as_people_write_them(text: str, value: float) -> None:
    assert parse_count(text, "--texts-count") == value


@pytest.mark.parametrize("text", ["", "0", "-3", "1.5", "7X", "nan", "1e400"])
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="--texts-count"):
        parse_count(text, "--texts-count")


def test_durations_and_sizes_have_two_or_three_digits() -> None:
    assert [duration(s) for s in (0.04, 34.2, 456, 18_720, 267_840, 2.05e8)] == [
        "0.0 s",
        "34 s",
        "7.6 min",
        "5.2 h",
        "3.1 d",
        "6.5 years",
    ]
    assert [size(b) for b in (999, 82.5e6, 27.03e12, 3.2e15)] == ["999 B", "82.5 MB", "27 TB", "3.2 PB"]


def test_a_table_is_aligned() -> None:
    assert aligned([("machine", "time"), ("L4", "43 d")]) == ["machine  time", "L4       43 d"]


def test_the_tables_of_the_scaling_document_are_the_codes_output() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "make_scaling.py"))
    found = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert found == made["document"](), "run: python docs/make_scaling.py"
    for name in [*made["TABLES"], *made["SCALES"]]:
        assert f"<!-- table: {name} -->\n| " in found


def ilse(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ilse.cli", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
