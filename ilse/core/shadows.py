"""Whether `pipeline` and `trainer` are ours: a file of that name in the working folder would be imported instead."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from ilse.core.errors import UserError

HOME = Path(__file__).resolve().parents[2]
"""The folder that holds `ilse`, `pipeline` and `trainer`."""
ROOTS = ("pipeline", "trainer")


def require_ours() -> None:
    """Raises `UserError` where Python finds another module by the name of one of ours."""
    for name in ROOTS:
        found = _origin(name)
        if found is not None and HOME / name not in found.parents:
            raise UserError(
                f"module '{name}'",
                expected=f"that of ilse-cache, {HOME / name}",
                found=f"{found}, which hides it",
                next_step=f"rename {found.name if found.suffix else found} or run from another folder",
            )


def _origin(name: str) -> Path | None:
    """The file of a module, or the folder of a package without one."""
    if name in sys.modules:
        file = getattr(sys.modules[name], "__file__", None)
        return None if file is None else Path(file).resolve()
    spec = find_spec(name)
    if spec is None:
        return None
    if spec.origin is not None:
        return Path(spec.origin).resolve()
    places = list(spec.submodule_search_locations or [])
    return Path(places[0]).resolve() / "__init__.py" if places else None
