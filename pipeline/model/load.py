"""Loads a frozen model with its tokenizer from a Hub id, a local folder or a GGUF file, and says what it is."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any
from weakref import WeakSet, WeakValueDictionary

import torch
import transformers

from ilse import __version__
from ilse.core.errors import UserError
from ilse.core.machine.hardware import native_bfloat16
from ilse.core.machine.linear import pays, use_onednn
from pipeline.config import ModelParams
from pipeline.model.architecture import accepts, text_part, vocabulary, width
from pipeline.model.compiled import compile_blocks
from pipeline.model.configuration import read_config
from pipeline.model.failures import named_failures
from pipeline.model.gguf_parsing import parsed_once
from pipeline.model.identity import model_identity, reading_identity, stored_bytes
from pipeline.model.kept import Kept, Stamp, require_unchanged, stamp
from pipeline.model.kinds import kinds, outline
from pipeline.model.origin import find_source, named_errors, quantisation, require_bitsandbytes
from pipeline.model.pristine import Pristine
from pipeline.model.witness import Witness, call_witness, flops_per_token
from pipeline.tokenizer.loading import padding, read_tokenizer, special_tokens

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
    """Facts about a model for the main process, which does not load it; only workers do.

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
    vocabulary
        Token ids that the model has a row for, from 0.
    special_tokens
        How many the tokenizer adds to a text; None where it does not say.
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
    vocabulary: int
    special_tokens: int | None
    flops_per_token: int
    compute_type: str
    device: str
    compiled: bool
    versions: dict[str, str]


@dataclass(frozen=True, eq=False)
class FrozenModel:
    """The part of a base model that reads text, in evaluation mode, and its tokenizer.

    Whoever uses it holds it; several may, in several threads.

    Parameters
    ----------
    witness
        Its hidden states of made-up texts.
    again
        Loads the model once more.
    lock
        Held by whoever runs the model: its blocks carry the hooks of one forward pass at a time.
    passes
        Everyone's ways through it that are in use: the blocks that any of them runs stay in memory.
    readers
        Readers of it that are in use, by what they read.
    pristine
        What a forward pass left on the model is taken back by it.
    """

    model: Any
    tokenizer: Any
    facts: ModelFacts
    witness: Witness
    again: Callable[[], Any]
    lock: threading.RLock = field(default_factory=threading.RLock, repr=False)
    passes: WeakSet[Any] = field(default_factory=WeakSet, repr=False)
    readers: WeakValueDictionary[Any, Any] = field(default_factory=WeakValueDictionary, repr=False)

    @functools.cached_property
    def pristine(self) -> Pristine:  # noqa: D102 # an attribute, made when the first reader is
        return Pristine(self.model)

    @property
    def pad(self) -> int:
        """The id that fills up the rows of a batch."""
        return padding(self.tokenizer, self.model.config, self.facts.vocabulary)


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


MODELS: Kept[FrozenModel] = Kept()
"""Loaded models, keyed by their parameters, the state of their files and how they compute."""


def load_model(params: ModelParams, compute: Compute) -> FrozenModel:
    """The model as its files are now; the one that is in memory, while someone uses it and the files are the same.

    Raises `UserError` when it is missing, unreadable, without a tokenizer, only there as a pickle, or runs code of
    its own without leave, and for files that change while they are read.
    """
    made_from = _made_from(params, compute)
    return MODELS.get(made_from, functools.partial(_load, *made_from))


def in_memory(params: ModelParams, compute: Compute) -> FrozenModel | None:
    """The model if it is in memory already, else None; loads nothing."""
    return MODELS.held(_made_from(params, compute))


def _made_from(params: ModelParams, compute: Compute) -> tuple[ModelParams, Stamp, str, str, bool]:
    device = choose_device(compute.device)
    return params, stamp(params), choose_compute_type(compute.type, device), device, compute.compile


def _load(params: ModelParams, files: Stamp, compute_type: str, device: str, compiled: bool) -> FrozenModel:
    with parsed_once(params):
        config = read_config(params)
        tokenizer = read_tokenizer(params, config)
        read = functools.partial(_read, params, files, config, compute_type, device)
        model = read()
    with named_failures(model.config.model_type, "use another model: this one cannot be read"):
        witness = call_witness(model, device)
    if compiled:
        compile_blocks(model)
    facts = _facts(params, model, tokenizer, witness, compute_type, device, compiled)
    require_unchanged(params, files)  # its identity too was taken from them
    return FrozenModel(model, tokenizer, facts, witness, lambda: compile_blocks(read()) if compiled else read())


def _read(params: ModelParams, files: Stamp, config: Any, compute_type: str, device: str) -> Any:
    require_unchanged(params, files)
    if params.untrained is not None:
        model, packed = _untrained(params, config, compute_type), False
    else:
        packed = quantisation(params, config) not in ("", "GGUF")
        model = _trained(params, config, compute_type, device, packed)
    model = text_part(model).eval().requires_grad_(False)
    if not packed:
        model = model.to(device)
        _own(model)
    require_unchanged(params, files)
    if pays():
        use_onednn(model)
    return model


def _own(model: Any) -> None:
    """Copies weights in main memory: windows onto a file change with it, and end the process if it shrinks.

    Nothing tells which. One copy at a time, so that memory holds one of them twice at the most.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def _untrained(params: ModelParams, config: Any, compute_type: str) -> Any:
    """The model before any training: its weights as its authors' code draws them, on the CPU so that they are one."""
    with torch.random.fork_rng(devices=[]), named_errors(params):
        torch.manual_seed(params.untrained or 0)
        return outline(kinds(config)[0], config, params.trust_remote_code, dtype=COMPUTE_TYPES[compute_type])


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
    arguments |= {"config": config, "dtype": COMPUTE_TYPES[compute_type], "output_loading_info": True}
    drawn: list[str] = []
    for kind in kinds(config):
        _require_room(params, kind, config)
        with named_errors(params), parsed_once(params):
            model, loading = kind.from_pretrained(source, **arguments)
        # Poolers, which no hidden state passes, may be missing.
        missing = sorted(name for name in loading["missing_keys"] if "pooler" not in name)
        if not missing:
            return model
        drawn = drawn or missing
    raise _not_whole(params, drawn)


def _require_room(params: ModelParams, kind: Any, config: Any) -> None:
    """Whether the config's sizes are those of the files: what they do not hold, transformers would draw at random."""
    stored = stored_bytes(params)
    if params.path is None or not stored:  # transformers says better that there are none
        return
    with named_errors(params), torch.device("meta"):
        outlined = outline(kind, config, params.trust_remote_code)
    values, most = sum(weight.numel() for weight in outlined.parameters()), 8 * stored
    if values > most:  # a bit a value
        raise UserError(
            f"model {params.name}",
            expected=f"a config that fits the weights, which hold at most {most:,} values",
            found=f"one of {values:,} values",
            next_step="fetch the model again, or use another one",
        )


def _not_whole(params: ModelParams, drawn: list[str]) -> UserError:
    """Transformers draws weights at random where the files have none."""
    return UserError(
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
        tokenizer=reading_identity(tokenizer, accepts(model, "token_type_ids"), witness.feels_padding),
        architecture=model.config.model_type,
        layers=witness.layers,
        dim=width(model.config),
        parameters=sum(weight.numel() for weight in weights),
        bytes=sum(weight.numel() * weight.element_size() for weight in weights),
        stored_bytes=stored_bytes(params),
        quantised=quantisation(params, model.config) if params.untrained is None else "",
        window=witness.window,
        vocabulary=vocabulary(model),
        special_tokens=special_tokens(tokenizer),
        flops_per_token=flops_per_token(model),
        compute_type=compute_type,
        device=device,
        compiled=compiled,
        versions={"ilse-cache": __version__, **{name: version(name) for name in packages}},
    )
