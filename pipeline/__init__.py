"""Makes the cache: fetch a model and texts, prepare them, extract every layer. `pipeline.store` owns the format.

`pipeline.extract` does it from Python, with texts in memory (`pipeline.library`).
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.library import extract as extract

__all__ = ["extract"]


def __getattr__(name: str) -> Any:  # nothing heavy is imported before it is asked for
    if name == "extract":
        from pipeline.library import extract

        return extract
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
