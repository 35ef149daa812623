"""Trains small heads over every layer of a frozen model, from the cache alone.

`from trainer import auto, fit` is for use as a library (`trainer.library`): one head from a folder of tables and cache,
or the best of many; `trainer.estimator` has a scikit-learn classifier, `trainer.export` heads for other runtimes.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # they are the modules `auto` and `fit`, which are callable; see `ilse.callable`
    from trainer.library import auto as auto
    from trainer.library import fit as fit
