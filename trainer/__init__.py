"""Trains small heads over every layer of a frozen model, from the cache alone.

`trainer.fit` trains one head, `trainer.auto` finds the best of many, `trainer.layers` says how good each layer is, and
`trainer.drift` how far two caches are apart (`trainer.library`). `trainer.estimator` has a scikit-learn classifier,
`trainer.export` writes heads for other runtimes.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.library import auto as auto
    from trainer.library import drift as drift
    from trainer.library import fit as fit
    from trainer.library import layers as layers

__all__ = ["auto", "drift", "fit", "layers"]


def __getattr__(name: str) -> Any:  # nothing heavy is imported before it is asked for
    if name in __all__:
        from trainer import library

        return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
