"""Takes credentials out of what others' errors repeat, before it is shown."""

from __future__ import annotations

import os
import re

_SECRET_NAME = re.compile(r"(?i)key|token|secret|signature|credential|password|sas")
_SECRETS = re.compile(
    r"(?i)((?:key|token|secret|signature|credential|password|sig)[\w-]*\s*[=:]\s*|bearer\s+)\S+|//[^/\s@]+@|\bhf_\w{8,}"
)


def without_secrets(text: str) -> str:
    """The text without values of the environment that are named as secrets, and without what looks like one."""
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET_NAME.search(name):
            text = text.replace(value, "…")
    return _SECRETS.sub(lambda match: f"{match[1] or ('//' if match[0].startswith('//') else '')}…", text)
