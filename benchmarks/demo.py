"""The demo's model and texts for the benchmarks, fetched by the pinned references of `params.yaml` when missing."""

from __future__ import annotations

from pathlib import Path

from ilse.core.files.table_files import read_parquet
from ilse.core.params import load_section
from ilse.core.tables import TEXT, TEXTS_FILE
from pipeline.config import ExtractParams, ModelParams
from pipeline.stages.fetch import FetchParams, fetch
from pipeline.stages.prepare import PrepareParams, prepare

RAW = Path("data/raw")


def demo_params() -> ExtractParams:
    """The demo's parameters, its model fetched."""
    params = load_section("extract", ExtractParams)
    assert params.model.path is not None
    if not params.model.path.exists():
        fetch(load_section("fetch.model", FetchParams).root, RAW / "model")
    return params


def demo_texts(folder: Path, whole: bool) -> Path:
    """A texts.parquet in `folder`: the articles as a whole, or their headlines."""
    params = load_section("prepare", PrepareParams)
    if not Path(str(params.path)).exists():
        fetch(load_section("fetch.texts", FetchParams).root, RAW / "texts")
    prepare(params.model_copy(update={"use": "whole" if whole else params.use}), folder)
    return folder / TEXTS_FILE


def first_texts(texts: Path, count: int, out: Path) -> Path:
    """A table of the first `count` texts."""
    read_parquet(texts).head(count).write_parquet(out)
    return out


def read_texts(texts: Path) -> list[str]:
    """The texts of a table."""
    found: list[str] = read_parquet(texts)[TEXT].to_list()
    return found


def plain_copy(params: ModelParams, folder: Path) -> ModelParams:
    """The model as float32 safetensors in `folder`: the very same weights, loaded in a second where GGUF takes 18."""
    from pipeline.model.load import Compute, load_model

    frozen = load_model(params, Compute("float32", "cpu", 1, 1024, False, "hooks"))
    config = frozen.model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    plain = type(frozen.model)(config)  # a model read from GGUF refuses to be saved
    plain.load_state_dict(frozen.model.state_dict())
    plain.save_pretrained(folder)
    frozen.tokenizer.save_pretrained(folder)
    return ModelParams(path=folder)
