"""The classifier over an adapted model: padding, pooling, files, and which layers are added to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from ilse.core.errors import UserError
from ilse.finetune.adapter import SHORT, Classifier, adapted
from ilse.finetune.targets import target_layers
from pipeline.capture.batching import Batch, Spans, lay_out
from pipeline.capture.tokens import Tokens
from pipeline.model.load import FrozenModel
from tests.finetune.conftest import quick

Frozen = Callable[..., FrozenModel]
LENGTHS = (3, 7, 5)


def right(width: int) -> Batch:
    ids = [[2 + (3 * i + j) % 17 for j in range(length)] for i, length in enumerate(LENGTHS)]
    tokens = Tokens(ids, [[True] * length for length in LENGTHS], [False] * len(LENGTHS))
    return lay_out(tokens, [[0], [1], [2]], width, pad=1)


def left(width: int) -> Batch:
    """The same texts behind their padding."""
    batch = right(width)
    shifts = [width - length for length in LENGTHS]
    rolled = [torch.stack([row.roll(s) for row, s in zip(x, shifts, strict=True)]) for x in (batch.ids, batch.content)]
    return Batch(batch.positions, Spans(batch.spans.starts + torch.tensor(shifts), batch.spans.lengths), *rolled)


def disturb(classifier: Classifier) -> None:
    """Additions that add something: they start as zero."""
    generator = torch.Generator().manual_seed(0)
    for weight in classifier.trained().values():
        torch.nn.init.normal_(weight, std=0.1, generator=generator)


@pytest.mark.parametrize("width", [8, SHORT])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "opt", "bert", "t5"])
def test_padding_on_either_side_gives_the_same_logits_and_gradients(frozen: Frozen, name: str, width: int) -> None:
    model = frozen(name)
    found = []
    with adapted(model, quick(), 2, seed=0) as classifier:
        classifier.eval()
        disturb(classifier)
        for batch in (right(7), right(width), left(width)):
            classifier.zero_grad()
            logits = classifier(batch)
            logits.square().sum().backward()
            gradients = torch.cat([weight.grad.flatten() for weight in classifier.trained().values()])
            found.append((logits.detach(), gradients))
    for logits, gradients in found[1:]:
        torch.testing.assert_close(logits, found[0][0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(gradients, found[0][1], atol=1e-4, rtol=1e-3)


def test_untrained_additions_leave_the_mean_of_the_final_states(frozen: Frozen) -> None:
    model, batch = frozen("llama"), right(7)
    with torch.no_grad():
        one = model.model(input_ids=batch.ids[1:2]).last_hidden_state[0].mean(0)
        with adapted(model, quick(), 2, seed=0) as classifier:
            classifier.eval()
            torch.testing.assert_close(classifier(batch)[1], classifier.head(one), atol=1e-5, rtol=1e-5)
            disturb(classifier)
            assert not torch.allclose(classifier(batch)[1], classifier.head(one), atol=1e-3)


def test_what_is_saved_gives_the_same_logits(frozen: Frozen, tmp_path: Path) -> None:
    model, batch = frozen("llama"), right(7)
    with torch.no_grad(), adapted(model, quick(rank=3, alpha=6), 2, seed=0) as classifier:
        classifier.eval()
        disturb(classifier)
        expected = classifier(batch)
        classifier.save(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "classifier.safetensors",
    ]
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 3
    again = Classifier(PeftModel.from_pretrained(model.again(), str(tmp_path)), model, 2).eval()
    again.head.load_state_dict(load_file(tmp_path / "classifier.safetensors"))
    with torch.no_grad():
        torch.testing.assert_close(again(batch), expected)


ATTENTION = {
    "llama": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"],
    "gpt2": ["attn.c_attn", "attn.c_proj"],
    "gpt_neox": ["attention.query_key_value", "attention.dense"],
    "bert": ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"],
    "modernbert": ["attn.Wqkv", "attn.Wo"],
    "t5": [f"layer.0.SelfAttention.{name}" for name in "qkvo"],
}


@pytest.mark.parametrize("name", list(ATTENTION))
def test_attention_is_found_by_name(frozen: Frozen, name: str) -> None:
    model = frozen(name)
    assert target_layers(model.model, "attention") == ATTENTION[name]
    with adapted(model, quick(rank=1), 2, seed=0) as classifier:
        added = [key for key in classifier.trained() if ".lora_A." in key]
    assert len(added) == 3 * len(ATTENTION[name])  # blocks


def test_other_layers_are_named_by_their_ends_or_taken_all(frozen: Frozen) -> None:
    model = frozen("llama").model
    feed_forward = ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    assert target_layers(model, "all-linear") == ATTENTION["llama"] + feed_forward
    assert target_layers(model, ["down_proj", "self_attn.q_proj"]) == ["self_attn.q_proj", "mlp.down_proj"]


def test_an_unknown_layer_is_refused_with_the_nearest(frozen: Frozen) -> None:
    model = frozen("llama").model
    with pytest.raises(UserError, match=r"lora.targets(.|\n)*self_attn.q_proj(.|\n)*q_pro\n(.|\n)*mean 'q_proj'"):
        target_layers(model, ["q_pro"])
    with pytest.raises(UserError, match=r"found: +nothing(.|\n)*set it to attention"):
        target_layers(model, ["v_proj", "nothing"])


def test_a_model_without_attention_is_refused(frozen: Frozen) -> None:
    with pytest.raises(UserError, match=r"'mamba'(.|\n)*none among mixer.in_proj(.|\n)*lora.targets to all-linear"):
        target_layers(frozen("mamba").model, "attention")
