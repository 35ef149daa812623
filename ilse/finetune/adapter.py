"""A frozen model with low-rank additions and a classifier: what is trained, and how it is kept.

LoRA (Hu et al. 2021, arXiv 2106.09685): W x becomes W x + (alpha / rank) B A x, with A and B trained and B zero at
the start.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from jaxtyping import Float
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.pytorch_utils import Conv1D

from ilse.finetune.config import LoraParams
from ilse.finetune.targets import target_layers
from pipeline.capture.batching import Batch
from pipeline.capture.pooling import Pooler
from pipeline.model.architecture import model_inputs
from pipeline.model.load import FrozenModel
from trainer.fitting.isolation import seeded

CLASSIFIER = "classifier.safetensors"
SHORT = 64
"""Tokens. Measured on SmolLM2-135M, bfloat16, headlines: an epoch takes 0.76 of the time. The weights of attention are
kept for the backward pass then, which takes memory on longer texts."""


class Classifier(nn.Module):
    """A linear classifier over the mean of a text's final states, as the cache pools them.

    Parameters
    ----------
    adapted
        A model with its additions.
    frozen
        The same model as it was loaded.
    labels
        How many there are.
    """

    def __init__(self, adapted: PeftModel, frozen: FrozenModel, labels: int) -> None:
        super().__init__()
        self.adapted = adapted
        self.head = nn.Linear(frozen.facts.dim, labels).to(frozen.facts.device)
        self.window = frozen.facts.window
        self.device = frozen.facts.device

    def forward(self, batch: Batch) -> Float[Tensor, "texts labels"]:
        """Logits, in the batch's order; padding may stand on either side."""
        device = self.device
        types = None if batch.types is None else batch.types.to(device)
        inputs = model_inputs(self.adapted.get_base_model(), batch.ids.to(device), batch.mask.to(device), types)
        with _attention(device, batch.ids.shape[1]):
            states = self.adapted(**inputs).last_hidden_state
        logits: Tensor = self.head(Pooler(batch.spans, batch.content, ("mean",), device)(states)["mean"])
        return logits

    def trained(self) -> dict[str, Tensor]:
        """The weights that training changes, by name: all others are frozen."""
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    def save(self, folder: Path) -> None:
        """Writes `adapter_model.safetensors`, `adapter_config.json` and `classifier.safetensors`."""
        # Without the first argument peft asks the Hub whether the vocabulary has grown.
        self.adapted.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # an empty model card
        save_file({name: weight.detach().cpu() for name, weight in self.head.state_dict().items()}, folder / CLASSIFIER)


def _attention(device: str, width: int) -> AbstractContextManager[None]:
    """On a CPU with short texts, computes attention as plain products, whose backward pass is faster than the fused
    one.
    """
    plain = device == "cpu" and width <= SHORT
    return sdpa_kernel(SDPBackend.MATH) if plain else nullcontext()


@contextmanager
def adapted(frozen: FrozenModel, params: LoraParams, labels: int, seed: int) -> Iterator[Classifier]:
    """The model with additions that `seed` draws; when the block ends, it is again what it was.

    Raises `UserError` as `target_layers` does.
    """
    targets = target_layers(frozen.model, params.targets)
    config = LoraConfig(
        r=params.rank,
        lora_alpha=params.alpha,  # type: ignore[arg-type] # a fraction works as well
        lora_dropout=params.dropout,
        target_modules=targets,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in frozen.model.modules()),
    )
    with seeded(seed, frozen.facts.device):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # peft asks for what is renamed
            wrapped = get_peft_model(frozen.model, config)
        classifier = Classifier(wrapped, frozen, labels)
    try:
        yield classifier
    finally:
        wrapped.unload()
        frozen.model.eval()
