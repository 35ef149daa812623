"""`ilse plan` for a model that is not on this machine: a table of machines, in seconds and without weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ilse.core.errors import UserError
from pipeline.forecast.costs import Workload
from pipeline.forecast.machines import MACHINES, Machine, dollars, fits, need, times
from pipeline.forecast.quote import machine_table, parse_count, storage_line, workload_document
from pipeline.forecast.shapes import Shape, from_config, from_numbers

TEXTS, TOKENS_PER_TEXT = "100M", "128"
"""Defaults of `ilse plan` for another model."""


@dataclass(frozen=True)
class Quote:
    """Costs of a model's extraction on each machine."""

    shape: Shape
    work: Workload

    def lines(self) -> list[str]:
        """The model's size, the cache's, and the table of machines."""
        shape, work = self.shape, self.work
        return [
            f"model    {shape.name}: {shape.parameters / 1e9:,.2f} B parameters, {shape.layers} layers "
            f"of width {shape.dim}; computed in bfloat16",
            f"texts    {work.texts:,} of {work.tokens_per_text:.0f} tokens: {work.tokens:,} tokens, "
            f"{work.shards:,} shards of {work.shard_rows} texts",
            f"disk     {storage_line(work)}",
            "",
            *machine_table(work),
        ]

    def document(self) -> dict[str, Any]:
        """The quote as plain JSON. A machine that the model does not fit has neither time nor price."""
        machines = [_machine_document(self.work, machine) for machine in MACHINES]
        return {**workload_document(self.work), "model": self.shape.name, "machines": machines}


def quote(
    model_config: Path | None = None,
    parameters: str | None = None,
    layers: str | None = None,
    dim: str | None = None,
    texts_count: str | None = None,
    tokens_per_text: str | None = None,
) -> Quote:
    """The quote for a model by its configuration or by three numbers; numbers as people write them, such as 7B.

    One pooling, float16 and shards of 256 texts, as `params.yaml` has them. Raises `UserError` where the model is
    not fully named or a number is none.
    """
    shape = _shape(model_config, {"--parameters": parameters, "--layers": layers, "--dim": dim})
    count = parse_count(texts_count or TEXTS, "--texts-count")
    length = parse_count(tokens_per_text or TOKENS_PER_TEXT, "--tokens-per-text")
    return Quote(shape, workload_of(shape, count, length))


def workload_of(shape: Shape, texts: int, tokens_per_text: int, **more: Any) -> Workload:
    """The extraction of all layers of such a model."""
    return Workload(
        texts=texts,
        tokens=texts * tokens_per_text,
        layers=shape.layers,
        dim=shape.dim,
        parameters=shape.parameters,
        flops_per_token=shape.flops_per_token,
        blocks=shape.blocks,
        intermediate=shape.intermediate,
        **more,
    )


def _shape(config: Path | None, numbers: dict[str, str | None]) -> Shape:
    given = {name: value for name, value in numbers.items() if value is not None}
    if config is not None and not given:
        return from_config(config)
    if config is None and len(given) == len(numbers):
        return from_numbers(*(parse_count(value, name) for name, value in given.items()))
    named = [*(["--model-config"] if config is not None else []), *given]
    raise UserError(
        "ilse plan",
        expected="--model-config, or all of --parameters, --layers and --dim",
        found=" and ".join(named) or "no model",
        next_step="name the model in one of the two ways; without any option, the plan is for params.yaml's",
    )


def _machine_document(work: Workload, machine: Machine) -> dict[str, Any]:
    parts, whole = times(work, machine), fits(work, machine)
    return {
        "machine": machine.name,
        "seconds": round(parts.seconds, 1) if whole else None,
        "bound_by": parts.binding if whole else "memory",
        "seconds_by_part": {name: round(value, 1) for name, value in asdict(parts).items()},
        "memory_bytes": need(work, machine),
        "dollars": round(dollars(work, machine), 2) if whole else None,
    }
