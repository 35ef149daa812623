"""Parameters of the extract stage, section `extract` of `params.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from ilse.core.params import Section
from ilse.core.secrets import holds_secrets
from pipeline.store import Pooling

ComputeType = Literal["auto", "float32", "bfloat16", "float16"]
StorageType = Literal["float16", "bfloat16", "float32", "int8"]
TokenStorageType = Literal["float16", "bfloat16", "float32", "int8", "int4"]
Capture = Literal["hooks", "hidden_states"]
DEFAULT_TOKENS = 128
"""Tokens at which texts are truncated by default."""


class ModelParams(Section):
    """The model to read, pinned: either `path`, or `hub` with `revision`."""

    path: Path | None = Field(None, description="Local folder in the Hugging Face layout, or a GGUF file.")
    # Never a path: transformers would take an id that is a folder's name for that folder.
    hub: str | None = Field(
        None, pattern=r"^\w[\w.-]*(/\w[\w.-]*)?$", description="Repository id on the Hugging Face Hub."
    )
    revision: str | None = Field(
        None, pattern="^[0-9a-f]{40}$", description="Commit of the repository, 40 hexadecimal digits."
    )
    untrained: int | None = Field(
        None, ge=0, description="Seed to draw random weights with, as before any training: a control, not a model."
    )
    trust_remote_code: bool = Field(False, description="Run Python code that comes with the model.")

    @model_validator(mode="after")
    def _one_source(self) -> ModelParams:
        if (self.path is None) == (self.hub is None):
            raise ValueError("either 'path' (folder or GGUF file) or 'hub' with 'revision', and not both")
        if self.hub is not None and self.revision is None:
            raise ValueError("'revision' with 'hub': a model without a commit is not pinned")
        return self

    @property
    def name(self) -> str:
        """Name of the model for people."""
        name = self.hub or (self.path.name if self.path else "")
        return name if self.untrained is None else f"{name}, untrained"


class ClusterParams(Section):
    """Where shards are computed. Every kind gives the same bytes."""

    kind: Literal["synchronous", "local", "address", "slurm", "cuda"] = Field(
        "local",
        description="`synchronous`: in this process, no Dask; `local`: Dask worker processes on this machine; "
        "`address`: a running scheduler; `slurm`: dask-jobqueue; `cuda`: dask-cuda, one worker per GPU.",
    )
    workers: int = Field(
        1,
        ge=1,
        description="Worker processes or jobs, each with a copy of the model. Kind `cuda` uses every GPU by default.",
    )
    address: str | None = Field(None, description="Address of the running scheduler, such as `tcp://10.0.0.1:8786`.")
    options: dict[str, Any] = Field(
        {}, description="Options passed to dask-jobqueue's SLURMCluster or dask-cuda's LocalCUDACluster."
    )

    @model_validator(mode="after")
    def _address_goes_with_its_kind(self) -> ClusterParams:
        if (self.kind == "address") != (self.address is not None):
            raise ValueError("'address' with kind 'address', and with no other kind")
        if self.address is not None and holds_secrets(self.address):
            raise ValueError("an address of host and port alone; keys for TLS come from Dask's own configuration")
        if self.options and self.kind not in ("slurm", "cuda"):
            raise ValueError("'options' with kind 'slurm' or 'cuda', and with no other kind")
        return self


class TokenParams(Section):
    """Which token states are kept, and how. With a rank, each layer gets a basis from a sample of the texts."""

    layers: list[int | str] | None = Field(
        None, description="Layers whose token states are kept, among those of `extract.layers`; all of them if unset."
    )
    rank: int | None = Field(
        None,
        ge=1,
        description="Values kept per token and layer: the state's coordinates along the layer's principal directions. "
        "Unset: the whole state. 128 with `int4` is a good start.",
    )
    storage_type: TokenStorageType | None = Field(
        None,
        description="Type of the stored values; by default the type of the pooled rows. `int8` and `int4` have their "
        "own scales. `int4` at twice the rank takes as much space as `int8` and keeps more information.",
    )


class WindowParams(Section):
    """How texts longer than a window are read: window by window, each like a separate text.

    A text's rows are pooled over all its windows, and its token states are those of all: each token of the text counts
    once, in the first window that holds it; the tokenizer's special tokens count at the text's beginning and end.
    """

    tokens: int = Field(
        ge=1, description="Length of a window in tokens, including special tokens; limited by the model's own window."
    )
    stride: int | None = Field(
        None,
        ge=1,
        description="Tokens from the start of one window to the start of the next. If smaller than a window, windows "
        "overlap, and the tokens at a window's start are read with some context before them. Unset: no overlap.",
    )

    @model_validator(mode="after")
    def _no_token_lost(self) -> WindowParams:
        if self.stride is not None and self.stride > self.tokens:
            raise ValueError("a 'stride' of at most 'tokens': between windows that are further apart, tokens are lost")
        return self


class NoiseParams(Section):
    """Typing mistakes made in each text before the model reads it; they differ by text and by seed.

    Texts keep their ids, so caches of several seeds are views of the same texts (`ilse layers --views`), and heads can
    be tried on noisier texts (`ilse layers --compare`). New texts are never changed.
    """

    characters: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of letters and digits that are dropped, doubled, replaced or swapped with the next one.",
    )
    keyboard: float = Field(0.0, ge=0, le=1, description="Share replaced by a neighbouring QWERTY key.")
    splits: float = Field(0.0, ge=0, le=1, description="Share with a space inserted before, within a word.")
    seed: int = Field(0, ge=0, description="Seed of the mistakes.")

    @model_validator(mode="after")
    def _something_happens(self) -> NoiseParams:
        if not 0 < self.characters + self.keyboard + self.splits <= 1:
            raise ValueError("shares whose sum is above 0 and at most 1")
        return self


def _token_form(given: Any) -> str:
    return "<kept>" if isinstance(given, dict | TokenParams) else "<switch>"


class ExtractParams(Section):
    """How the cache is made from `texts.parquet`."""

    model: ModelParams
    layers: list[int | str] | None = Field(
        None,
        description="Layers to keep, by number from 0 (the embedding) or as ranges such as `0..12`; negative "
        "numbers count from the last. Unset: all layers. Blocks after the last layer kept are not run.",
    )
    poolings: list[Pooling] = Field(
        ["mean"], min_length=1, description="How a layer's token states are pooled to a row; several in one pass."
    )
    token_states: Annotated[
        Annotated[bool, Tag("<switch>")] | Annotated[TokenParams, Tag("<kept>")], Discriminator(_token_form)
    ] = Field(
        False,
        description="Keep the state of every token too: `true` for whole states of all layers in `storage_type`, or a "
        "section that says which layers, and how. The size is shown before the run starts.",
    )
    max_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens at which longer texts are truncated, including special tokens; truncated texts are "
        "counted. Unset: 128, or no limit with `windows`.",
    )
    windows: WindowParams | None = Field(
        None, description="Read longer texts window by window instead of truncating them. Unset: every text at once."
    )
    noise: NoiseParams | None = Field(
        None, description="Typing mistakes made in each text before the model reads it. Unset: none."
    )
    template: str = Field("{text}", description="What the model reads; `{text}` is replaced by the text.")
    compute_type: ComputeType = Field(
        "auto", description="Type of weights and activations; `auto` is bfloat16 if the hardware supports it."
    )
    storage_type: StorageType = Field("float16", description="Type of the stored values.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Device the model runs on; `auto` uses a CUDA device if there is one."
    )
    threads: int = Field(0, ge=0, description="CPU threads of each worker; 0 shares the cores among the workers.")
    batch_tokens: int = Field(
        1024,
        ge=1,
        description="Tokens per batch, including padding. A batch never holds texts of two shards.",
    )
    compile: bool = Field(
        False,
        description="Compile the blocks with torch.compile: half a minute at the start, then a few per cent faster.",
    )
    capture: Capture = Field(
        "hooks",
        description="`hooks` holds the token states of one layer at a time; `hidden_states` is slower and holds those "
        "of all layers, for architectures that hooks do not support.",
    )
    shard_rows: int = Field(
        256, ge=1, description="Texts per shard: the unit of work, resuming and versioning. Do not change it later."
    )
    donors: list[str] = Field(
        [],
        description="Caches (folders or URLs) to copy rows from, for texts they already hold and if everything that a "
        "value depends on is equal. The cache that this run replaces is always one of them.",
    )
    cluster: ClusterParams = ClusterParams()

    @model_validator(mode="after")
    def _template_takes_the_text(self) -> ExtractParams:
        if "{text}" not in self.template:
            raise ValueError("a template with a place for {text}")
        if len(set(self.poolings)) < len(self.poolings):
            raise ValueError("each pooling once")
        return self

    @model_validator(mode="after")
    def _windows_shorter_than_texts(self) -> ExtractParams:
        if self.windows and self.max_tokens is not None and self.max_tokens <= self.windows.tokens:
            raise ValueError(
                "'max_tokens' above 'windows.tokens', or none: it limits the whole text, so no text would have a "
                "second window"
            )
        return self

    def limit(self, window: int) -> int | None:
        """Tokens at which texts are truncated for a model with a window of `window` tokens; None: nowhere."""
        return self.max_tokens if self.windows else min(self.max_tokens or DEFAULT_TOKENS, window)
