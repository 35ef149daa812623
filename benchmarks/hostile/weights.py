"""Safetensors files, byte by byte: what the format's own library would not write."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from benchmarks.hostile.spoiling import HUGE, PICKLE, Craft, cut, folder, linked_out, pipe, removed, written

Header = dict[str, Any]


def reheaded(place: str, change: Callable[[Header], object]) -> Craft:
    """The file with a changed header and the same values."""

    def craft() -> None:
        content = Path(place).read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        change(header)
        written(place, assembled(json.dumps(header).encode(), content[8 + size :]))()

    return craft


def assembled(header: bytes, values: bytes = b"") -> bytes:
    """A file of that header."""
    return len(header).to_bytes(8, "little") + header + values


def changed(place: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Craft:
    """The file with other tensors."""

    def craft() -> None:
        state = load_file(place)
        change(state)
        save_file(state, place)

    return craft


def filled(place: str, value: float) -> Craft:
    """Its first tensor with one value replaced."""

    def change(state: dict[str, torch.Tensor]) -> None:
        state[min(state)].view(-1)[0] = value

    return changed(place, change)


def cast(place: str, dtype: torch.dtype) -> Craft:
    """All its tensors in another type."""
    return changed(place, lambda state: state.update({name: value.to(dtype) for name, value in state.items()}))


def saved_by_torch() -> bytes:
    """What torch.save writes: a zip with a pickle."""
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, buffer)
    return buffer.getvalue()


def first(header: Header) -> Any:
    """The entry of the first tensor by name."""
    return header[min(name for name in header if name != "__metadata__")]


def broken_weights(place: str) -> dict[str, Craft]:
    """What a safetensors file may be instead."""
    entry = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    return {
        "nothing": removed(place),
        "no byte": written(place, b""),
        "the header's size alone": cut(place, 8),
        "without its last byte": cut(place, -1),
        "a pickle": written(place, PICKLE),
        "what torch.save writes": written(place, saved_by_torch()),
        "a GGUF file": written(place, b"GGUF" + bytes(100)),
        "a header of an exabyte": written(place, (2**60).to_bytes(8, "little") + b"{}"),
        "a header that is not UTF-8": written(place, assembled(b"\xff\xfe")),
        "a header 200,000 deep": written(place, assembled(b'{"a":' * 200_000)),
        "a header with a key twice": written(place, assembled(b"{" + entry + b"," + entry + b"}", bytes(4))),
        "a tensor of an exabyte": reheaded(place, lambda h: first(h).update(shape=[2**30, 2**28])),
        "a shape whose product overflows": reheaded(place, lambda h: first(h).update(shape=[2**32, 2**32])),
        "a negative shape": reheaded(place, lambda h: first(h).update(shape=[-1])),
        "values behind the end": reheaded(place, lambda h: first(h).update(data_offsets=[0, HUGE])),
        "values of another tensor": reheaded(place, lambda h: [e.update(data_offsets=[0, 4]) for e in h.values()]),
        "an unknown type": reheaded(place, lambda h: first(h).update(dtype="OBJECT")),
        "another name, which climbs": reheaded(place, lambda h: h.update({"../../x": h.pop(min(h))})),
        "NaN": filled(place, float("nan")),
        "infinity": filled(place, float("-inf")),
        "float64": cast(place, torch.float64),
        "float16": cast(place, torch.float16),
        "whole numbers": cast(place, torch.int64),
        "a tensor more": changed(place, lambda s: s.update({"more": torch.zeros(1)})),
        "a tensor less": changed(place, lambda s: s.pop(min(s))),
        "other shapes": changed(place, lambda s: s.update({k: v.reshape(-1, 1) for k, v in s.items()})),
        "a folder in its place": folder(place),
        "a link out of the folder": linked_out(place),
        "a link to the very file, but outside": linked_out(place, content=True),
        "a pipe in its place": pipe(place),
    }
