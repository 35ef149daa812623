"""Makes the cache: fetch a model and texts, prepare them, extract every layer. `store` owns the format.

`from pipeline import extract` is for use as a library: texts in memory to tables and a cache (`pipeline.library`).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it is the module `extract`, which is callable; see `ilse.callable`
    from pipeline.library import extract as extract
