"""What a command can be told: its parameters, as the click group has them, and command lines with another value."""

from __future__ import annotations

from pathlib import Path

import click

from benchmarks.commands.calls import Call
from ilse.cli import main
from ilse.core.files.destinations import Destination

_PLACES = ("cache", "repository", "source", "runs", "place", "artifact", "section")
"""Parameters of plain text that are a place too, or that an address may be given for by mistake."""


def told(call: Call) -> list[click.Parameter]:
    """The parameters of its command that take free text, such as a path or an address."""
    return [param for param in main.commands[call.command].params if _is_free(param.type)]


def places(call: Call) -> list[click.Parameter]:
    """Those of them that are paths or addresses."""
    return [param for param in told(call) if param.type is not click.STRING or param.name in _PLACES]


def destinations(call: Call) -> list[click.Parameter]:
    """Those that name what the command writes."""
    return [param for param in told(call) if isinstance(param.type, Destination)]


def name_of(param: click.Parameter) -> str:
    """As a user writes it."""
    return param.opts[0]


def value_of(call: Call, param: click.Parameter) -> str:
    """What the call says for it, or its default; empty without either."""
    place = _place(call, param)
    default = param.default if isinstance(param.default, (str, Path)) else ""
    return call.arguments[place] if place else str(default)


def with_value(call: Call, param: click.Parameter, value: str) -> tuple[str, ...]:
    """The call's arguments with another value for it."""
    words, place = list(call.arguments), _place(call, param)
    if place:
        words[place] = value
    else:
        words += [value] if isinstance(param, click.Argument) else [name_of(param), value]
    return tuple(words)


def _is_free(kind: click.ParamType) -> bool:
    return kind.name in ("text", "path")


def _place(call: Call, param: click.Parameter) -> int:
    """Where its value stands among the arguments; 0 for nowhere."""
    if not isinstance(param, click.Argument):
        return call.arguments.index(name_of(param)) + 1 if name_of(param) in call.arguments else 0
    arguments = [one for one in main.commands[call.command].params if isinstance(one, click.Argument)]
    places, taken = [], 1
    options = {opt: one for one in main.commands[call.command].params for opt in one.opts}
    while taken < len(call.arguments):
        option = options.get(call.arguments[taken])
        if option is None or isinstance(option, click.Argument):
            places.append(taken)
            taken += 1
        else:
            taken += 1 + (0 if getattr(option, "is_flag", False) else option.nargs)
    number = arguments.index(param)
    return places[number] if number < len(places) else 0
