"""The heads, by name: what may be trained over a cache's layers.

    head = build_head("cayley", {"blocks": 1}, layers=31, dim=576, out=5)
    head(x)                              # x [batch, 31, 576] -> [batch, 5]
    same = build_head(**head_config(head))
    same.load_state_dict(head.state_dict())

`base` says what a head is. The families: `single` rows; `fixed` and `learned` fusions and `attention` over layers, each
with what `readout` puts on top; `blend`, linear in all layers; `deepset` and `graph` encoders; `exits` and `gated`,
which have a classifier for every layer. `pairs` joins what a head makes of two texts. `token_head` puts a reader of
tokens in front of any of them, `joined_head` a map for each of several models; `fronted` is what both are.
`dense` is the unit they share. Linear layers start from PyTorch's defaults, so `torch.manual_seed` fixes a head.

Every head gives `[batch, out]`, except `best` before its layer is chosen: that is `LayerProbes`, whose forward gives
the candidates `[batch, layers, out]`. Train it on the sum of the layers' losses, choose k on validation and keep
`head.probe(k)`, which `head_config` describes as `best` with the option `layer: k`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ilse.core.errors import UserError, did_you_mean
from ilse.core.params import Section, validate
from trainer.heads.attention import AttentionOptions, DWAttOptions, build_attention, build_dwatt
from trainer.heads.base import Encoder, EncoderHead, Head, HeadSpec, Outputs
from trainer.heads.blend import LinearOptions, build_linear
from trainer.heads.deepset import SetOptions, build_set
from trainer.heads.exits import Exits, ExitsOptions, build_exits
from trainer.heads.fixed import ConcatOptions, build_concat, build_max, build_mean
from trainer.heads.fronts.fronted import FrontedHead
from trainer.heads.fronts.joined_head import JoinedHead
from trainer.heads.fronts.joined_options import JoinedOptions, ModelRows
from trainer.heads.fronts.token_head import TokenHead
from trainer.heads.fronts.token_options import TokenOptions
from trainer.heads.gated import Gated, GatedOptions, build_gated
from trainer.heads.graphs.encoder import CayleyOptions, GraphOptions, build_cayley, build_fc
from trainer.heads.learned import BottleneckOptions, WeightedOptions, build_bottleneck, build_weighted
from trainer.heads.mlp import MLPOptions, build_mlp
from trainer.heads.pairs import PairHead
from trainer.heads.readout import ReadoutOptions
from trainer.heads.single import (
    BestOptions,
    LastOptions,
    LayerOptions,
    LayerProbes,
    SingleLayer,
    build_best,
    build_last,
    build_layer,
)

__all__ = [
    "HEADS",
    "Encoder",
    "EncoderHead",
    "Exits",
    "FrontedHead",
    "Gated",
    "Head",
    "HeadKind",
    "HeadSpec",
    "JoinedHead",
    "JoinedOptions",
    "LayerProbes",
    "ModelRows",
    "Outputs",
    "PairHead",
    "SingleLayer",
    "TokenHead",
    "TokenOptions",
    "build_head",
    "head_config",
    "head_kind",
    "refuse_tokens",
]


@dataclass(frozen=True)
class HeadKind:
    """One entry of the registry.

    Parameters
    ----------
    name
        What the parameters call it.
    options
        Its options' structure.
    build
        From a spec with those options to an untrained head.
    summary
        One line for the user.
    classifies
        It gives probabilities of labels, so that it can be trained for nothing else.
    side_by_side
        It reads the rows of several models as they are; any other head reads them behind a map for each model.
    """

    name: str
    options: type[Section]
    build: Callable[[HeadSpec[Any]], Head]
    summary: str
    classifies: bool = False
    side_by_side: bool = False


HEADS: dict[str, HeadKind] = {
    kind.name: kind
    for kind in (
        HeadKind("last", LastOptions, build_last, "linear head on the last layer", side_by_side=True),
        HeadKind("layer", LayerOptions, build_layer, "linear head on a layer that is named", side_by_side=True),
        HeadKind(
            "best", BestOptions, build_best, "linear head on the layer that does best on validation", side_by_side=True
        ),
        HeadKind("mean", ReadoutOptions, build_mean, "mean of all layers", side_by_side=True),
        HeadKind("max", ReadoutOptions, build_max, "maximum of all layers, by coordinate", side_by_side=True),
        HeadKind("concat", ConcatOptions, build_concat, "chosen layers side by side", side_by_side=True),
        HeadKind(
            "linear", LinearOptions, build_linear, "linear head on all layers, for what they share", side_by_side=True
        ),
        HeadKind("weighted", WeightedOptions, build_weighted, "learned weighted sum of all layers"),
        HeadKind("bottleneck", BottleneckOptions, build_bottleneck, "low-rank projection of every layer"),
        HeadKind("attention", AttentionOptions, build_attention, "attention over layers, by input"),
        HeadKind("dwatt", DWAttOptions, build_dwatt, "depth-wise attention: the last layer asks all"),
        HeadKind("mlp", MLPOptions, build_mlp, "MLP on the last layer, the mean or the weighted sum"),
        HeadKind("set", SetOptions, build_set, "Set-Encoder: layers as a set, without order"),
        HeadKind("fc", GraphOptions, build_fc, "graph encoder, layers on the complete graph"),
        HeadKind("cayley", CayleyOptions, build_cayley, "graph encoder, layers on a Cayley graph of SL(2, Z_n)"),
        HeadKind(
            "exits", ExitsOptions, build_exits, "a classifier after every layer, left as soon as one is sure", True
        ),
        HeadKind("gated", GatedOptions, build_gated, "classifiers of all layers, mixed by a gate on the input", True),
    )
}


def head_kind(name: str) -> HeadKind:
    """The registry's entry; `UserError` for an unknown name, naming the nearest."""
    if name not in HEADS:
        raise UserError(
            f"head '{name}'",
            expected=f"one of {', '.join(HEADS)}",
            found=f"unknown head '{name}'",
            next_step=did_you_mean(name, HEADS, "choose one of the heads above"),
        )
    return HEADS[name]


def build_head(
    name: str,
    options: dict[str, Any] | Section | None = None,
    *,
    layers: int,
    dim: int,
    out: int,
    pair_width: int | None = None,
    tokens: dict[str, Any] | TokenOptions | None = None,
    joined: dict[str, Any] | JoinedOptions | None = None,
) -> Head:
    """An untrained head.

    Parameters
    ----------
    name
        One of `HEADS`.
    options
        Its options, or some of them; None for the defaults.
    layers, dim
        The cache's rows per example and their width.
    out
        Outputs: classes, 1 for a score, or the width of a vector; 0 for the encoder's own vector.
    pair_width
        For answers about two texts: the width of the vectors that are compared, 0 for the encoder's own.
    tokens
        How the states of tokens become the head's rows, of width `dim` before; None for pooled rows.
    joined
        Whose rows they are, for those of several models; `layers` are then those of all, `dim` the widest model's.

    Raises
    ------
    UserError
        For an unknown name or option (naming the nearest), a value out of range, more layers than a graph holds, or a
        head that has no vectors; of tokens, for a head that names a layer which is not read; of several models, for
        tokens, for sizes that are not theirs, and as `JoinedHead` does.
    """
    kind = head_kind(name)
    checked = validate(name, kind.options, {} if options is None else options, where="head options")
    reads = None if tokens is None else validate("tokens", TokenOptions, tokens, where="head options")
    several = None if joined is None else validate("joined", JoinedOptions, joined, where="head options")
    spec: HeadSpec[Any] = HeadSpec(name, checked, layers, dim, out, pair_width, reads, several)
    if several is not None:
        _require_joint(spec, several)
        return _of_rows(spec) if kind.side_by_side else JoinedHead(spec, _of_rows)
    return _of_rows(spec) if reads is None else TokenHead(spec, _of_rows)


def refuse_tokens(name: str, caches: int) -> UserError:
    """The error for a head that is to read the tokens of several caches."""
    return UserError(
        f"head '{name}', tokens",
        expected="one cache, whose tokens it reads",
        found=f"{caches} caches, whose models cut texts into tokens of their own",
        next_step="name one cache, or remove 'tokens' from the head's options: it then reads pooled rows of all",
    )


def _require_joint(spec: HeadSpec[Any], joined: JoinedOptions) -> None:
    if spec.tokens is not None:
        raise refuse_tokens(spec.name, len(joined.models))
    if (spec.layers, spec.dim) != (joined.layers, joined.dim):
        raise UserError(
            f"head '{spec.name}' over {len(joined.models)} models",
            expected=f"{joined.layers} layers of {joined.dim} values, as theirs are together",
            found=f"{spec.layers} layers of {spec.dim} values",
            next_step="give the layers of all models, and the width of the widest",
        )


def _of_rows(spec: HeadSpec[Any]) -> Head:
    """The head that reads one row per layer, for one text or two."""
    kind, pair_width = head_kind(spec.name), spec.pair_width
    if pair_width is None:
        return _checked(kind.build(spec))
    vectors = _checked(kind.build(replace(spec, out=pair_width, pair_width=None)))
    width = pair_width or (vectors.encoder.width if isinstance(vectors, EncoderHead) else 0)
    return PairHead(spec, vectors, width)


def _checked(head: Head) -> Head:
    """The head, unless its own vectors are asked for and it has none, or none to train."""
    if head.spec.out == 0 and not (isinstance(head, EncoderHead) and any(True for _ in head.parameters())):
        raise UserError(
            f"head '{head.spec.name}', whose own vectors are compared",
            expected="an encoder with something to train",
            found="none: it is a linear map of rows of the cache",
            next_step="set train.embedding to a width, such as 256, or remove it from train.heads",
        )
    return head


def head_config(head: Head) -> dict[str, Any]:
    """The arguments of `build_head` that give this head again, as JSON can hold them; weights apart."""
    spec = head.spec
    return {
        "name": spec.name,
        "options": spec.options.model_dump(mode="json"),
        "layers": spec.layers,
        "dim": spec.dim,
        "out": spec.out,
        **({} if spec.pair_width is None else {"pair_width": spec.pair_width}),
        **({} if spec.tokens is None else {"tokens": spec.tokens.model_dump(mode="json")}),
        **({} if spec.joined is None else {"joined": spec.joined.model_dump(mode="json")}),
    }
