"""A basis of each layer's token states: a few directions that stand for a state, so that many tokens can be kept.

What a state becomes, coordinate by coordinate and then as a product with the directions:

    projected = clip((state − mean) / scale, ±LIMIT) · directionsᵀ        [dim] → [rank]

Some models carry massive activations: in SmolLM2-135M one coordinate of every text's first token reaches 24,800, where
others stay below a hundred. Such a coordinate would be most of the variance, own the first directions, and set int8's
step for whatever its directions touch, so that other tokens' values round to nothing. Hence each coordinate is measured
in its own spread, and cut at `LIMIT` spreads: a massive one says that it is one, and no more.

`pipeline.capture.directions` makes a basis of a sample's states; all that new texts need to be projected alike is in
here, and a head may carry it.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from ilse.core.errors import UserError
from pipeline.store.encoding import FloatRows

LIMIT = 8.0
"""Spreads of a coordinate at which it is cut. Of Gaussian values none is; it is part of what a stored value means."""
PROJECTED_TOKENS = 4_096
"""Tokens that are projected at a time: the standardised copy of one layer stays small."""


@dataclass(frozen=True, eq=False)
class Basis:
    """The directions of some layers' token states. Two are equal when their `sha256` is.

    Raises `UserError` for arrays that are no basis: other shapes, values that are not finite, a spread that is not
    positive.
    """

    mean: FloatRows
    """[layers, dim]: the centre of each coordinate."""
    scale: FloatRows
    """[layers, dim]: its spread, above 0."""
    directions: FloatRows
    """[layers, rank, dim], orthonormal in each layer, the largest variance first."""
    share: FloatRows
    """[layers]: the part of the sample's variance that the directions keep: of the centred, scaled and cut states, each
    vocabulary entry counting once."""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = np.ascontiguousarray(getattr(self, item.name), "<f4")
            value.setflags(write=False)
            object.__setattr__(self, item.name, value)
        found = {item.name: getattr(self, item.name).shape for item in fields(self)}
        layers, rank, dim = self.directions.shape if self.directions.ndim == 3 else (0, 0, 0)
        expected = {
            "mean": (layers, dim),
            "scale": (layers, dim),
            "directions": (layers, rank, dim),
            "share": (layers,),
        }
        if found != expected or not 1 <= rank <= dim or not layers:
            raise _refused("mean and scale [layers, dim], directions [layers, rank, dim], share [layers]", str(found))
        if not all(np.isfinite(getattr(self, item.name)).all() for item in fields(self)) or not (self.scale > 0).all():
            raise _refused("finite values, and spreads above 0", "others")

    @property
    def layers(self) -> int:
        """How many layers it is of."""
        return len(self.mean)

    @property
    def rank(self) -> int:
        """Values that stand for a state."""
        return int(self.directions.shape[1])

    @property
    def dim(self) -> int:
        """Width of a state."""
        return int(self.directions.shape[2])

    @cached_property
    def sha256(self) -> str:
        """Checksum of shapes and values, 64 hexadecimal digits."""
        digest = hashlib.sha256(f"basis {self.directions.shape} cut at {LIMIT}\n".encode())
        for item in fields(self):
            digest.update(getattr(self, item.name).tobytes())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Basis) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    def at(self, places: Sequence[int]) -> Basis:
        """The basis of some of its layers, by place."""
        chosen = list(places)
        return Basis(self.mean[chosen], self.scale[chosen], self.directions[chosen], self.share[chosen])

    def standardised(self, states: FloatRows, layer: int) -> FloatRows:
        """States of one layer, [tokens, dim], centred, scaled and cut: what the directions are of.

        What is not finite becomes NaN, which no cache takes: cutting would hide it.
        """
        values: FloatRows = (states - self.mean[layer]) / self.scale[layer]
        np.clip(values, -LIMIT, LIMIT, out=values)
        values[~np.isfinite(states)] = np.nan
        return values

    def project(self, states: FloatRows) -> FloatRows:
        """Float32 [tokens, layers, dim] → float32 [tokens, layers, rank]; layers are those of the basis."""
        if states.shape[1:] != (self.layers, self.dim):
            raise ValueError(
                f"states of {(self.layers, self.dim)} a token belong to this basis, got {states.shape[1:]}"
            )
        out = np.empty((len(states), self.layers, self.rank), np.float32)
        for start in range(0, len(states), PROJECTED_TOKENS):
            part = slice(start, start + PROJECTED_TOKENS)
            for layer in range(self.layers):
                out[part, layer] = self.standardised(states[part, layer], layer) @ self.directions[layer].T
        return out

    def arrays(self) -> dict[str, FloatRows]:
        """The parts of the basis by name; `Basis(**arrays)` is the same basis."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, FloatRows]) -> Basis:
        """The basis with the arrays that `arrays` returned. Raises `UserError` if one is missing."""
        names = {item.name for item in fields(cls)}
        if not names <= arrays.keys():
            raise _refused(f"the arrays {', '.join(sorted(names))}", ", ".join(sorted(arrays)) or "none")
        return cls(**{name: arrays[name] for name in names})

    def to_bytes(self) -> bytes:
        """The basis as a NumPy .npz file, which `from_bytes` reads."""
        file = io.BytesIO()
        np.savez(file, mean=self.mean, scale=self.scale, directions=self.directions, share=self.share)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Basis:
        """The basis in a file. Raises `UserError` for a damaged one, and for one that holds none."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files}
        except Exception as error:  # a cut archive has many errors, by where it was cut
            raise _refused(
                "a file that Basis.save wrote", f"one that cannot be opened ({type(error).__name__})"
            ) from None
        return cls.from_arrays(found)

    def save(self, path: Path) -> None:
        """Writes it to a file of NumPy's, .npz."""
        path.write_bytes(self.to_bytes())

    @classmethod
    def load(cls, path: Path) -> Basis:
        """Reads what `save` wrote; raises as `from_bytes` does."""
        return cls.from_bytes(path.read_bytes())


def _refused(expected: str, found: str) -> UserError:
    return UserError(
        "basis of token states",
        expected=expected,
        found=found,
        next_step="take it from a finished cache, or from the head that carries it, again",
    )
