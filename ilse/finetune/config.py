"""Parameters of the lora stage, section `lora` of `params.yaml`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from ilse.core.params import Section

Layers = Literal["attention", "all-linear"]


class LoraParams(Section):
    """How the model is fine-tuned with LoRA; model, template and `max_tokens` come from section `extract`."""

    run: list[Literal["lora"]] = Field(
        [],
        max_length=1,
        description="`[lora]` makes `dvc repro` run this stage; empty, only `ilse lora` runs it.",
    )
    rank: int = Field(2, ge=1, description="Rank of the update to a weight matrix.")
    alpha: float = Field(16, gt=0, description="Scale: the update is multiplied by alpha / rank.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Dropout rate of the input to an update.")
    targets: Layers | Annotated[list[Annotated[str, StringConstraints(min_length=1)]], Field(min_length=1)] = Field(
        "attention",
        description="Layers to update: the linear layers of attention, all linear layers of the blocks, or a list of "
        "last parts of names, such as `q_proj`.",
    )
    epochs: int = Field(5, ge=1, description="Passes over the training examples; the best one on validation is kept.")
    batch_size: int = Field(32, ge=1, description="Examples per step, of about the same length.")
    learning_rate: float = Field(2e-3, gt=0, description="Peak learning rate (AdamW).")
    weight_decay: float = Field(1e-2, ge=0, description="Weight decay.")
    warmup: float = Field(
        0.1, ge=0, lt=1, description="Share of steps in which the learning rate rises; it falls to 0 in the others."
    )
    seeds: int = Field(1, ge=1, description="Independent runs, with seeds 0, 1, …")
    compute_type: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Type of frozen weights and activations; `auto` is bfloat16 if the hardware supports it. Trained "
        "weights stay in float32.",
    )
