"""Checks a model's folder before it is read: it may hold its own files, but no code or weights from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING

from ilse.core.errors import UserError
from ilse.core.files.json_files import own_file, own_path, read_json

MOST = 4096
"""Blocks or experts of a model; each is made one by one, whatever the weights then hold."""
_COUNTS = re.compile(r"(layers?|blocks?|experts|depth)$")


def check_folder(folder: Path, trusted: bool) -> None:
    """Raises `UserError` for links and names that lead out of the folder, for an adapter of another model, for sizes
    beyond sense, and, unless it is `trusted`, for code of its own.
    """
    try:
        for path in sorted(folder.iterdir()):
            if not own_path(folder, path.name).is_dir():
                own_file(folder, path.name)
        for index in sorted(folder.glob("*.index.json")):
            _check_index(folder, index)
        config = _config(folder)
        _check_counts(config)
    except (OSError, ValueError) as error:
        raise _refused(folder, "files of its own, of sizes that a model has", str(error)[:200]) from error
    if (folder / "adapter_config.json").exists():
        expected = "a model"
        raise _refused(folder, expected, "adapter_config.json, of an adapter, in whose place another model is read")
    _check_quantisation(folder, config)
    if not trusted:
        _refuse_code(folder, config)


def _config(folder: Path) -> dict[str, Any]:
    """An empty one where it is missing or does not parse: transformers says better what is wrong with it."""
    try:
        config = read_json(folder / "config.json")
    except (OSError, ValueError):
        return {}
    if not isinstance(config, dict):
        raise ValueError(f"config.json with a {type(config).__name__}, which is not an object")
    return config


def _check_index(folder: Path, index: Path) -> None:
    """An index names the files that hold the weights; those of its folder are what the model's checksum covers."""
    values = read_json(index)
    names = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(f"{index.name}, which maps no weights to files")
    for name in sorted(set(names.values())):
        if Path(name).name != name:
            raise ValueError(f"{index.name}, which names {name[:80]}, a file that is not in the folder")


def _check_counts(config: dict[str, Any]) -> None:
    for name, value in _numbers(config):
        if _COUNTS.search(name) and value > MOST:
            raise ValueError(f"config.json, where {name} is {value:.4g}")


def _numbers(values: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Every number of the config and of the sections in it."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _numbers(value)
        elif isinstance(value, int | float):
            yield name, value


def _check_quantisation(folder: Path, config: dict[str, Any]) -> None:
    """Transformers passes over a method that it does not know, and reads packed weights as if they were plain."""
    named = config.get("quantization_config")
    method = named.get("quant_method") if isinstance(named, dict) else named
    packed = isinstance(named, dict) and any(named.get(f"load_in_{bits}bit") for bits in (4, 8))
    if named is not None and not packed and str(method) not in AUTO_QUANTIZER_MAPPING:
        raise _refused(folder, "plain weights, or a quantisation that transformers knows", f"{method!r}"[:80])


def _refuse_code(folder: Path, config: dict[str, Any]) -> None:
    """Refuses code in the model's folder unless transformers does not know the architecture and so needs it."""
    if config.get("auto_map") and config.get("model_type") not in CONFIG_MAPPING:
        raise UserError(
            f"model {folder}",
            expected="an architecture that transformers knows",
            found=f"'{config.get('model_type')}', which comes with Python code of its own; none of it was run",
            next_step="read that code, then set extract.model.trust_remote_code to true, or use another model",
        )


def _refused(folder: Path, expected: str, found: str) -> UserError:
    return UserError(
        f"model {folder}",
        expected=expected,
        found=found,
        next_step="download the model again from its publisher, or use another one",
    )
