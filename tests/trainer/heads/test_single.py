"""One-layer heads, and the probes on all layers against probes trained one by one."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from ilse.core.errors import UserError
from trainer.heads import LayerProbes, SingleLayer, build_head, head_config

LAYERS, DIM, OUT = 4, 6, 3


def probes() -> LayerProbes:
    torch.manual_seed(0)
    head = build_head("best", layers=LAYERS, dim=DIM, out=OUT)
    assert isinstance(head, LayerProbes)
    return head.double()


def test_last_reads_the_last_row() -> None:
    head = build_head("last", layers=LAYERS, dim=DIM, out=OUT)
    x = torch.randn(2, LAYERS, DIM)
    assert isinstance(head, SingleLayer)
    assert head.layers_read == (LAYERS - 1,)
    torch.testing.assert_close(head(x), x[:, -1] @ head.readout.weight.T + head.readout.bias)
    torch.testing.assert_close(head(x), head(x[:, -1:]))


def test_candidates_are_every_layers_own_outputs() -> None:
    head = probes()
    x = torch.randn(5, LAYERS, DIM, dtype=torch.float64)
    candidates = head(x)
    assert candidates.shape == (5, LAYERS, OUT)
    for layer in range(LAYERS):
        expected = x[:, layer] @ head.probes.weight[layer].T + head.probes.bias[layer]
        torch.testing.assert_close(candidates[:, layer], expected)
        single = head.probe(layer)
        assert isinstance(single, SingleLayer)
        assert single.layers_read == (layer,)
        torch.testing.assert_close(single(x), expected)
        torch.testing.assert_close(single(x[:, layer : layer + 1]), expected)


def test_probes_train_like_single_layers() -> None:
    together = probes()
    apart = [together.probe(layer) for layer in range(LAYERS)]
    optimisers = [torch.optim.Adam(h.parameters(), lr=1e-2, weight_decay=1e-3) for h in (together, *apart)]
    start = together.probes.weight.detach().clone()
    for _ in range(30):
        x, y = torch.randn(16, LAYERS, DIM, dtype=torch.float64), torch.randint(0, OUT, (16,))
        candidates = together(x)
        losses = [sum(cross_entropy(candidates[:, layer], y) for layer in range(LAYERS))]
        losses += [cross_entropy(head(x), y) for head in apart]
        for loss, optimiser in zip(losses, optimisers, strict=True):
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    assert (together.probes.weight - start).abs().min() > 0
    for layer, head in enumerate(apart):
        torch.testing.assert_close(together.probes.weight[layer], head.readout.weight, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(together.probes.bias[layer], head.readout.bias, rtol=1e-9, atol=1e-11)


def test_probe_holds_copies_and_keeps_dtype_and_mode() -> None:
    head = probes().eval()
    single = head.probe(1)
    assert single.readout.weight.dtype == torch.float64
    assert not single.training
    with torch.no_grad():
        single.readout.weight.zero_()
    assert head.probes.weight[1].abs().min() > 0


def test_chosen_probe_is_rebuilt_from_its_config() -> None:
    single = probes().float().probe(2)
    assert head_config(single) == {
        "name": "best",
        "options": {"layer": 2},
        "layers": LAYERS,
        "dim": DIM,
        "out": OUT,
    }
    again = build_head(**head_config(single))
    again.load_state_dict(single.state_dict())
    x = torch.randn(2, LAYERS, DIM)
    assert torch.equal(again(x), single(x))


def test_start_is_that_of_a_linear_layer() -> None:
    torch.manual_seed(0)
    head = build_head("best", layers=20, dim=100, out=50)
    reference = torch.nn.Linear(100, 50)
    assert head.probes.weight.abs().max() <= 0.1
    assert head.probes.weight.std().item() == pytest.approx(reference.weight.std().item(), rel=0.02)
    assert head.probes.bias.abs().max() <= 0.1


def test_gradcheck() -> None:
    assert torch.autograd.gradcheck(probes(), torch.randn(2, LAYERS, DIM, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize(("given", "layer"), [(0, 0), (3, 3), (-1, 3), (-4, 0)])
def test_a_layer_by_name(given: int, layer: int) -> None:
    head = build_head("layer", {"layer": given}, layers=LAYERS, dim=DIM, out=OUT)
    x = torch.randn(2, LAYERS, DIM)
    assert head.layers_read == (layer,)
    torch.testing.assert_close(head(x), head.readout(x[:, layer]))
    with pytest.raises(UserError, match=r"head 'layer'\n.*from 0 to 3, or from -4 to -1"):
        build_head("layer", {"layer": -5}, layers=LAYERS, dim=DIM, out=OUT)


def test_a_layer_beyond_the_cache_is_refused() -> None:
    with pytest.raises(UserError, match=r"head 'best'\n.*from 0 to 3.*\n.*found:    4\n"):
        build_head("best", {"layer": 4}, layers=LAYERS, dim=DIM, out=OUT)
    with pytest.raises(UserError, match="from 0 to 3"):
        probes().probe(7)
