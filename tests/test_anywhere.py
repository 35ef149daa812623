"""Training where the extra 'train' alone is installed. From a cache that DVC pulls: `test_dvc.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipeline.store import Location
from tests.s3 import bucket
from tests.trainer.conftest import write_task
from tests.without import ONLY_TO_EXTRACT, ilse_without, predictions_without

for package in ("lightning", "moto", "obstore"):
    pytest.importorskip(package, reason="needs the extra 'test'")

PARAMS = {
    "train": {"heads": ["last"], "seeds": 1, "device": "cpu", "recipe": {"epochs": 2}},
    "controls": {"names": [], "caches": {}, "baseline": None},
    "lora": {"run": []},
}


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for found in bucket(monkeypatch, "caches"):
        yield f"{found}/news/cache.zarr"


def test_training_and_evaluation_from_object_storage_without_the_packages_of_extraction(
    url: str, tmp_path: Path
) -> None:
    made = write_task(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    remote = Location(url)
    for name, _ in Location(made.cache).list():
        remote.put(name, Location(made.cache).get(name))
    data = {"remote": (url, made.examples), "local": (made.cache, made.examples)}
    predictions = predictions_without(ONLY_TO_EXTRACT, tmp_path, data)
    assert predictions["remote"]
    assert predictions["remote"] == predictions["local"]


def test_the_packages_are_hidden(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra 'extract'")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"extract": {"model": {"path": "."}}}))
    with pytest.raises(AssertionError, match="no package 'transformers'"):
        ilse_without(["transformers"], tmp_path, ("extract",))
