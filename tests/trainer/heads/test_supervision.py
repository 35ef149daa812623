"""Deep supervision: the auxiliary losses of heads with intermediate states, term by term."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.trainer.heads.slow import hidden_layers, make
from trainer.fitting.losses import training_losses
from trainer.objectives import MultiClass

SUPERVISED: dict[str, tuple[dict[str, Any], int]] = {
    "mean": ({"mlp_layers": 3, "hidden": 6, "dropout": 0.0}, 3),
    "mlp": ({"mlp_layers": 2, "hidden": 6, "dropout": 0.0}, 2),
    "set": ({"hidden": 6, "dropout": 0.0}, 1),
    "cayley": ({"hidden": 6, "blocks": 3, "dropout": 0.0}, 3),
    "fc": ({"hidden": 6, "mlp_layers": 0, "dropout": 0.0}, 2),
}


@pytest.mark.parametrize("name", SUPERVISED)
def test_the_loss_is_that_of_every_state(name: str) -> None:
    options, states = SUPERVISED[name]
    head, x = make(name, supervision=0.4, supervision_fades=False, **options)
    y = torch.tensor([2, 0])
    assert head.supervised(x).terms is None, "in evaluation the prediction alone counts"
    head.train()
    assert len(head.auxiliary) == states
    encoded, between = head.encoder.with_states(x)
    torch.testing.assert_close(encoded, head.encode(x))
    expected = cross_entropy(head(x), y)
    for place, (readout, state) in enumerate(zip(head.auxiliary, between, strict=True), start=1):
        expected = expected + 0.4 * place / states * cross_entropy(readout(state), y)
    objective = MultiClass(("a", "b", "c"))
    torch.testing.assert_close(training_losses(head.supervised(x), y, objective, 0.0), expected.unsqueeze(0))


def test_the_states_are_what_comes_between() -> None:
    head, x = make("mean", supervision=1.0, mlp_layers=2, hidden=6)
    _, states = head.encoder.with_states(x)
    layers = [hidden_layers(head.encoder.stack, z) for z in x.mean(1)]
    torch.testing.assert_close(states[0], x.mean(1))
    torch.testing.assert_close(states[1], torch.stack([first for first, _ in layers]))


def test_a_graphs_states_are_its_pooled_nodes_after_each_block() -> None:
    deep, x = make("cayley", supervision=1.0, blocks=2, hidden=6)
    shallow, _ = make("cayley", supervision=1.0, blocks=1, hidden=6)
    state = deep.encoder.state_dict()
    shallow.encoder.load_state_dict({name: value for name, value in state.items() if "blocks.1" not in name})
    torch.testing.assert_close(deep.encoder.with_states(x)[1][1], shallow.encode(x))


def test_it_fades() -> None:
    head, x = make("mlp", supervision=0.8, hidden=6)
    head.train()
    weights = []
    for share in (0.0, 0.5, 1.0):
        head.at_epoch(share)
        weights.append(head.supervised(x).weights[1].item())
    assert weights == pytest.approx([0.8, 0.4, 0.0])


def test_without_it_there_is_nothing_more_to_learn() -> None:
    head, x = make("mlp", hidden=6)
    assert not len(head.auxiliary)
    assert head.train().supervised(x).terms is None
