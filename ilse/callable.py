"""Makes a module callable: `from pipeline import extract` then gives one thing to call, which is still the module.

The library's functions bear the names of stages, and a stage is a module. A package cannot hold a function and a module
under one name, but a module may have a class of its own (Python's data model, "Customizing module attribute access").
The function is imported when it is called.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


def make_callable(module: str, function: str) -> None:
    """Has the module named `module` call `function`, given as `module.function`."""
    home, _, name = function.rpartition(".")

    class CallableModule(ModuleType):
        """A module that is called as its library function."""

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return getattr(importlib.import_module(home), name)(*args, **kwargs)

    sys.modules[module].__class__ = CallableModule
