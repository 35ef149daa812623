"""Size of a model from its `config.json` alone: it is built without memory, counted and discarded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ilse.core.errors import MissingError, UserError


@dataclass(frozen=True)
class Shape:
    """What a cost estimate needs of a model."""

    name: str
    parameters: int
    flops_per_token: float
    """Two for every weight of the blocks' matrices that a token meets."""
    layers: int
    """Rows of a text: the embedding and every block."""
    dim: int
    intermediate: int

    @property
    def blocks(self) -> int:
        """Blocks of the model."""
        return self.layers - 1


def from_numbers(parameters: int, layers: int, dim: int) -> Shape:
    """A model that is known by three numbers; its inner layers count as four times as wide as its rows."""
    return Shape(f"{parameters / 1e9:.3g}B parameters", parameters, 2.0 * parameters, layers, dim, 4 * dim)


def from_config(path: Path) -> Shape:
    """The model that a Hugging Face `config.json`, or the folder that holds one, describes.

    Raises `UserError` where there is none, or one that transformers does not know.
    """
    import torch
    from transformers import AutoConfig, AutoModel

    from pipeline.model.architecture import depth, text_part, width

    if not path.exists():
        raise _unknown(path, "nothing there", MissingError)
    try:
        config = AutoConfig.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):  # shapes without memory: a 70B model takes no more than a small one
            model = text_part(AutoModel.from_config(config, trust_remote_code=False))
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _unknown(path, " ".join(str(error).split())[:300]) from error
    text = config.get_text_config()
    return Shape(
        name=_name(path),
        parameters=sum(weight.numel() for weight in model.parameters()),
        flops_per_token=2.0 * _multiplied(model, text),
        layers=depth(config) + 1,
        dim=width(config),
        intermediate=int(getattr(text, "intermediate_size", None) or 4 * width(config)),
    )


def _multiplied(model: Any, config: Any) -> float:
    """Weights that one token meets in the blocks; of a mixture of experts, those that it is sent to."""
    from pipeline.model.architecture import find_blocks

    try:
        part = find_blocks(model)
    except UserError:  # as when it is run: the whole model is near enough
        part = model
    counts = (getattr(config, key, None) for key in ("num_local_experts", "num_experts", "n_routed_experts"))
    experts = next((count for count in counts if count), None)
    chosen = getattr(config, "num_experts_per_tok", None)
    share = chosen / experts if experts and chosen else 1.0
    weights = ((name, weight) for name, weight in part.named_parameters() if weight.ndim > 1)
    return sum(float(weight.numel()) * (share if ".experts." in name else 1.0) for name, weight in weights)


def _name(path: Path) -> str:
    """The folder's name, or a file's own where it is not the usual one."""
    path = path.absolute()
    return path.parent.name if path.name == "config.json" else path.stem if path.is_file() else path.name


def _unknown(path: Path, found: str, kind: type[UserError] = UserError) -> UserError:
    return kind(
        f"model configuration {path}",
        expected="a config.json, or a folder with one, of an architecture that transformers knows",
        found=found,
        next_step="name the file with --model-config, or give --parameters, --layers and --dim instead",
    )
