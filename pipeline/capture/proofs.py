"""What is proven on a loaded model, with made-up texts, before a row of it is believed: never taken from its name."""

from __future__ import annotations

import torch
from jaxtyping import Float32, Int
from torch import Tensor

from pipeline.capture.batching import Batch, Spans
from pipeline.capture.forward import Forward
from pipeline.model.architecture import accepts, unknown
from pipeline.model.witness import LENGTHS, made_up_ids

# How far a token's state may be from what Hugging Face gives, as a part of its norm, in the median over tokens. It is
# the same computation, normally equal to the last bit. The median because a few tokens go other ways in bfloat16.
TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2, "float16": 1e-2}
# Times as much: fused operations round in other places. Measured on SmolLM2-135M in bfloat16: 0.02, a layer from the
# next 0.17 at least.
COMPILED = 10
# A model that can't be run in some way says so by one of these.
REFUSALS = (TypeError, ValueError, AttributeError)


@torch.inference_mode()
def prove_capture(forward: Forward) -> None:
    """Compares what is read with what `output_hidden_states` gave when the model was loaded.

    An architecture that capture misreads gives a `UserError` and never wrong rows.
    """
    witness, facts = forward.frozen.witness, forward.frozen.facts
    if not _equals_witness(forward, _witness_states(forward, witness.ids, witness.mask)):
        raise unknown(facts.architecture, "other states than output_hidden_states gives")
    if facts.compiled:  # a batch without padding may be a graph of its own: it too meets this shape first
        _witness_states(forward, witness.ids, torch.ones_like(witness.mask))


@torch.inference_mode()
def does_without_mask(forward: Forward) -> bool:
    """Whether right padding may go unmasked.

    Where tokens see only what stands before them, the padding's ids do not change a bit of the tokens' states;
    and without a mask attention takes a faster way.
    """
    model, mask = forward.frozen.model, forward.frozen.witness.mask
    try:
        with_these, with_those = (
            _witness_states(forward, made_up_ids(model, mask, padding), None) for padding in (7, 11)
        )
    except REFUSALS:  # a forward pass that insists on a mask
        return False
    return torch.equal(with_these, with_those) and _equals_witness(forward, with_these)


@torch.inference_mode()
def keeps_packed_texts_apart(forward: Forward) -> bool:
    """Whether several texts may stand in one row.

    With tokens numbered text by text, the states must be those of each text alone, and other ids in the rest of the
    row must not change a bit of them.
    """
    if not accepts(forward.frozen.model, "position_ids"):
        return False
    batch, places = _packed(forward, 7)
    other, _ = _packed(forward, 11)
    try:
        found, again = (_states_at(forward, places, part.ids, None, part.numbers) for part in (batch, other))
    except REFUSALS:
        return False
    return torch.equal(found, again) and _equals_witness(forward, found)


def _packed(forward: Forward, others: int) -> tuple[Batch, Int[Tensor, " real"]]:
    """Each made-up text between two of the id `others` and before padding; and the places of the made-up texts."""
    witness = forward.frozen.witness
    before, behind, width = 5, 3, max(LENGTHS) + 12
    ids = torch.full((len(LENGTHS), width), others)
    starts, lengths = [], []
    for row, length in enumerate(LENGTHS):
        ids[row, before : before + length] = witness.ids[row, :length]
        starts += [row * width, row * width + before, row * width + before + length]
        lengths += [before, length, behind]
    spans = Spans(torch.tensor(starts), torch.tensor(lengths))
    of_text = torch.arange(len(starts)) % 3 == 1
    places = Spans(spans.starts[of_text], spans.lengths[of_text]).places
    return Batch(torch.arange(len(starts)), spans, ids, torch.ones_like(ids, dtype=torch.bool)), places


def _witness_states(
    forward: Forward, ids: Int[Tensor, "batch tokens"], mask: Int[Tensor, "batch tokens"] | None
) -> Float32[Tensor, "layers real dim"]:
    """States of the made-up texts' real tokens in each wanted layer."""
    return _states_at(forward, forward.frozen.witness.mask.reshape(-1).nonzero().squeeze(1), ids, mask)


def _states_at(
    forward: Forward, places: Int[Tensor, " real"], ids: Tensor, mask: Tensor | None, numbers: Tensor | None = None
) -> Float32[Tensor, "layers real dim"]:
    """States at some places of the flat batch in each wanted layer."""
    seen: dict[int, Tensor] = {}

    def see(layer: int, states: Tensor) -> None:
        seen[layer] = states.cpu().flatten(0, 1)[places].float()

    forward(see, ids, mask, numbers)
    return torch.stack([seen[layer] for layer in forward.layers])


def _equals_witness(forward: Forward, found: Float32[Tensor, "layers real dim"]) -> bool:
    witness, facts = forward.frozen.witness, forward.frozen.facts
    expected = witness.states[list(forward.layers)][:, witness.mask.bool()]
    error = (found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-12)
    tolerance = TOLERANCE[facts.compute_type] * (COMPILED if facts.compiled else 1)
    return bool((error.median(1).values <= tolerance).all())
