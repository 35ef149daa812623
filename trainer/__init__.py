"""Trains small heads over every layer of a frozen model, from the cache alone.

`from trainer import auto, drift, fit, layers` is for use as a library (`trainer.library`): one head from a folder of
tables and cache, the best of many, how good each layer is, or how far two caches are apart; `trainer.estimator` has a
scikit-learn classifier, `trainer.export` heads for other runtimes.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # they are modules, which are callable; see `ilse.callable`
    from trainer.library import auto as auto
    from trainer.library import drift as drift
    from trainer.library import fit as fit
    from trainer.library import layers as layers
