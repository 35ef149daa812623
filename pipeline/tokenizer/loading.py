"""Loads the tokenizer that comes with a model; without one, transformers would make one up that knows no words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from transformers.utils.hub import cached_file

from ilse.core.errors import UserError
from pipeline.config import ModelParams
from pipeline.model.architecture import own_padding
from pipeline.model.failures import panics_as_errors
from pipeline.model.origin import find_source, named_errors
from pipeline.tokenizer.bounds import require_bounded

FILES = ("tokenizer.json", "*.model", "*vocab*", "tekken.json", "*.tiktoken", "merges.txt", "bpe.codes", "*.tokenizer")
"""What a vocabulary may be called."""


def read_tokenizer(params: ModelParams, config: Any) -> Any:
    """The tokenizer that is next to the model.

    Raises `UserError` where there is none, or one without a vocabulary.
    """
    source, arguments = find_source(params)
    if params.path is not None and params.path.is_dir() and not _any(params.path, (*FILES, "tokenizer_config.json")):
        raise _missing(params, "none of them", "tokenizer.json, or vocab.txt")
    _require_bounded(params, source, arguments)
    with named_errors(params), panics_as_errors():
        tokenizer = AutoTokenizer.from_pretrained(source, config=config, **arguments)
    names = sorted(set((getattr(tokenizer, "vocab_files_names", None) or {}).values()))
    if params.path is not None and params.path.is_dir() and names and not _any(params.path, (*FILES, *names)):
        raise _missing(params, "tokenizer_config.json, and no vocabulary", " or ".join(names))
    words = set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)
    if len(words) < 2:
        raise _missing(params, f"a vocabulary of {len(words)} words besides the special tokens", " or ".join(names))
    return tokenizer


def _require_bounded(params: ModelParams, source: str, arguments: dict[str, Any]) -> None:
    """Raises `UserError` for what `require_bounded` refuses. A GGUF file has no steps of its own."""
    if "gguf_file" in arguments:
        return
    where = {name: arguments[name] for name in ("revision", "local_files_only") if name in arguments}
    with named_errors(params):
        file = cached_file(source, "tokenizer.json", _raise_exceptions_for_missing_entries=False, **where)
    try:
        if file is not None:
            require_bounded(Path(file))
    except (OSError, ValueError) as error:
        raise UserError(
            f"tokenizer of model {params.name}",
            expected="the tokenizer of a model, whose steps end and keep a text's size",
            found=str(error),
            next_step="download the model again from its publisher, or use another one",
        ) from error


def padding(tokenizer: Any, config: Any, vocabulary: int) -> int:
    """The id that fills up rows: the tokenizer's, else the model's own, else 0; always one that the model has."""
    for pad in (tokenizer.pad_token_id, own_padding(config)):
        if pad is not None and 0 <= pad < vocabulary:
            return int(pad)
    return 0


def special_tokens(tokenizer: Any) -> int | None:
    """How many tokens it adds to a text, whichever text it is; None for one that does not say."""
    try:
        return int(tokenizer.num_special_tokens_to_add())
    except Exception:  # of files that others made: only who reads texts in windows needs to know
        return None


def _any(folder: Path, patterns: tuple[str, ...]) -> bool:
    return any(next(folder.glob(pattern), None) is not None for pattern in patterns)


def _missing(params: ModelParams, found: str, names: str) -> UserError:
    return UserError(
        f"tokenizer of model {params.name}",
        expected=f"the files of a tokenizer, such as {names or 'tokenizer.json'}",
        found=found,
        next_step="put the model's own tokenizer files into the model's folder; 'save_pretrained' writes them",
    )
