"""Specification of a cache: the capture that its values depend on, and the header with its size."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, pairwise
from typing import Any, Literal, get_args

from ilse.core.errors import UserError
from pipeline.store.encoding import STORAGE_TYPES, TOKEN_TYPES, value_bytes

FORMAT_VERSION = 2
"""Raised when the layout changes, and when the same spec comes to give other rows: it is part of the fingerprint, so
that no donor lends rows of an older meaning."""
MAX_LAYERS = 4096
"""No model has a tenth of it; some heads need the square of it in memory."""
Pooling = Literal[
    "mean",
    "mean_without_first",
    "last",
    "first",
    "max",
    "mean_content",
    "last_content",
    "first_content",
    "max_content",
]
POOLINGS: tuple[str, ...] = get_args(Pooling)


@dataclass(frozen=True)
class TokenSpec:
    """Which token states a cache keeps, and how: of some or all of its layers, perhaps in a basis of a lower rank."""

    layers: tuple[str, ...]
    """Names of the layers whose token states are kept, a subset of the capture's, in depth order."""
    rank: int | None = None
    """How many directions of the layer's basis stand for a state; None: the states themselves."""
    storage_type: str = "float16"
    """Type of the stored values, one of `TOKEN_TYPES`."""
    basis: str | None = None
    """SHA-256 of the basis, 64 hexadecimal digits; None without a rank, and before the basis is known."""

    def __post_init__(self) -> None:
        _require(self.storage_type in TOKEN_TYPES, _TOKENS, list(TOKEN_TYPES), self.storage_type)
        _require(self.rank is None or _is_count(self.rank), _TOKENS, "a rank of at least 1, or none", self.rank)
        is_digest = isinstance(self.basis, str) and len(self.basis) == 64 and set(self.basis) <= set("0123456789abcdef")
        _require(self.basis is None or (is_digest and self.rank is not None), _TOKENS, "a basis' SHA-256", self.basis)

    @classmethod
    def from_attributes(cls, values: bool | Mapping[str, Any]) -> TokenSpec | bool:
        """Reads the spec from a cache's attributes; earlier releases stored only whether there are token states."""
        if isinstance(values, bool):
            return values
        return cls(**{**values, "layers": tuple(values["layers"])})


_TOKENS = "token_states"


@dataclass(frozen=True)
class WindowSpec:
    """How a text that is longer than a window is read: window by window, each as a text of its own.

    Every window has the tokenizer's special tokens around its part of the text. Of the windows' states each token of
    the text counts once, in the first window that holds it.
    """

    tokens: int
    """Length of a window, special tokens included."""
    stride: int
    """Tokens between the beginnings of two windows."""

    def __post_init__(self) -> None:
        _require(_is_count(self.tokens), "windows", "at least 1 token", self.tokens)
        fits = _is_count(self.stride) and self.stride <= self.tokens
        _require(fits, "windows", f"a stride of 1 to {self.tokens} tokens", self.stride)


@dataclass(frozen=True)
class NoiseSpec:
    """Typing mistakes made in a text before the model reads it, which differ by text and seed; see
    `pipeline.capture.noise`.
    """

    characters: float
    """Share of letters and digits that are left out, doubled, replaced or exchanged with the next."""
    keyboard: float
    """Share that a neighbouring key takes the place of."""
    splits: float
    """Share that a space is put before, within a word."""
    seed: int

    def __post_init__(self) -> None:
        shares = {name: getattr(self, name) for name in ("characters", "keyboard", "splits")}
        for name, share in shares.items():
            _require(isinstance(share, float) and 0 <= share <= 1, f"noise.{name}", "a share, 0 to 1", share)
        _require(0 < sum(shares.values()) <= 1, "noise", "shares of together more than 0 and at most 1", shares)
        is_seed = isinstance(self.seed, int) and not isinstance(self.seed, bool) and self.seed >= 0
        _require(is_seed, "noise.seed", "a whole number from 0", self.seed)


@dataclass(frozen=True)
class CaptureSpec:
    """Everything that a cached value depends on. Two caches with equal fingerprints hold comparable rows.

    Validated at construction; nobody checks it again.
    """

    model: Mapping[str, str]
    """What pins the weights: {"hub": id, "revision": commit}, or {"sha256": checksum of the file or folder}."""
    tokenizer: str
    """SHA-256 of the serialised tokenizer."""
    layers: tuple[str, ...]
    """Names of the rows that are kept, in depth order; of all: embedding output, each block, the final norm."""
    dim: int
    """Width of a row."""
    max_tokens: int | None
    """Longer texts are cut here, special tokens included; None, with `windows` alone: nowhere."""
    template: str
    """What the model reads; `{text}` is replaced by the text."""
    compute_type: str
    """Type of the weights and activations while computing."""
    storage_type: str
    """Type of the stored values, one of `STORAGE_TYPES`."""
    poolings: tuple[str, ...] = ("mean",)
    token_states: TokenSpec | bool = False
    """Whether token states are kept in addition to the pooled rows: True for whole states of all layers in the cache's
    storage type, or a spec of what is kept. `tokens` says the same without the short form."""
    windows: WindowSpec | None = None
    """How longer texts are read; None: every text in one piece."""
    noise: NoiseSpec | None = None
    """Typing mistakes made in each text first; None: none."""

    def __post_init__(self) -> None:
        known = isinstance(self.model, Mapping) and all(isinstance(value, str) for value in self.model.values())
        pinned = {"sha256"} if known and "sha256" in self.model else {"hub", "revision"}
        named = known and pinned <= self.model.keys() <= pinned | {"untrained"}
        _require(named, "model", "a sha256, or hub and revision", self.model)
        _require(self.storage_type in STORAGE_TYPES, "storage_type", list(STORAGE_TYPES), self.storage_type)
        _require(len(self.layers) >= 1, "layers", "at least one", self.layers)
        _require(len(self.layers) <= MAX_LAYERS, "layers", f"at most {MAX_LAYERS}", len(self.layers))
        _require(len(set(self.layers)) == len(self.layers), "layers", "distinct names", self.layers)
        plain = all(_is_printable(name) and "/" not in name for name in self.layers)
        _require(plain, "layers", "names that can be printed, without a slash", self.layers)
        _require(_is_count(self.dim), "dim", "at least 1", self.dim)
        limited = self.max_tokens is not None or self.windows is not None
        _require(limited, "max_tokens", "a number, where there are no windows", self.max_tokens)
        _require(self.max_tokens is None or _is_count(self.max_tokens), "max_tokens", "at least 1", self.max_tokens)
        for name in ("tokenizer", "template", "compute_type"):
            _require(isinstance(getattr(self, name), str), name, "a string", getattr(self, name))
        _require("{text}" in self.template, "template", "a place for {text}", self.template)
        unknown = [name for name in self.poolings if name not in POOLINGS]
        _require(bool(self.poolings) and not unknown, "poolings", list(POOLINGS), list(self.poolings))
        whole = self.token_states is True and self.storage_type == "int8"
        _require(not whole, "storage_type", "a floating type, for token states that have none of their own", "int8")
        self._require_tokens()
        self._require_windows()
        known = self.noise is None or isinstance(self.noise, NoiseSpec)
        _require(known, "noise", "a NoiseSpec, or none", self.noise)

    def _require_windows(self) -> None:
        windows, limit = self.windows, self.max_tokens
        if windows is None:
            return
        _require(isinstance(windows, WindowSpec), "windows", "a WindowSpec, or none", windows)
        useful = limit is None or limit > windows.tokens
        _require(useful, "windows", f"windows shorter than the longest text, {limit} tokens", windows.tokens)

    def _require_tokens(self) -> None:
        tokens = self.token_states
        if isinstance(tokens, bool):
            return
        _require(isinstance(tokens, TokenSpec), _TOKENS, "true, false or a TokenSpec", tokens)
        depth = [self.layers.index(name) if name in self.layers else -1 for name in tokens.layers]
        ascending = bool(depth) and depth[0] >= 0 and all(a < b for a, b in pairwise(depth))
        _require(ascending, _TOKENS, f"some of the layers {', '.join(self.layers)}, in that order", tokens.layers)
        fits = tokens.rank is None or tokens.rank <= self.dim
        _require(fits, _TOKENS, f"a rank of at most the width, {self.dim}", tokens.rank)

    @property
    def tokens(self) -> TokenSpec | None:
        """Spec of the kept token states; None if there are none."""
        if isinstance(self.token_states, bool):
            return TokenSpec(self.layers, None, self.storage_type) if self.token_states else None
        return self.token_states

    @property
    def token_width(self) -> int:
        """Values of a layer's stored token state: the rank of its basis, or `dim`."""
        tokens = self.tokens
        return self.dim if tokens is None or tokens.rank is None else tokens.rank

    @property
    def without_basis(self) -> CaptureSpec:
        """The capture before its basis is known. Captures that are equal without basis may share one."""
        tokens = self.token_states
        return replace(self, token_states=replace(tokens, basis=None)) if isinstance(tokens, TokenSpec) else self

    def with_basis(self, sha256: str) -> CaptureSpec:
        """The capture with this basis; for a capture that has a rank."""
        assert isinstance(self.token_states, TokenSpec)
        return replace(self, token_states=replace(self.token_states, basis=sha256))

    @property
    def without_noise(self) -> CaptureSpec:
        """The capture of unchanged texts, without noise, which is how new texts are read."""
        return replace(self, noise=None)

    @property
    def noise_in_words(self) -> str:
        """The noise in words, such as `5% of characters changed, seed 1`; empty without noise."""
        if self.noise is None:
            return ""
        told = {"changed": self.noise.characters, "mistyped": self.noise.keyboard, "after a space": self.noise.splits}
        parts = ", ".join(f"{share:.3g} {what}" for what, share in told.items() if share)
        return f"shares of characters {parts}; seed {self.noise.seed}"

    @property
    def lengths_in_words(self) -> str:
        """What becomes of long texts: `cut at 128 tokens`, for one."""
        windows = self.windows
        cut = "" if self.max_tokens is None else f"cut at {self.max_tokens:,} tokens"
        if windows is None:
            return cut
        read = f"read in windows of {windows.tokens:,} tokens, {windows.stride:,} tokens apart"
        return f"{cut} and {read}" if cut else read

    def document(self) -> dict[str, Any]:
        """The spec as plain values. What earlier releases do not know is left out where it is not set."""
        values = asdict(self)
        for name in ("windows", "noise"):
            if getattr(self, name) is None:
                del values[name]
        return values

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON of this spec and the format version, 64 hexadecimal digits."""
        document = {"format_version": FORMAT_VERSION, **self.document()}
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_attributes(cls, values: Mapping[str, Any]) -> CaptureSpec:
        """The spec as it stands in a cache's attributes."""
        read: dict[str, Any] = {"layers": tuple(values["layers"]), "poolings": tuple(values["poolings"])}
        if values.get("windows") is not None:
            read["windows"] = WindowSpec(**values["windows"])
        if values.get("noise") is not None:
            read["noise"] = NoiseSpec(**values["noise"])
        return cls(**{**values, **read, _TOKENS: TokenSpec.from_attributes(values[_TOKENS])})


@dataclass(frozen=True)
class CacheHeader:
    """What a cache says of itself: its spec, its size, and facts that do not enter the fingerprint."""

    capture: CaptureSpec
    texts: int
    shard_rows: int
    model_name: str
    model_parameters: int
    versions: Mapping[str, str] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)
    """Where a cache that was made from another one comes from, and what was taken. Empty for an extracted cache."""

    def __post_init__(self) -> None:
        for name in ("texts", "shard_rows"):
            _require(_is_count(getattr(self, name)), name, "at least 1", getattr(self, name))
        parameters = self.model_parameters
        _require(parameters == 0 or _is_count(parameters), "model_parameters", "a whole number", parameters)
        _require(_is_printable(self.model_name), "model_name", "a name that can be printed", self.model_name)
        printable = isinstance(self.versions, Mapping) and all(map(_is_printable, chain(*self.versions.items())))
        _require(printable, "versions", "names and numbers that can be printed", self.versions)

    @property
    def shards(self) -> int:
        """How many shards hold the texts; the last one may be partly filled."""
        return -(-self.texts // self.shard_rows)

    @property
    def bytes(self) -> int:
        """Bytes of the pooled rows, without metadata (some kilobytes), with the last shard's padding and scales."""
        layers, dim = len(self.capture.layers), self.capture.dim
        scales = layers * dim * 4 if self.capture.storage_type == "int8" else 0
        return self.shards * (self.shard_bytes + scales) * len(self.capture.poolings)

    @property
    def shard_bytes(self) -> int:
        """Bytes of the values of one shard and pooling; its file has some more."""
        return self.shard_rows * len(self.capture.layers) * self.capture.dim * value_bytes(self.capture.storage_type)

    def rows_of(self, shard: int) -> slice:
        """The rows of texts that a shard owns."""
        return slice(shard * self.shard_rows, min((shard + 1) * self.shard_rows, self.texts))

    def attributes(self, complete: bool) -> dict[str, Any]:
        """The group's attribute, as plain JSON, with a checksum of all that it says."""
        values = {
            "format_version": FORMAT_VERSION,
            "complete": complete,
            "fingerprint": self.capture.fingerprint,
            **json.loads(json.dumps({**asdict(self), "capture": self.capture.document()})),
        }
        if not self.origin:  # extracted caches have no such entry, and those of earlier releases neither
            del values["origin"]
        checksum = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
        return {**values, "checksum": checksum}


@dataclass(frozen=True)
class ShardRecord:
    """Proof that a shard was written and read back: its files' checksums, and what the index needs of it."""

    shard: int
    files: Mapping[str, str]
    """Name of each of the shard's files inside the cache → SHA-256 of its bytes."""
    sums: Mapping[str, list[list[float]]]
    """Pooling → per layer: sum of row norms, sum, sum of squares, largest |value|; [4, layers]."""
    token_count: list[int]
    truncated: list[bool]
    claim: str
    """The shard's claim, as `claim_of` gives it: the capture, the shard's number, and its texts in their order."""
    binding: list[int]
    """The shard's row of the array `binding`."""


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_printable(name: object) -> bool:
    """No escape sequence among them: they are shown as they are."""
    return isinstance(name, str) and name.isprintable()


def _require(holds: bool, name: str, expected: object, found: object) -> None:
    if not holds:
        raise UserError(
            f"cache specification, {name}", expected=str(expected), found=str(found), next_step=f"correct {name}"
        )
