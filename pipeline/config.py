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
"""Where texts are cut if nothing is said."""


class ModelParams(Section):
    """Which model is read, pinned; either `path` or `hub` with `revision`."""

    path: Path | None = Field(None, description="A local folder in Hugging Face's layout, or one GGUF file.")
    # Never a path: transformers would take an id that is a folder's name for that folder.
    hub: str | None = Field(
        None, pattern=r"^\w[\w.-]*(/\w[\w.-]*)?$", description="Repository id on the Hugging Face Hub."
    )
    revision: str | None = Field(
        None, pattern="^[0-9a-f]{40}$", description="Commit of the repository, 40 hexadecimal digits."
    )
    untrained: int | None = Field(
        None, ge=0, description="Seed to draw the weights anew with, as before any training: a control, no model."
    )
    trust_remote_code: bool = Field(False, description="Run Python code that comes with the model. Off unless named.")

    @model_validator(mode="after")
    def _one_source(self) -> ModelParams:
        if (self.path is None) == (self.hub is None):
            raise ValueError("either 'path' (folder or GGUF file) or 'hub' with 'revision', and not both")
        if self.hub is not None and self.revision is None:
            raise ValueError("'revision' beside 'hub': a model without a commit is not pinned")
        return self

    @property
    def name(self) -> str:
        """What people call it."""
        name = self.hub or (self.path.name if self.path else "")
        return name if self.untrained is None else f"{name}, untrained"


class ClusterParams(Section):
    """Where shards are computed. Every kind gives the same bytes."""

    kind: Literal["synchronous", "local", "address", "slurm", "cuda"] = Field(
        "local",
        description="`synchronous`: in this process, no Dask; `local`: Dask worker processes on this machine; "
        "`address`: a scheduler that runs already; `slurm`: dask-jobqueue; `cuda`: dask-cuda, a worker a GPU.",
    )
    workers: int = Field(
        1,
        ge=1,
        description="Worker processes or jobs, each with a copy of the model. Kind `cuda` takes every GPU without it.",
    )
    address: str | None = Field(None, description="Of the running scheduler, such as `tcp://10.0.0.1:8786`.")
    options: dict[str, Any] = Field(
        {}, description="Passed to dask-jobqueue's SLURMCluster or dask-cuda's LocalCUDACluster as they are."
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
    """Which token states are kept, and how. Of a rank, each layer gets a basis from a sample of the texts."""

    layers: list[int | str] | None = Field(
        None, description="As `extract.layers`, among the layers that are kept there; all of these without it."
    )
    rank: int | None = Field(
        None,
        ge=1,
        description="Values that stand for a layer's state: its part in the main directions of the layer's states. "
        "Whole states without it. 128 with `int4` is a good start.",
    )
    storage_type: TokenStorageType | None = Field(
        None,
        description="Type of the stored values; that of the pooled rows without it. `int8` and `int4` have scales of "
        "their own; `int4` at twice the rank takes as much as `int8` and tells more.",
    )


class WindowParams(Section):
    """How texts are read that are longer than a window: window by window, each as a text of its own.

    A text's rows are pooled over all its windows, and its token states are those of all: each token of the text counts
    once, in the first window that holds it; the tokenizer's special tokens count at the text's beginning and end.
    """

    tokens: int = Field(
        ge=1, description="Length of a window, special tokens included; at most the model's own window is used."
    )
    stride: int | None = Field(
        None,
        ge=1,
        description="Tokens between the beginnings of two windows: a smaller number than a window holds lets windows "
        "overlap, so that tokens at a window's beginning are read with what stands before them. No overlap without it.",
    )

    @model_validator(mode="after")
    def _no_token_lost(self) -> WindowParams:
        if self.stride is not None and self.stride > self.tokens:
            raise ValueError("a 'stride' of at most 'tokens': between windows that are further apart, tokens are lost")
        return self


class NoiseParams(Section):
    """What is done to each text before the model reads it: typing mistakes, other ones for each text and seed.

    Texts keep their ids, so caches of several seeds are views of the same texts (`ilse layers --views`), and heads can
    be tried on noisier texts (`ilse layers --compare`). New texts are never changed.
    """

    characters: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of letters and digits left out, doubled, replaced or exchanged with the next.",
    )
    keyboard: float = Field(0.0, ge=0, le=1, description="Share that a neighbouring key takes the place of (QWERTY).")
    splits: float = Field(0.0, ge=0, le=1, description="Share that a space is put before, within a word.")
    seed: int = Field(0, ge=0, description="Of what happens to which character.")

    @model_validator(mode="after")
    def _something_happens(self) -> NoiseParams:
        if not 0 < self.characters + self.keyboard + self.splits <= 1:
            raise ValueError("shares of together more than 0 and at most 1")
        return self


def _token_form(given: Any) -> str:
    return "<kept>" if isinstance(given, dict | TokenParams) else "<switch>"


class ExtractParams(Section):
    """How the cache is made from `texts.parquet`."""

    model: ModelParams
    layers: list[int | str] | None = Field(
        None,
        description="Which layers are kept, by number from 0 (the embedding) or as ranges such as `0..12`; negative "
        "numbers count from the last. All without it. Blocks behind the last one kept are not run.",
    )
    poolings: list[Pooling] = Field(
        ["mean"], min_length=1, description="How a layer's token states become one row; several in one pass."
    )
    token_states: Annotated[
        Annotated[bool, Tag("<switch>")] | Annotated[TokenParams, Tag("<kept>")], Discriminator(_token_form)
    ] = Field(
        False,
        description="Keep the state of every token too: `true` for all layers, whole, in `storage_type`; or which of "
        "them, and how. The size of each choice is announced before the run starts.",
    )
    max_tokens: int | None = Field(
        None,
        ge=1,
        description="Longer texts are cut, in tokens with special tokens; counted. 128 without it, and with `windows` "
        "no limit.",
    )
    windows: WindowParams | None = Field(
        None, description="Read longer texts window by window instead of cutting them. Every text in one piece without."
    )
    noise: NoiseParams | None = Field(
        None, description="Typing mistakes that are made in each text before the model reads it. None without."
    )
    template: str = Field("{text}", description="What the model reads; `{text}` stands for the text.")
    compute_type: ComputeType = Field(
        "auto", description="Type of weights and activations; `auto` is bfloat16 where the hardware multiplies it."
    )
    storage_type: StorageType = Field("float16", description="Type of the stored values.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto` takes a CUDA device where there is one.")
    threads: int = Field(0, ge=0, description="CPU threads of each worker; 0 shares the cores among the workers.")
    batch_tokens: int = Field(
        1024,
        ge=1,
        description="Tokens of a batch, padding included. A batch holds no more than the texts of one shard.",
    )
    compile: bool = Field(
        False,
        description="Compile the blocks with torch.compile: half a minute at the start, then some per cent faster.",
    )
    capture: Capture = Field(
        "hooks",
        description="`hooks` holds one layer's token states at a time; `hidden_states` is the slow way that holds "
        "those of all layers, for an architecture that hooks do not know.",
    )
    shard_rows: int = Field(
        256, ge=1, description="Texts of a shard: the unit of work, of resuming and of versioning. Keep it for good."
    )
    donors: list[str] = Field(
        [],
        description="Caches, folders or URLs, that give their rows for texts they already hold, where everything that "
        "a value depends on is equal. The cache that this run replaces is one without being named.",
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
                "'max_tokens' above 'windows.tokens', or none: it is the limit of the whole text, so that no text "
                "would have a second window"
            )
        return self

    def limit(self, window: int) -> int | None:
        """Tokens at which texts are cut for a model with room for `window` of them; None: nowhere."""
        return self.max_tokens if self.windows else min(self.max_tokens or DEFAULT_TOKENS, window)
