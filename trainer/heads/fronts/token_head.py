"""A reader of tokens in front of a head: it learns how a text's tokens become its row, instead of their average.

    h_tℓ = ReLU(W_ℓ z_tℓ + b_ℓ)                      every token t, every layer ℓ by itself
    p_ℓ  = [max_t h_tℓ, mean_t h_tℓ]                 over the text's own tokens
    answer = head(p)

`pool` says which: the maximum, the mean, both side by side, or attention by several learned queries,
Σ_t softmax_t(h_tℓ · q_ℓk / √rank) h_tℓ, side by side. All of it is by layer, so that independent candidates (`best`)
stay independent. What follows is any head, built for rows of the reader's width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from ilse.core.errors import UserError
from trainer.heads.base import Head, HeadSpec
from trainer.heads.dense import Dropout, LayerLinear
from trainer.heads.fixed import layer_index
from trainer.heads.fronts.fronted import FrontedHead
from trainer.heads.fronts.token_options import TokenOptions
from trainer.rows.ragged import Tokens

Build = Callable[[HeadSpec[Any]], Head]
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "none": lambda x: x,
}


class TokenReader(nn.Module):
    """Maps each layer's token states and pools over tokens; every parameter has the layers as its first axis."""

    def __init__(self, layers: int, dim: int, options: TokenOptions) -> None:
        super().__init__()
        self.options = options
        self.map = LayerLinear(layers, dim, options.rank)
        self.dropout = Dropout(options.dropout)
        attends = options.pool == "attention"
        self.queries = nn.Parameter(torch.randn(layers, options.queries, options.rank)) if attends else None

    def forward(self, tokens: Tokens) -> Float[Tensor, "texts layers width"]:
        """The row of every text."""
        mapped = self.dropout(_ACTIVATIONS[self.options.activation](self.map(tokens.values).float()))
        if self.queries is not None:
            return self._attended(mapped, tokens)
        parts = []
        if "max" in self.options.pool:
            parts.append(tokens.largest(mapped))
        if "mean" in self.options.pool:
            parts.append(tokens.summed(mapped) / tokens.lengths[:, None, None])
        return torch.cat(parts, dim=-1)

    def attention(self, tokens: Tokens) -> Float[Tensor, "tokens layers queries"]:
        """The weight that each query gives each token; those of a text sum to 1."""
        mapped = _ACTIVATIONS[self.options.activation](self.map(tokens.values).float())
        return self._weights(mapped, tokens)

    def _weights(self, mapped: Tensor, tokens: Tokens) -> Tensor:
        assert self.queries is not None
        # A sum and no product of matrices: its order does not depend on how many tokens there are.
        scores = (mapped[:, :, None] * self.queries).sum(-1) * self.options.rank**-0.5
        largest = tokens.spread(tokens.largest(scores.detach()))
        weights: Tensor = (scores - largest).exp()
        return weights / tokens.spread(tokens.summed(weights))

    def _attended(self, mapped: Tensor, tokens: Tokens) -> Tensor:
        weights = self._weights(mapped, tokens)
        return tokens.summed(weights[..., None] * mapped[:, :, None]).flatten(2)


class TokenHead(FrontedHead):
    """A reader, and the head `inner` that gets its rows. Where other heads take rows, it takes `Tokens`.

    Its spec's layers are the cache's, `layers_read` those whose tokens it reads. A head that names its layers names
    the cache's; one that takes all layers takes those that are read.

    Parameters
    ----------
    spec
        With `tokens`, whose `layers` are those that may be read.
    build
        From a spec to the head inside.
    """

    def __init__(self, spec: HeadSpec[Any], build: Build) -> None:
        options = _resolved(spec)
        kept = tuple(options.layers or ())
        within = replace(spec, dim=options.width, tokens=None)
        with torch.device("meta"):
            named = build(within).layers_read
        if named == tuple(range(spec.layers)):
            within, named = replace(within, layers=len(kept)), kept
        elif missing := [layer for layer in named if layer not in kept]:
            raise UserError(
                f"head '{spec.name}', which reads tokens",
                expected=f"layers whose token states are read: {', '.join(map(str, kept))}",
                found=f"layer {', '.join(map(str, missing))}",
                next_step="name one of these in the head's options, or keep that layer in extract.token_states",
            )
        super().__init__(replace(spec, tokens=options), named)
        self._build = build
        self.reader = TokenReader(len(named), spec.dim, options)
        self.inner = build(within)
        self.candidates, self.calibrated = self.inner.candidates, self.inner.calibrated

    def pooled(self, x: Any) -> Float[Tensor, "texts layers width"]:
        """The rows that the head inside gets."""
        rows: Tensor = self.reader(self._checked(x))
        return rows

    def settle(self, ranked: Sequence[int]) -> Head:
        """The inner head's choice; of `best` the one layer with its own part of the reader."""
        kept = self.inner.settle(ranked)
        if kept is self.inner:
            return self
        place = ranked[0]
        options = kept.spec.options.model_copy(update={"layer": self.layers_read[place]})
        head = TokenHead(replace(self.spec, options=options), self._build).to(next(self.parameters()))
        head.reader.load_state_dict({n: value[place : place + 1] for n, value in self.reader.state_dict().items()})
        head.inner.load_state_dict(kept.state_dict())
        return head.train(self.training)

    def _checked(self, x: Any) -> Tokens:
        """Token states of the layers that are read, with their shape checked."""
        if not isinstance(x, Tokens):
            raise UserError(
                f"head '{self.spec.name}'",
                expected="the states of tokens, which it was trained on",
                found="pooled rows",
                next_step="use a cache with token states, or train a head on pooled rows",
            )
        self.check(x.values)
        if x.values.shape[1] == len(self.layers_read):
            return x
        return x.of_layers(list(self.layers_read))


def _resolved(spec: HeadSpec[Any]) -> TokenOptions:
    """The options with their layers in ascending order, counted from 0."""
    assert spec.tokens is not None
    given = range(spec.layers) if spec.tokens.layers is None else spec.tokens.layers
    layers = sorted({layer_index(spec.name, layer, spec.layers) for layer in given})
    if len(layers) < len(given):
        raise UserError(
            f"head '{spec.name}', tokens.layers",
            expected="layers of the cache, each once",
            found=str(list(given)),
            next_step="name each layer once, or leave it unset for all whose token states are kept",
        )
    return spec.tokens.model_copy(update={"layers": layers})
