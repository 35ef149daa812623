"""Parameters of the extract stage, section `extract` of `params.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from ilse.params import Section

ComputeType = Literal["auto", "float32", "bfloat16", "float16"]


class ModelParams(Section):
    """Which model is read, pinned; either `path` or `hub` with `revision`."""

    path: Path | None = Field(None, description="A local folder in Hugging Face's layout, or one GGUF file.")
    hub: str | None = Field(None, description="Repository id on the Hugging Face Hub.")
    revision: str | None = Field(
        None, pattern="^[0-9a-f]{40}$", description="Commit of the repository, 40 hexadecimal digits."
    )
    trust_remote_code: bool = Field(False, description="Run Python code that comes with the model. Off unless named.")

    @model_validator(mode="after")
    def _one_source(self) -> ModelParams:
        if (self.path is None) == (self.hub is None):
            raise ValueError("either 'path' (folder or GGUF file) or 'hub' with 'revision', and not both")
        if self.hub is not None and self.revision is None:
            raise ValueError("'revision' beside 'hub': a model without a commit is not pinned")
        return self


class ClusterParams(Section):
    """Where shards are computed. Every kind gives the same bytes."""

    kind: Literal["synchronous", "local"] = Field(
        "local", description="`local`: Dask worker processes on this machine; `synchronous`: in this process, no Dask."
    )
    workers: int = Field(1, ge=1, description="Worker processes, each with a copy of the model.")


class ExtractParams(Section):
    """How the cache is made from `texts.parquet`."""

    model: ModelParams
    pooling: Literal["mean"] = Field("mean", description="How a layer's token states become one row.")
    max_tokens: int = Field(128, ge=1, description="Longer texts are cut, in tokens with special tokens; counted.")
    template: str = Field("{text}", description="What the model reads; `{text}` stands for the text.")
    compute_type: ComputeType = Field(
        "auto", description="Type of weights and activations; `auto` is bfloat16 where the hardware multiplies it."
    )
    storage_type: Literal["float16", "float32"] = Field("float16", description="Type of the stored values.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto` takes a CUDA device where there is one.")
    threads: int = Field(0, ge=0, description="CPU threads of each worker; 0 shares the cores among the workers.")
    batch_tokens: int = Field(1024, ge=1, description="Tokens of a batch, padding included.")
    shard_rows: int = Field(
        256, ge=1, description="Texts of a shard: the unit of work, of resuming and of versioning. Keep it for good."
    )
    cluster: ClusterParams = ClusterParams()

    @model_validator(mode="after")
    def _template_takes_the_text(self) -> ExtractParams:
        if "{text}" not in self.template:
            raise ValueError("a template with a place for {text}")
        return self
