"""Keeps the state of a head that was best on validation."""

from __future__ import annotations

import torch
from torch import Tensor


class BestStates:
    """The best state of each candidate so far: highest score, then lowest loss.

    A head is one candidate. `LayerProbes` are one per layer, each with its own best epoch, as if trained alone; their
    parameters stand along the first axis.
    """

    def __init__(self, candidates: int) -> None:
        self.score = torch.full((candidates,), -float("inf"), dtype=torch.float64)
        self.loss = torch.full((candidates,), float("inf"), dtype=torch.float64)
        self.epoch = torch.zeros(candidates, dtype=torch.long)
        self.state: dict[str, Tensor] = {}

    def offer(self, epoch: int, score: Tensor, loss: Tensor, state: dict[str, Tensor]) -> None:
        """Keeps the state of the candidates that are better than before."""
        better = (score > self.score) | ((score == self.score) & (loss < self.loss))
        self.score[better], self.loss[better], self.epoch[better] = score[better], loss[better], epoch
        for name, value in state.items():
            if len(better) == 1:
                if bool(better):
                    self.state[name] = value.detach().clone()
            else:
                self.state.setdefault(name, value.detach().clone())[better] = value.detach()[better]

    def state_dict(self) -> dict[str, Tensor]:
        """The whole state as tensors."""
        found = {"score": self.score, "loss": self.loss, "epoch": self.epoch}
        return found | {f"state.{name}": value for name, value in self.state.items()}

    def load(self, saved: dict[str, Tensor]) -> None:
        """Takes back what `state_dict` gave."""
        self.score, self.loss, self.epoch = saved["score"], saved["loss"], saved["epoch"]
        own = {name for name in saved if name.startswith("state.")}
        self.state = {name.removeprefix("state."): saved[name] for name in own}
