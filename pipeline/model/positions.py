"""How a model numbers its tokens and how many fit, observed in a run and never concluded from its name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.model.architecture import accepts, own_padding, vocabulary

UNLIMITED = 2**31 - 1
"""The window of a model that names no limit and looks up no table of positions."""
# What configurations call the longest text; the library maps most other names to the first.
CLAIMS = ("max_position_embeddings", "max_encoder_position_embeddings", "n_positions", "max_seq_len", "max_seq_length")
LENGTH = 16
_aten = torch.ops.aten
_FIRSTS: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


@dataclass(frozen=True)
class Lookup:
    """A table of positions that was looked up: its rows, and the row of the first token."""

    rows: int
    first: int


def window(model: Any, device: str) -> int:
    """Longest text in tokens that the model has positions for.

    The configuration says how many; the tables that a run looks up say it again, and there it shows from which row on
    they are used: RoBERTa and its like begin behind the number of their padding.
    """
    claimed = _claimed(model.config)
    tables = lookups(model, device, min(LENGTH, claimed))
    return min([claimed, *(table.rows - table.first for table in tables)])


def first_position(model: Any, device: str) -> int:
    """The number that `position_ids` must give a text's first token so that the model reads it as it would unasked."""
    if model not in _FIRSTS:
        length = min(LENGTH, _claimed(model.config))
        unasked, asked = (lookups(model, device, length, asked) for asked in (False, True))
        _FIRSTS[model] = unasked[0].first - asked[0].first if unasked and asked else 0
    return _FIRSTS[model]


def _claimed(config: Any) -> int:
    text = config.get_text_config()
    named = (getattr(text, name, None) for name in CLAIMS)
    return min((int(limit) for limit in named if isinstance(limit, int) and limit > 0), default=UNLIMITED)


@torch.inference_mode()
def lookups(model: Any, device: str, length: int, asked: bool = False) -> list[Lookup]:
    """Tables in which a run over one made-up text of `length` tokens looks up row after row.

    With `asked`, the positions are given, counted from 0.
    """
    ids = _distinct_ids(model, length).to(device)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if accepts(model, "use_cache"):
        inputs["use_cache"] = False
    if asked:
        inputs["position_ids"] = torch.arange(length, device=device)[None]
    with _Watch() as watch:
        model(**inputs)
    # Some models fill a text up to whole windows of their own, after its tokens.
    filled = ((rows, index.cpu()) for rows, index in watch.seen if index.numel() == length or _is_row(index, length))
    found = ((rows, index.reshape(-1)[:length]) for rows, index in filled)
    found = ((rows, index) for rows, index in found if not torch.equal(index, ids[0].cpu()))
    steps = torch.arange(length)
    return [Lookup(rows, int(index[0])) for rows, index in found if torch.equal(index - index[0], steps)]


def _is_row(index: Tensor, length: int) -> bool:
    return index.ndim == 2 and index.shape[0] == 1 and index.shape[1] > length


def _distinct_ids(model: Any, length: int) -> Tensor:
    """Ids of the vocabulary that are not the padding's: some models count positions by those that are not."""
    size, pad = vocabulary(model), own_padding(model.config)
    ids = (torch.arange(length) * 1009 + 259) % min(size, UNLIMITED)
    return torch.where(ids == (-1 if pad is None else pad), (ids + 1) % size, ids)[None]


class _Watch(TorchDispatchMode):
    """Notes which rows of which table are looked up, however a module asks for them."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rows = _rows_asked(func, args)
        if rows is not None and args[0].ndim == 2:
            self.seen.append((args[0].shape[0], rows.clone()))
        return func(*args, **(kwargs or {}))


def _rows_asked(func: Any, args: tuple[Any, ...]) -> Tensor | None:
    """The indices of the rows of its first argument that an operation selects; None if it selects none."""
    rows: Tensor | None = None
    if func is _aten.embedding.default:
        rows = args[1]
    elif func is _aten.index_select.default and args[1] == 0:
        rows = args[2]
    elif func is _aten.index.Tensor and args[1]:
        rows = args[1][0]
    return rows
