"""Identity of a model's files: their checksum and size, and the tokenizer's checksum."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from pipeline.config import ModelParams

WEIGHT_FILES = ("*.safetensors", "*.gguf")
# What a checksum of a model folder covers: weights, configuration, tokenizer, code, never a README or a cache file.
MODEL_FILES = (*WEIGHT_FILES, "*.json", "*.model", "*.txt", "*.py")


def model_identity(params: ModelParams) -> dict[str, str]:
    """The commit of a Hub repository, or a sha256 of a local model's files; and the seed of randomly drawn weights."""
    drawn = {} if params.untrained is None else {"untrained": str(params.untrained)}
    return _source(params) | drawn


def _source(params: ModelParams) -> dict[str, str]:
    if params.hub is not None:
        return {"hub": params.hub, "revision": str(params.revision)}
    assert params.path is not None
    if params.path.is_file():
        return {"sha256": _file_sha256(params.path)}
    listing = "".join(f"{_file_sha256(file)}  {file.name}\n" for file in model_files(params))
    return {"sha256": hashlib.sha256(listing.encode()).hexdigest()}


def model_files(params: ModelParams) -> list[Path]:
    """The files that a local model's checksum covers: a copy of them is the same model. None for one on the Hub."""
    if params.path is None:
        return []
    return [params.path] if params.path.is_file() else _files(params.path, MODEL_FILES)


def stored_bytes(params: ModelParams) -> int:
    """Size of the files that a local model's weights are read from; 0 for one on the Hub."""
    if params.path is None:
        return 0
    files = [params.path] if params.path.is_file() else _files(params.path, WEIGHT_FILES)
    return sum(file.stat().st_size for file in files)


def reading_identity(tokenizer: Any, takes_types: bool, feels_padding: bool) -> str:
    """The tokenizer's sha256, and what of its texts' reading is not plain.

    Token types were once dropped, and whatever model was padded. What was made of these models then has other rows, so
    it must have another identity.
    """
    given = tokenizer(["a text"]).get("token_type_ids") or []
    typed = takes_types and any(map(any, given))
    kept = ", with token types" * typed + ", kept from padding" * feels_padding
    return tokenizer_identity(tokenizer) + kept


def tokenizer_identity(tokenizer: Any) -> str:
    """Sha256 of everything a fast tokenizer does, or of a slow one's vocabulary."""
    if tokenizer.is_fast:
        serialised = tokenizer.backend_tokenizer.to_str()
    else:
        serialised = repr(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(serialised.encode()).hexdigest()


def _files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted({file for pattern in patterns for file in folder.glob(pattern)})


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
