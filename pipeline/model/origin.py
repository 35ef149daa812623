"""Where a model comes from: what transformers is given to read it, and what is refused before it does."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from ilse.errors import UserError
from pipeline.config import ModelParams


def find_source(params: ModelParams) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` takes for these parameters: a name or folder, and further arguments.

    Raises `UserError` for what is not there, or comes with code that was not named as trusted.
    """
    arguments: dict[str, Any] = {"trust_remote_code": params.trust_remote_code}
    if params.hub is not None:
        return params.hub, {**arguments, "revision": params.revision}
    assert params.path is not None
    if not params.path.exists():
        raise UserError(
            f"model {params.path}",
            expected="a model folder or a GGUF file",
            found="nothing there",
            next_step="run 'ilse fetch', or correct extract.model.path",
        )
    if params.path.is_dir():
        _refuse_remote_code(params.path, params.trust_remote_code)
        return str(params.path), {**arguments, "local_files_only": True}
    if params.path.suffix != ".gguf":
        raise UserError(
            f"model {params.path}",
            expected="a folder, or a file that ends in .gguf",
            found="another kind of file",
            next_step="name the folder that holds config.json and the weights",
        )
    return str(params.path.parent), {**arguments, "gguf_file": params.path.name, "local_files_only": True}


def _refuse_remote_code(folder: Path, trusted: bool) -> None:
    """Only a model that transformers does not know needs its own code; any other is read by transformers' own."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return  # transformers says better what is wrong with it
    if not trusted and config.get("auto_map") and config.get("model_type") not in CONFIG_MAPPING:
        raise UserError(
            f"model {folder}",
            expected="an architecture that transformers knows",
            found=f"'{config.get('model_type')}', which comes with Python code of its own; none of it was run",
            next_step="read that code, then set extract.model.trust_remote_code to true, or take another model",
        )


@contextlib.contextmanager
def named_errors(params: ModelParams) -> Iterator[None]:
    """Turns what transformers raises while it reads a model into a `UserError` that names it."""
    try:
        # Reading GGUF shows bars of its own, which would run into ours.
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise UserError(
            f"model {params.hub or params.path}",
            expected="a model and a tokenizer that transformers can load from safetensors or GGUF",
            found=" ".join(str(error).split())[:300],
            next_step="correct extract.model, or run 'ilse fetch' first",
        ) from error


def quantisation(params: ModelParams, config: Any) -> str:
    """How the files hold the weights, such as `GGUF` or `bitsandbytes`; empty where they are plain."""
    if params.path is not None and params.path.suffix == ".gguf":
        return "GGUF"
    named = getattr(config, "quantization_config", None)
    method = named.get("quant_method", "") if isinstance(named, dict) else getattr(named, "quant_method", "")
    return str(getattr(method, "value", method))


def require_bitsandbytes(params: ModelParams, quantised: str) -> None:
    """Raises `UserError` where the package is needed and missing."""
    if quantised.startswith("bitsandbytes") and importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"model {params.hub or params.path}",
            expected="the package bitsandbytes, which its quantised weights need",
            found="it is not installed",
            next_step="run 'pip install bitsandbytes', or take the model's unquantised weights",
        )
