"""How rows were computed, beside what they are: batch size, threads, device and versions move their last digits.

They do not decide what a row means: when they change, work continues and a finished cache stays valid. Runs say so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pipeline.model.load import Compute
from pipeline.work.scratch import Scratch

FOLDER = "settings"

Settings = Mapping[str, Any]
"""Name → value, of parameters and packages."""


def settings_of(compute: Compute, device: str, versions: Mapping[str, str]) -> Settings:
    """The settings of a run whose first worker chose this device."""
    return {**asdict(compute), "device": device, **versions}


def changes(before: Settings, now: Settings) -> list[str]:
    """What differs, such as `batch_tokens 1024 (now 512)`."""
    names = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    return [f"{name} {before.get(name, 'unknown')} (now {now.get(name, 'unknown')})" for name in names]


def keep_settings(scratch: Scratch, now: Settings, kept_shards: int) -> list[str]:
    """Notes that shards are computed with these settings from now on; returns what differs for those that are kept.

    With no shard left, earlier settings are forgotten.
    """
    content = json.dumps(dict(now), sort_keys=True).encode()
    own = f"{FOLDER}/{hashlib.sha256(content).hexdigest()[:16]}.json"
    found: list[str] = []
    for name in [name for name, _ in scratch.work.list(FOLDER) if name != own]:
        if kept_shards:
            found += changes(_parsed(scratch.work.get(name)), now)
        else:
            scratch.work.delete(name)
    scratch.work.put(own, content)
    return list(dict.fromkeys(found))


def _parsed(content: bytes) -> Settings:
    """What a power cut left half-written says nothing."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}
