"""Keeps secrets out of what is shown: what an address holds besides its place, and what others' errors repeat.

`masked` is for every text that is shown. It hides the user part, the query and the fragment of every address in the
text; and, wherever they stand, the secrets that `remember` was given and those of the environment. `UserError` and
`ilse.core.terminal` go through it, so that a new message needs no thought of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, unquote_plus

_SECRET_NAME = re.compile(r"(?i)key|token|secret|signature|credential|password|passwd|pwd|sas|sig")
_SECRETS = re.compile(
    r"(?i)((?:key|token|secret|signature|credential|password|sig)[\w-]*\s*[=:]\s*|bearer\s+)\S+|(?-i:\bhf_\w{8,})"
)
# One slash will do: a path's text has lost the other. A password may hold any sign, as SQLAlchemy reads it.
_ADDRESS = re.compile(
    r"""(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]+:/+)
    (?:(?P<user>[^\s"'<>:/@?\#]*:[^\s"'<>]*|[^\s"'<>/?\#]*)@)?
    (?P<place>[^\s"'<>?\#]*)(?P<query>\?[^\s"'<>\#]*)?(?P<fragment>\#[^\s"'<>]*)?""",
    re.VERBOSE,
)
_WHOLE = re.compile(
    r"""\s*(?:[\w-]+=)?[A-Za-z][A-Za-z0-9+.-]+:/+(?:(?:([^:/@?\#]*):(.*)|([^/?\#]*))@)?
    ([^?\#]*)(?:\?([^\#]*))?(?:\#(.*))?""",
    re.VERBOSE | re.DOTALL,
)
_SHORT = 6
"""A shorter secret is hidden only where it stands as a word: it is likely to be a part of others."""
_LONG = 16
"""A value of a query that is as long is taken for a secret, whatever its name."""
_given: set[str] = set()


def masked(text: str) -> str:
    """The text with `…` for what addresses in it hold besides their place, and for every secret that is known.

    Example: `postgresql://ann:pw@db/trials?sslmode=require` becomes `postgresql://…@db/trials?…`.
    """
    for secret in sorted(_given | set(_of_environment()), key=len, reverse=True):
        if len(secret) >= _SHORT:
            text = text.replace(secret, "…")
        elif secret in text:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "…", text)
    return _ADDRESS.sub(_place, text)


def without_secrets(text: str) -> str:
    """A message of a library, a server or another program, `masked` and without what looks like a secret."""
    return _SECRETS.sub(lambda match: f"{match[1] or ''}…", masked(text))


def remember(given: Any) -> None:
    """Has `masked` hide the secrets of every address in `given` by their values from now on, wherever they stand.

    `given` is what a user gave, such as arguments or a section of parameters; lists and mappings in it are walked.
    """
    for text in _texts(given):
        _given.update(_secrets_of(text))


def holds_secrets(address: str) -> bool:
    """Whether an address has a user part, a query or a fragment."""
    return _ADDRESS.sub(_place, address) != address


def _place(found: re.Match[str]) -> str:
    parts = [found["scheme"], "" if found["user"] is None else "…@", found["place"]]
    return "".join([*parts, "?…" if found["query"] else "", "#…" if found["fragment"] else ""])


def _texts(given: Any) -> Iterator[str]:
    """Every text in it. A value that has many names in a YAML file is looked at once."""
    waiting, seen = [given], set()
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, Mapping | list | tuple | set) and id(one) not in seen:
            seen.add(id(one))
            waiting += [*one, *one.values()] if isinstance(one, Mapping) else one


def _secrets_of(address: str) -> Iterator[str]:
    """The parts of an address that are hidden by their value, as they stand and as they are meant.

    The user's name is one where no password goes with it: then it is a token. Of a query, values by their name or
    length, since `require` and the like are words of others.
    """
    found = _WHOLE.fullmatch(address)
    if found is None:
        return
    _, password, alone, _, query, fragment = found.groups()
    named = parse_qsl(query or "", keep_blank_values=True)
    values = [value for name, value in named if _SECRET_NAME.search(name) or len(value) >= _LONG]
    for secret in filter(None, [password, alone, fragment, *values]):
        yield from {secret, unquote(secret), unquote_plus(secret), quote(secret, safe="")}


def _of_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name):
            if len(value) >= 8:
                yield value
        elif "@" in value:
            yield from _secrets_of(value)
