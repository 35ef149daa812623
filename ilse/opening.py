"""A cache that is there already, opened by its folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ilse.core.tables import CACHE_FOLDER

if TYPE_CHECKING:
    from pipeline.store import Cache


def open_cache(place: str | Path) -> Cache:
    """Open a finished cache for reading.

    Parameters
    ----------
    place
        The cache (`data/cache.zarr`, a folder or an `s3://`, `gs://` or `az://` URL), or the folder that
        `ilse.extract` returned a cache of and that holds `cache.zarr`.

    Returns
    -------
    Cache
        Indexed as an array [texts, layers, dim]; see `ilse.Cache`.

    Raises
    ------
    UserError
        Where there is no cache, or one that is unfinished, damaged or of another format version.

    Examples
    --------
    >>> cache = ilse.open_cache("data")
    >>> cache.shape
    (2096, 31, 576)
    >>> cache[:10, -1].shape
    (10, 576)
    """
    from pipeline import store

    held = Path(place) / CACHE_FOLDER if "://" not in str(place) else None
    return store.open_cache(held if held is not None and held.is_dir() else place)
