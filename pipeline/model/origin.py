"""Where a model comes from: what transformers is given to read it, and what is refused beforehand."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from collections.abc import Iterator
from typing import Any

from ilse.core.errors import MissingError, UserError
from ilse.core.network import lost_connection
from pipeline.config import ModelParams
from pipeline.model.folder import check_folder


def find_source(params: ModelParams) -> tuple[str, dict[str, Any]]:
    """Arguments of `from_pretrained` for these parameters: a name or folder, and further keywords.

    Raises `UserError` for what is not there, or comes with code that was not named as trusted.
    """
    arguments: dict[str, Any] = {"trust_remote_code": params.trust_remote_code}
    if params.hub is not None:
        return params.hub, {**arguments, "revision": params.revision}
    assert params.path is not None
    if not params.path.exists():
        raise MissingError(
            f"model {params.path}",
            expected="a model folder or a GGUF file",
            found="nothing there",
            next_step="run 'ilse fetch', or correct extract.model.path",
        )
    if params.path.is_dir():
        check_folder(params.path, params.trust_remote_code)
        return str(params.path), {**arguments, "local_files_only": True}
    if params.path.suffix != ".gguf":
        raise UserError(
            f"model {params.path}",
            expected="a folder, or a file that ends in .gguf",
            found="another kind of file",
            next_step="name the folder that holds config.json and the weights",
        )
    return str(params.path.parent), {**arguments, "gguf_file": params.path.name, "local_files_only": True}


@contextlib.contextmanager
def named_errors(params: ModelParams) -> Iterator[None]:
    """Turns what transformers raises while it reads a model into a `UserError` that names it."""
    try:
        # Reading GGUF shows bars of its own, which would run into ours.
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    except UserError:
        raise
    except Exception as error:  # of files that others made: whatever in them transformers and its readers stumble over
        where, expected = f"model {params.hub or params.path}", "a model and a tokenizer that transformers can load"
        if params.hub is not None and (lost := lost_connection(where, expected, error)) is not None:
            raise lost from None
        raise UserError(
            where,
            expected=f"{expected} from safetensors or GGUF",
            found=" ".join(str(error).split())[:300] or type(error).__name__,
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
