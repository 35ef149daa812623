"""Parameters of the lora stage, section `lora` of `params.yaml`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from ilse.core.params import Section

Layers = Literal["attention", "all-linear"]


class LoraParams(Section):
    """How the model is fine-tuned with low-rank additions; model, template and `max_tokens` are those of `extract`."""

    run: list[Literal["lora"]] = Field(
        [],
        max_length=1,
        description="`[lora]` makes `dvc repro` run this stage; empty, it is run by `ilse lora` alone.",
    )
    rank: int = Field(2, ge=1, description="Rank of the addition to a weight matrix.")
    alpha: float = Field(16, gt=0, description="The addition is scaled by alpha / rank.")
    dropout: float = Field(0.1, ge=0, lt=1, description="Of what an addition reads.")
    targets: Layers | Annotated[list[Annotated[str, StringConstraints(min_length=1)]], Field(min_length=1)] = Field(
        "attention",
        description="What is added to: all linear layers of attention, all linear layers of the blocks, or a list of "
        "names as they end in the model, such as `q_proj`.",
    )
    epochs: int = Field(5, ge=1, description="Passes over the training examples; the best one on validation is kept.")
    batch_size: int = Field(32, ge=1, description="Examples of a step, of about the same length.")
    learning_rate: float = Field(2e-3, gt=0, description="Peak learning rate (AdamW).")
    weight_decay: float = Field(1e-2, ge=0, description="Weight decay.")
    warmup: float = Field(
        0.1, ge=0, lt=1, description="Share of all steps in which the rate rises; it falls to 0 in the others."
    )
    seeds: int = Field(1, ge=1, description="Independent runs, with seeds 0, 1, …")
    compute_type: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Type of the frozen weights and of activations; `auto` is bfloat16 where the hardware multiplies "
        "it. What is trained stays in float32.",
    )
