"""Trains small heads over every layer of a frozen model, from the cache alone.

`from trainer import fit` is for use as a library: one head from a folder of tables and cache (`trainer.library`);
`trainer.estimator` has a scikit-learn classifier, `trainer.export` heads for other runtimes.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it is the module `fit`, which is callable; see `ilse.callable`
    from trainer.library import fit as fit
