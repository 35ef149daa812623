"""Loads a frozen model with its tokenizer from a Hub id, a local folder or a GGUF file, and says what it is."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import io
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoTokenizer

from ilse import __version__
from ilse.errors import UserError
from pipeline.config import ModelParams

COMPUTE_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# What a checksum of a model folder covers: weights, configuration and tokenizer, never a README or a cache file.
MODEL_FILES = ("*.safetensors", "*.json", "*.model", "*.txt", "*.gguf")


@dataclass(frozen=True)
class ModelFacts:
    """What the main process needs to know of a model that only workers load."""

    name: str
    identity: dict[str, str]
    tokenizer: str
    architecture: str
    layers: tuple[str, ...]
    dim: int
    parameters: int
    window: int
    compute_type: str
    device: str
    versions: dict[str, str]


@dataclass(frozen=True)
class FrozenModel:
    """A base model in evaluation mode, without a vocabulary head, and its tokenizer."""

    model: Any
    tokenizer: Any
    facts: ModelFacts


def choose_device(requested: str) -> str:
    """`auto` is the first CUDA device where there is one, else the CPU."""
    if requested == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if requested == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "extract.device",
            expected="a device that this machine has",
            found="cuda, and no CUDA device",
            next_step="set extract.device to auto or cpu",
        )
    return requested


def choose_compute_type(requested: str, device: str) -> str:
    """`auto` is bfloat16 where the hardware multiplies it natively, else float32."""
    if requested != "auto":
        return requested
    if device == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # Private to torch, and its only word on the matter; a release without them means float32, which is right.
        checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        native = any(getattr(torch.cpu, check, lambda: False)() for check in checks)
    return "bfloat16" if native else "float32"


def load_model(params: ModelParams, compute_type: str, device: str, threads: int) -> FrozenModel:
    """The model, loaded once a process; `threads` are the CPU threads that it then uses.

    Raises `UserError` when it is missing, unreadable, without a tokenizer, or only there as a pickle.
    """
    torch.set_num_threads(threads)  # a Dask worker starts with one, whatever the machine has
    device = choose_device(device)
    return _load(params, choose_compute_type(compute_type, device), device)


@functools.lru_cache(maxsize=1)
def _load(params: ModelParams, compute_type: str, device: str) -> FrozenModel:
    source, arguments = _source(params)
    try:
        # Reading GGUF shows bars of its own, which would run into ours.
        with contextlib.redirect_stderr(io.StringIO()):
            config = AutoConfig.from_pretrained(source, **arguments)
            tokenizer = AutoTokenizer.from_pretrained(source, config=config, **arguments)
            weights = {} if "gguf_file" in arguments else {"use_safetensors": True}
            model = AutoModel.from_pretrained(
                source, config=config, dtype=COMPUTE_TYPES[compute_type], **weights, **arguments
            )
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise UserError(
            f"model {params.hub or params.path}",
            expected="a model and a tokenizer that transformers can load from safetensors or GGUF",
            found=" ".join(str(error).split())[:300],
            next_step="correct extract.model, or run 'ilse fetch' first",
        ) from error
    model = model.eval().requires_grad_(False).to(device)
    return FrozenModel(model, tokenizer, _facts(params, model, tokenizer, compute_type, device))


def _source(params: ModelParams) -> tuple[str, dict[str, Any]]:
    """What `from_pretrained` takes for these parameters."""
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
        return str(params.path), {**arguments, "local_files_only": True}
    if params.path.suffix != ".gguf":
        raise UserError(
            f"model {params.path}",
            expected="a folder, or a file that ends in .gguf",
            found="another kind of file",
            next_step="name the folder that holds config.json and the weights",
        )
    return str(params.path.parent), {**arguments, "gguf_file": params.path.name, "local_files_only": True}


def _facts(params: ModelParams, model: Any, tokenizer: Any, compute_type: str, device: str) -> ModelFacts:
    config = model.config
    blocks = int(config.num_hidden_layers)
    serialised = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else repr(sorted(tokenizer.get_vocab()))
    packages = ("torch", "transformers", "tokenizers", "zarr", "numpy")
    return ModelFacts(
        name=params.hub or (params.path.name if params.path else ""),
        identity=_identity(params),
        tokenizer=hashlib.sha256(serialised.encode()).hexdigest(),
        architecture=config.model_type,
        layers=("embedding", *(f"block {i}" for i in range(1, blocks)), "final"),
        dim=int(config.hidden_size),
        parameters=sum(p.numel() for p in model.parameters()),
        window=int(getattr(config, "max_position_embeddings", None) or 2**31 - 1),
        compute_type=compute_type,
        device=device,
        versions={"ilse-cache": __version__, **{name: version(name) for name in packages}},
    )


def _identity(params: ModelParams) -> dict[str, str]:
    if params.hub is not None:
        return {"hub": params.hub, "revision": str(params.revision)}
    assert params.path is not None
    if params.path.is_file():
        return {"sha256": _file_sha256(params.path)}
    files = sorted({file for pattern in MODEL_FILES for file in params.path.glob(pattern)})
    listing = "".join(f"{_file_sha256(file)}  {file.name}\n" for file in files)
    return {"sha256": hashlib.sha256(listing.encode()).hexdigest()}


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def accepts(model: Any, argument: str) -> bool:
    """Whether the model's forward pass takes this argument."""
    return argument in inspect.signature(model.forward).parameters


def quieten() -> None:
    """Keeps transformers' own progress bars and advice out of ours."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
