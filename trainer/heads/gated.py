"""A mixture of per-layer classifiers with a gate that looks at the input (head `gated`).

    p(y | x) = Σ_ℓ g_ℓ(x) softmax(V_ℓ z_ℓ + c_ℓ),   g = softmax(G(x) / τ)

trained by the likelihood of the mixture (Jacobs et al. 1991). With `top_k` only the k largest gates count, renormalised
(Shazeer et al., arXiv 1701.06538). Load balance adds `balance` · L Σ_ℓ f_ℓ ḡ_ℓ, f_ℓ the share of the batch whose
largest gate is ℓ, ḡ_ℓ the mean gate (Switch Transformer, arXiv 2101.03961, eq. 4).
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ilse.core.params import Section
from trainer.heads.base import Head, HeadSpec, Outputs
from trainer.heads.dense import LayerLinear


class GatedOptions(Section):
    """Options of the head `gated`."""

    gate: Literal["constant", "first", "mean", "all"] = Field(
        "mean", description="what the gate sees: nothing, the first row, the mean of all rows, or all rows"
    )
    temperature: float = Field(1.0, gt=0, description="τ: lower makes gates sharper")
    top_k: int | None = Field(None, ge=1, description="gates that count for an input; unset: all")
    balance: float = Field(0.01, ge=0, description="weight of the load balance; 0 turns it off")


class Gated(Head):
    """The mixture; its outputs are log p(y | x), whose softmax is p itself."""

    spec: HeadSpec[GatedOptions]

    def __init__(self, spec: HeadSpec[GatedOptions]) -> None:
        super().__init__(spec)
        self.classifiers = LayerLinear(spec.layers, spec.dim, spec.out)
        width = {"constant": 0, "first": spec.dim, "mean": spec.dim, "all": spec.layers * spec.dim}[spec.options.gate]
        self.gate = nn.Linear(width, spec.layers) if width else None
        self.scores = nn.Parameter(torch.zeros(spec.layers)) if self.gate is None else None
        if self.gate is not None:
            nn.init.zeros_(self.gate.weight)  # all layers count the same at first
            nn.init.zeros_(self.gate.bias)

    def log_gates(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch layers"]:
        """The gates' logarithms; −∞ for a gate that does not count."""
        options = self.spec.options
        scores = self._scores(x) / options.temperature
        if options.top_k is not None and options.top_k < self.spec.layers:
            kept = scores.topk(options.top_k, dim=-1)
            scores = torch.full_like(scores, -torch.inf).scatter(-1, kept.indices, kept.values)
        return scores.log_softmax(-1)

    def forward(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch out"]:
        """The mixture's logarithm, log Σ_ℓ g_ℓ p_ℓ."""
        self.check(x)
        return self._mixed(x, self.log_gates(x))

    def supervised(self, x: Float[Tensor, "batch layers dim"]) -> Outputs:
        """The mixture, and the load balance."""
        self.check(x)
        log_gates = self.log_gates(x)
        balance = self.spec.options.balance
        return Outputs(self._mixed(x, log_gates), penalty=balance * load_balance(log_gates.exp()) if balance else None)

    def input_weights(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch layers"]:
        """g(x)."""
        self.check(x)
        return self.log_gates(x).exp().detach()

    def layer_weights(self) -> Float[Tensor, " layers"] | None:
        """The gates where they look at nothing."""
        return None if self.scores is None else (self.scores / self.spec.options.temperature).softmax(0).detach()

    def _scores(self, x: Float[Tensor, "batch layers dim"]) -> Float[Tensor, "batch layers"]:
        if self.gate is None:
            assert self.scores is not None
            return self.scores.expand(x.shape[0], -1)
        seen = {"first": lambda: x[:, 0], "mean": lambda: x.mean(1), "all": lambda: x.flatten(1)}
        scores: Tensor = self.gate(seen[self.spec.options.gate]())
        return scores

    def _mixed(self, x: Float[Tensor, "batch layers dim"], log_gates: Tensor) -> Float[Tensor, "batch out"]:
        return torch.logsumexp(self.classifiers(x).log_softmax(-1) + log_gates[..., None], dim=1)


def load_balance(gates: Float[Tensor, "batch layers"]) -> Float[Tensor, ""]:
    """L Σ_ℓ f_ℓ ḡ_ℓ: 1 where inputs are spread evenly, L where all go to one layer. f carries no gradient."""
    layers = gates.shape[1]
    routed = functional.one_hot(gates.argmax(1), layers).to(gates).mean(0)
    return layers * (routed * gates.mean(0)).sum()


def build_gated(spec: HeadSpec[GatedOptions]) -> Gated:
    """A classifier a layer and a gate."""
    return Gated(spec)
