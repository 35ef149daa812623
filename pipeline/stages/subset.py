"""`ilse subset`: a smaller cache from a finished one, by the store's own writer and without the model.

What it holds is what an extraction with these layers, poolings and this type would have stored, so its capture and
fingerprint are those of such an extraction: heads trained on either fit both, and read new texts alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from ilse.core.errors import UserError
from ilse.core.files.atomic import replacing, replacing_folder
from ilse.core.files.ownership import CACHE
from ilse.core.files.table_files import read_parquet
from ilse.core.tables import PAIR_TEXT_ID, TEXT_ID
from pipeline import store
from pipeline.capture.layers import chosen_layers
from pipeline.dataset.splits import uniform
from pipeline.work.ids import TextIndex

FINER_TO_COARSER = ("float32", "float16", "bfloat16", "int8")
"""A value that was rounded to one of these loses no more than its size in a type after it; before it, the type would
promise what the value lacks."""

Rows = npt.NDArray[np.int64]
"""Rows of the full cache, ascending."""


@dataclass(frozen=True)
class Selection:
    """What to keep; None keeps everything, or leaves the type unchanged."""

    layers: tuple[int | str, ...] | None = None
    """Layers to keep, in the syntax of `extract.layers`."""
    poolings: tuple[str, ...] | None = None
    texts: Path | None = None
    """A Parquet table with a column `text_id`, and perhaps `pair_text_id`: an `examples.parquet`, for one."""
    share: float | None = None
    """Share of the texts. Its id alone decides whether a text is in, so a larger share includes a smaller one."""
    storage_type: str | None = None
    tokens: bool = False
    """Whether the token states of the kept texts and layers are kept too, as they are stored."""


def subset(place: str, out: Path, selection: Selection) -> str:
    """Writes the smaller cache to `out` in one step, and returns a sentence about it.

    One shard of each cache is in memory at a time. Raises `UserError` for a selection that the cache does not hold or
    that would be empty, a type finer than its own, and an `out` that is no cache.
    """
    # What is taken is signed again. A cache that says which values belong to which texts is read layer by layer; an
    # older one proves its files as a whole.
    cache = store.open_cache(place)
    cache = cache if cache.is_bound else store.open_proven(place)
    _require_own_place(cache, out)
    rows = _chosen_rows(cache, selection)
    layers = chosen_layers(selection.layers, len(cache.layers), "--layers")
    basis = _basis(cache, layers) if selection.tokens else None
    header = _header(cache, selection, layers, len(rows), basis)
    _require_once_rounded(cache, header, rows)
    text_ids = cache.text_id_rows()[rows]
    with replacing_folder(out, CACHE, "OUT") as folder:
        new = store.Location(folder)
        store.create(new, header, text_ids, basis)
        store.finish(new, header, text_ids, _shards(cache, new, header, rows, layers))
    return (
        f"{out}: {header.texts:,} of {cache.header.texts:,} texts, {len(layers)} of {len(cache.layers)} layers, "
        f"{header.capture.storage_type}, {header.bytes / 1e6:,.1f} MB (of {cache.header.bytes / 1e6:,.1f} MB)"
        + ("; its token states are left out" if cache.token_layers and not selection.tokens else "")
    )


def examples_of(cache: Path, examples: Path, out: Path) -> str:
    """Writes the rows of `examples` whose texts the cache holds, and returns a sentence about it."""
    table = _table(examples)
    held = pl.Series(store.open_cache(cache).text_ids())
    ids = [name for name in (TEXT_ID, PAIR_TEXT_ID) if name in table.columns]
    kept = table.filter(pl.all_horizontal(pl.col(name).is_in(held.implode()) for name in ids))
    if kept.is_empty():
        raise UserError(
            f"examples {examples}",
            expected="at least one whose texts are in the smaller cache",
            found="none",
            next_step="keep more texts, or name the examples of this cache",
        )
    with replacing(out) as new:
        kept.write_parquet(new)
    return f"{out}: {len(kept):,} of {len(table):,} examples"


def _header(
    cache: store.Cache, selection: Selection, layers: tuple[int, ...], texts: int, basis: store.Basis | None
) -> store.CacheHeader:
    full = cache.header
    capture = replace(
        full.capture,
        layers=tuple(cache.layers[layer] for layer in layers),
        poolings=selection.poolings or full.capture.poolings,
        storage_type=selection.storage_type or full.capture.storage_type,
        token_states=_token_states(cache, layers, basis) if selection.tokens else False,
    )
    taken = {
        "subset_of": cache.fingerprint,
        "storage_type": full.capture.storage_type,
        "texts": f"{texts} of {full.texts}",
        "layers": f"{len(layers)} of {len(cache.layers)}",
    }
    return replace(full, capture=capture, texts=texts, origin={**full.origin, **taken})


def _token_layers(cache: store.Cache, layers: tuple[int, ...]) -> list[int]:
    """The chosen layers whose token states are kept. Raises `UserError` for none."""
    kept = [layer for layer in layers if layer in cache.token_layers]
    if not kept:
        there = ", ".join(map(str, cache.token_layers))
        raise UserError(
            f"cache {cache.path}, --tokens",
            expected="a layer whose token states it keeps",
            found=f"those of layers {there}, of which none is chosen" if there else "pooled rows alone",
            next_step="choose one of these with --layers"
            if there
            else "leave --tokens out, or extract with extract.token_states",
        )
    return kept


def _basis(cache: store.Cache, layers: tuple[int, ...]) -> store.Basis | None:
    """The basis of the chosen layers' token states; None if these are stored whole."""
    kept, basis = _token_layers(cache, layers), cache.basis()
    return None if basis is None else basis.at([cache.token_layers.index(layer) for layer in kept])


def _token_states(cache: store.Cache, layers: tuple[int, ...], basis: store.Basis | None) -> store.TokenSpec | bool:
    """Spec of the kept token states, as an extraction of these layers would have it."""
    had = cache.header.capture.token_states
    if isinstance(had, bool):
        return had
    names = tuple(cache.layers[layer] for layer in _token_layers(cache, layers))
    return replace(had, layers=names, basis=None if basis is None else basis.sha256)


def _chosen_rows(cache: store.Cache, selection: Selection) -> Rows:
    text_ids = cache.text_id_rows()
    kept = np.ones(len(text_ids), bool)
    if selection.texts is not None:
        table = _table(selection.texts)
        listed = [table[name] for name in (TEXT_ID, PAIR_TEXT_ID) if name in table.columns]
        kept &= TextIndex(store.text_id_rows(pl.concat(listed).unique().to_list())).places(text_ids) >= 0
    if selection.share is not None:
        kept &= _numbers(text_ids) < _checked_share(selection.share)
    if not kept.any():
        raise UserError(
            f"cache {cache.path}",
            expected="at least one text to keep",
            found="none of the chosen ones",
            next_step="name a table of texts that are in this cache, or a larger share",
        )
    return np.flatnonzero(kept)


def _numbers(text_ids: store.TextIds) -> npt.NDArray[np.float64]:
    """A number in [0, 1] for each text, [texts]; another one than that which drew its split."""
    return np.fromiter((uniform(f"subset:{row.tobytes().hex()}", 0) for row in text_ids), np.float64, len(text_ids))


def _checked_share(share: float) -> float:
    if not 0 < share <= 1:
        raise UserError("--share", expected="a number above 0 and up to 1", found=f"{share:g}", next_step="correct it")
    return share


def _shards(
    cache: store.Cache, new: store.Location, header: store.CacheHeader, rows: Rows, layers: tuple[int, ...]
) -> Iterator[store.ShardRecord]:
    ids, counts, cut = cache.text_id_rows(), cache.token_counts(), cache.truncated()
    for shard in range(header.shards):
        chosen = rows[header.rows_of(shard)]
        pooled = {name: cache.gather(chosen, layers, name) for name in header.capture.poolings}
        names = [row.tobytes().hex() for row in ids[chosen]]
        states = None
        if header.capture.tokens is not None:
            states = np.concatenate(cache.gather_tokens(chosen, _token_layers(cache, layers)))
        content = store.ShardRows(names, counts[chosen].tolist(), cut[chosen].tolist(), pooled, states)
        yield store.write_shard(new, header, shard, content)


def _require_once_rounded(cache: store.Cache, header: store.CacheHeader, rows: Rows) -> None:
    """Values of int8 and int4 belong to their shard's steps; a finer type than the stored one promises too much."""
    had, asked = cache.header.capture.storage_type, header.capture.storage_type
    if asked in FINER_TO_COARSER and FINER_TO_COARSER.index(asked) < FINER_TO_COARSER.index(had):
        raise UserError(
            f"cache {cache.path}, --storage-type {asked}",
            expected=f"a type no finer than {had}: {', '.join(FINER_TO_COARSER[FINER_TO_COARSER.index(had) :])}",
            found=asked,
            next_step=f"extract with extract.storage_type {asked}: what {had} rounded away does not come back",
        )
    tokens = header.capture.tokens
    of_tokens = had != "int8" and tokens is not None and tokens.storage_type in store.SCALED
    if (had == "int8" or of_tokens) and len(rows) < cache.header.texts:
        raise UserError(
            f"cache {cache.path}" + (", token states" if of_tokens else ""),
            expected=f"all texts of a cache of {tokens.storage_type if tokens and of_tokens else had}, whose values "
            "belong to the steps of their shards",
            found=f"{len(rows):,} of {cache.header.texts:,} texts",
            next_step="choose layers or poolings alone, or take the texts from a cache of another type"
            + (", or leave --tokens out" if of_tokens else ""),
        )


def _require_own_place(cache: store.Cache, out: Path) -> None:
    """An earlier subset is replaced; another cache, or any other folder, would be lost."""
    if cache.location.is_local and out.resolve().is_relative_to(cache.location.path.resolve()):
        found = "the full cache's own folder"
    elif any(not path.is_dir() for path in out.rglob("*")) and not _is_subset(out):
        found = "something else there"
    else:
        return
    raise UserError(
        f"destination {out}",
        expected="a new folder, or an earlier subset",
        found=found,
        next_step="name another folder",
    )


def _is_subset(out: Path) -> bool:
    try:
        return bool(store.peek(out)[0].origin)
    except UserError:
        return False


def _table(path: Path) -> pl.DataFrame:
    try:
        table = read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        found = str(error).splitlines()[0]
    else:
        if TEXT_ID in table.columns:
            return table
        found = f"columns {', '.join(table.columns)}"
    raise UserError(
        f"table {path}",
        expected=f"a Parquet table with a column {TEXT_ID}",
        found=found,
        next_step="name an examples.parquet or texts.parquet that 'ilse prepare' wrote",
    )
