"""Loads a frozen model with its tokenizer from a Hub id, a local folder or a GGUF file, and says what it is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from ilse import __version__
from ilse.errors import UserError
from ilse.hardware import native_bfloat16
from ilse.linear import pays, use_onednn
from ilse.memory import keep_freed_memory
from pipeline.config import ModelParams
from pipeline.model.architecture import find_blocks, text_part, width, window
from pipeline.model.compiled import compile_blocks
from pipeline.model.identity import model_identity, stored_bytes, tokenizer_identity
from pipeline.model.origin import find_source, named_errors, quantisation, require_bitsandbytes
from pipeline.model.witness import Witness, call_witness

COMPUTE_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """How a worker runs the model: what decides the last bits of a value.

    Parameters
    ----------
    type
        `auto`, `float32`, `bfloat16` or `float16`.
    device
        `auto`, `cpu` or `cuda`.
    threads
        CPU threads.
    batch_tokens
        Tokens of a batch, padding included.
    compile
        Whether the blocks are compiled.
    capture
        `hooks` or `hidden_states`.
    """

    type: str
    device: str
    threads: int
    batch_tokens: int
    compile: bool
    capture: str


@dataclass(frozen=True)
class ModelFacts:
    """What the main process needs to know of a model that only workers load.

    Parameters
    ----------
    layers
        Name of every layer, in the order of Hugging Face's `hidden_states`.
    parameters, bytes
        Of the part that reads text, in memory and as computed.
    stored_bytes
        Size of the files that the weights were read from; 0 for a Hub id.
    quantised
        How those files hold them, such as `GGUF`, or an empty string.
    window
        Longest text in tokens.
    flops_per_token
        Twice the entries of the blocks' weight matrices.
    """

    name: str
    identity: dict[str, str]
    tokenizer: str
    architecture: str
    layers: tuple[str, ...]
    dim: int
    parameters: int
    bytes: int
    stored_bytes: int
    quantised: str
    window: int
    flops_per_token: int
    compute_type: str
    device: str
    compiled: bool
    versions: dict[str, str]


@dataclass(frozen=True)
class FrozenModel:
    """The part of a base model that reads text, in evaluation mode, and its tokenizer.

    `witness` holds its hidden states of made-up texts, and `again` loads the model once more.
    """

    model: Any
    tokenizer: Any
    facts: ModelFacts
    witness: Witness
    again: Callable[[], Any]


def choose_device(requested: str) -> str:
    """`auto` is the first CUDA device where there is one, else the CPU."""
    if requested == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if requested == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "extract.device",
            expected="a device that this machine has",
            found="cuda, and no CUDA device",
            next_step="choose auto or cpu",
        )
    return requested


def choose_compute_type(requested: str, device: str) -> str:
    """`auto` is bfloat16 where the hardware multiplies it natively, else float32."""
    if requested != "auto":
        return requested
    return "bfloat16" if native_bfloat16(device) else "float32"


def load_model(params: ModelParams, compute: Compute) -> FrozenModel:
    """The model, loaded once a process; `compute.threads` are the CPU threads that it then uses.

    Raises `UserError` when it is missing, unreadable, without a tokenizer, only there as a pickle, or runs code of
    its own without leave.
    """
    torch.set_num_threads(compute.threads)  # a Dask worker starts with one, whatever the machine has
    device = choose_device(compute.device)
    if device == "cpu":
        keep_freed_memory()
    return _load(params, choose_compute_type(compute.type, device), device, compute.compile)


@functools.lru_cache(maxsize=1)
def _load(params: ModelParams, compute_type: str, device: str, compiled: bool) -> FrozenModel:
    source, arguments = find_source(params)
    with named_errors(params):
        config = AutoConfig.from_pretrained(source, **arguments)
        tokenizer = AutoTokenizer.from_pretrained(source, config=config, **arguments)
    read = functools.partial(_read, params, config, compute_type, device)
    model = read()
    witness = call_witness(model, device)
    if compiled:
        compile_blocks(model)
    facts = _facts(params, model, tokenizer, witness, compute_type, device, compiled)
    return FrozenModel(model, tokenizer, facts, witness, lambda: compile_blocks(read()) if compiled else read())


def _read(params: ModelParams, config: Any, compute_type: str, device: str) -> Any:
    if params.untrained is not None:
        model, packed = _untrained(params, config, compute_type), False
    else:
        packed = quantisation(params, config) not in ("", "GGUF")
        model = _trained(params, config, compute_type, device, packed)
    model = text_part(model).eval().requires_grad_(False)
    if not packed:
        model = model.to(device)
    if pays():
        use_onednn(model)
    return model


def _untrained(params: ModelParams, config: Any, compute_type: str) -> Any:
    """The model before any training: its weights as its authors' code draws them, on the CPU so that they are one."""
    with torch.random.fork_rng(devices=[]), named_errors(params):
        torch.manual_seed(params.untrained or 0)
        return AutoModel.from_config(
            config, dtype=COMPUTE_TYPES[compute_type], trust_remote_code=params.trust_remote_code
        )


def _trained(params: ModelParams, config: Any, compute_type: str, device: str, packed: bool) -> Any:
    source, arguments = find_source(params)
    if "gguf_file" in arguments:
        # Newer releases may leave the weights packed; always dense, so that every machine computes the same.
        config_of = getattr(transformers, "GgufConfig", None)
        arguments |= {"quantization_config": config_of(dequantize=True)} if config_of else {}
    else:
        arguments["use_safetensors"] = True
    if packed:
        require_bitsandbytes(params, quantisation(params, config))
        arguments["device_map"] = {"": device}  # such weights are placed while they are read, and never moved
    _require_room(params, config)
    with named_errors(params):
        model, loading = AutoModel.from_pretrained(
            source, config=config, dtype=COMPUTE_TYPES[compute_type], output_loading_info=True, **arguments
        )
    _require_whole(params, loading["missing_keys"])
    return model


def _require_room(params: ModelParams, config: Any) -> None:
    """Whether the config's sizes are those of the files: what they do not hold, transformers would draw at random."""
    stored = stored_bytes(params)
    if params.path is None or not stored:  # transformers says better that there are none
        return
    with named_errors(params), torch.device("meta"):
        outlined = AutoModel.from_config(config, trust_remote_code=params.trust_remote_code)
    values, most = sum(weight.numel() for weight in outlined.parameters()), 8 * stored
    if values > most:  # a bit a value
        raise UserError(
            f"model {params.name}",
            expected=f"a config of the weights beside it, which hold {most:,} values at the most",
            found=f"one of {values:,} values",
            next_step="fetch the model again, or take another one",
        )


def _require_whole(params: ModelParams, missing: Iterable[str]) -> None:
    """Transformers draws weights at random where the files have none. Poolers, which no hidden state passes, may be."""
    drawn = sorted(name for name in missing if "pooler" not in name)
    if drawn:
        raise UserError(
            f"model {params.name}",
            expected="a weight for every part of the model that reads text",
            found=f"none for {len(drawn)} of them, such as {drawn[0]}",
            next_step="fetch the model again, or name one whose files are of its own architecture",
        )


def _facts(
    params: ModelParams,
    model: Any,
    tokenizer: Any,
    witness: Witness,
    compute_type: str,
    device: str,
    compiled: bool,
) -> ModelFacts:
    packages = ("torch", "transformers", "tokenizers", "zarr", "numpy")
    weights = list(model.parameters())
    return ModelFacts(
        name=params.name,
        identity=model_identity(params),
        tokenizer=tokenizer_identity(tokenizer),
        architecture=model.config.model_type,
        layers=witness.layers,
        dim=width(model.config),
        parameters=sum(weight.numel() for weight in weights),
        bytes=sum(weight.numel() * weight.element_size() for weight in weights),
        stored_bytes=stored_bytes(params),
        quantised=quantisation(params, model.config) if params.untrained is None else "",
        window=window(model.config),
        flops_per_token=_flops_per_token(model),
        compute_type=compute_type,
        device=device,
        compiled=compiled,
        versions={"ilse-cache": __version__, **{name: version(name) for name in packages}},
    )


def _flops_per_token(model: Any) -> int:
    try:
        part: nn.Module = find_blocks(model)
    except UserError:  # read through hidden_states: the whole model is near enough
        part = model
    return 2 * sum(weight.numel() for weight in part.parameters() if weight.dim() >= 2)


def quieten() -> None:
    """Keeps transformers' own progress bars and advice out of ours."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
