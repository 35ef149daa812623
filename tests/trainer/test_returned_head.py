"""The head that a fit returns is a plain module: moved, copied, pickled, compiled and exported as any other."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest
import torch
from torch import Tensor

import trainer.fitting.running
from ilse.core.machine.linear import OneDnnLinear, available
from tests.trainer.conftest import DIM, LAYERS, write_task
from trainer import fit
from trainer.artifacts.artifact import TrainedHead
from trainer.heads import HEADS

ROOT = Path(__file__).parent.parent.parent
ELSEWHERE = """
import pickle, sys, torch
for place in sys.stdin.read().split():
    with open(place + ".pickle", "rb") as file, torch.inference_mode():
        trained, x = pickle.load(file), torch.load(place + ".rows")
        found = [trained(x)]
        if place.endswith(("mlp", "cayley", "exits")):
            found += [torch.compile(trained, backend="eager")(x), torch.export.export(trained, (x,)).module()(x)]
        torch.save(found, place + ".answers")
"""
"""A user's own program: unpickling alone imports this package, without the tests' looking at types."""


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, TrainedHead]]:
    """Every head, trained by oneDNN where it is there, whether it is the faster way on this machine or not."""
    folder = tmp_path_factory.mktemp("task")
    write_task(folder)
    recipe = {"epochs": 2, "batch_size": 16, "compute_type": "float32", "folds": None}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.fitting.running, "pays", available)
        yield {name: fit(folder, name, recipe=recipe, device="cpu") for name in HEADS}


def rows(trained: TrainedHead) -> Tensor:
    drawn = torch.randn(9, len(LAYERS), DIM, generator=torch.Generator().manual_seed(0))
    return drawn[:, list(trained.head.layers_read)]


def answers(trained: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.inference_mode():
        return trained(x)


@pytest.mark.parametrize("name", HEADS)
def test_nothing_of_the_training_is_left_in_it(heads: dict[str, TrainedHead], name: str) -> None:
    assert not any(isinstance(module, OneDnnLinear) for module in heads[name].modules())
    for parameter in heads[name].parameters():
        assert parameter.grad is None
        assert parameter.untyped_storage().nbytes() == parameter.numel() * parameter.element_size()


@pytest.mark.parametrize("name", HEADS)
def test_it_can_be_copied_and_moved(heads: dict[str, TrainedHead], name: str) -> None:
    trained, x = heads[name], rows(heads[name])
    expected = answers(trained, x)
    for one in (copy.deepcopy(trained), pickle.loads(pickle.dumps(trained))):
        torch.testing.assert_close(answers(one, x), expected, rtol=0, atol=0)
    wide = answers(copy.deepcopy(trained).double(), x.double())
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide, expected.double(), rtol=1e-4, atol=1e-4)
    assert {value.device.type for value in copy.deepcopy(trained).to("meta").state_dict().values()} == {"meta"}
    saved = BytesIO()
    torch.save(trained.state_dict(), saved)
    saved.seek(0)
    again = copy.deepcopy(trained)
    for parameter in again.parameters():
        parameter.data.zero_()
    again.load_state_dict(torch.load(saved, weights_only=True))
    torch.testing.assert_close(answers(again, x), expected, rtol=0, atol=0)


def test_it_can_be_unpickled_compiled_and_exported_elsewhere(heads: dict[str, TrainedHead], tmp_path: Path) -> None:
    for name, trained in heads.items():
        (tmp_path / f"{name}.pickle").write_bytes(pickle.dumps(trained))
        torch.save(rows(trained), tmp_path / f"{name}.rows")
    names = "\n".join(str(tmp_path / name) for name in heads)
    subprocess.run([sys.executable, "-c", ELSEWHERE], input=names, text=True, check=True, cwd=ROOT)
    for name, trained in heads.items():
        for found in torch.load(tmp_path / f"{name}.answers"):
            torch.testing.assert_close(found, answers(trained, rows(trained)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_it_answers_in_any_number_of_threads(heads: dict[str, TrainedHead], name: str) -> None:
    trained = heads[name]
    batches = [torch.randn_like(rows(trained)) * (1 + number) for number in range(8)]

    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        return answers(trained, x), answers(trained.embed, x)

    expected = [both(x) for x in batches]
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(both, batches * 20))
    for pair, other in zip(found, expected * 20, strict=True):
        assert all(torch.equal(one, same) for one, same in zip(pair, other, strict=True))
