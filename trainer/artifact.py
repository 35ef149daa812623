"""A trained head on disk: a folder with `head.safetensors` and `config.json`.

Enough to predict from a cache's rows; and with the section `capture`, which says what those rows are, enough to know
how a new text becomes one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ilse.errors import UserError
from ilse.files import write_json
from ilse.params import validate
from ilse.reading import own_file, read_json
from pipeline.store import Basis, CaptureSpec
from trainer.apart import seeded
from trainer.heads import EncoderHead, Head, PairHead, TokenHead, build_head, head_config
from trainer.objectives import restore
from trainer.poolings import TOKENS, pooling_names
from trainer.ragged import Tokens
from trainer.token_basis import basis_in, basis_shapes, basis_tensors
from trainer.treatment import Treatment, TreatmentOptions

FORMAT_VERSION, TOKENS_VERSION, BASIS_VERSION = 4, 5, 6
"""Of a head that reads pooled rows, of one that reads tokens, and of one that carries the basis that these are in."""
WEIGHTS, CONFIG = "head.safetensors", "config.json"
SECTIONS = ("format_version", "head", "treatment", "capture", "facts")
_TYPES = {torch.float32: "F32", torch.int64: "I64", torch.bool: "BOOL"}
"""How safetensors calls the types of a head's tensors."""


Whole = Annotated[int, Field(ge=0, lt=2**63)]


@dataclass(frozen=True)
class HeadFacts:
    """What a head was trained on and how well it did, beside its weights."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)  # for loading

    objective: dict[str, str | int | float]
    """What it was trained for, as `objectives.restore` takes it."""
    labels: list[str]
    capture: CaptureSpec
    """What its rows are; from the cache."""
    pooling: str | tuple[str, ...]
    """Which of the capture's poolings it reads; several stand side by side in a layer's row. `TOKENS` for tokens."""
    model_name: str
    """Id on the Hub, or the name of the model's file or folder."""
    model_parameters: Whole
    recipe: dict[str, Any]
    seed: Whole
    best_epoch: Whole
    val_score: float
    val_loss: float
    train_seconds: float
    layer_scores: list[float] | None = None
    """For `best`: validation figure of every single layer."""
    penalty: float | None = None
    """Of a head that was solved: the penalty that was chosen."""

    @property
    def fingerprint(self) -> str:
        """Of the capture."""
        return self.capture.fingerprint

    @property
    def poolings(self) -> tuple[str, ...]:
        """One or several, in their order in a row."""
        return pooling_names(self.pooling)

    @property
    def reads_tokens(self) -> bool:
        """And no pooled rows."""
        return self.pooling == TOKENS

    @property
    def width(self) -> int:
        """Values of a layer in the rows, or in the states of tokens, that it reads."""
        if self.reads_tokens:
            return self.capture.token_width
        return len(self.poolings) * self.capture.dim

    @property
    def layer_names(self) -> list[str]:
        """Of the rows that the capture holds."""
        return list(self.capture.layers)


_FACTS = TypeAdapter(HeadFacts)


class TrainedHead(nn.Module):
    """Input treatment and head together: raw rows in, logits out.

    Attributes
    ----------
    inner
        What answers from one row a text: the head, or what stands behind the reader of a head that reads tokens.
    basis
        That of the tokens that it reads, of all token layers of its capture; None where they are whole.
    """

    def __init__(self, treatment: Treatment, head: Head, facts: HeadFacts, basis: Basis | None = None) -> None:
        super().__init__()
        self.treatment = treatment
        self.head = head
        self.facts = facts
        self.basis = basis
        self.objective = restore(facts.objective, tuple(facts.labels))

    def forward(self, x: Float[Tensor, "texts layers dim"] | Tokens) -> Float[Tensor, "answers out"]:
        """Outputs for rows of the layers that the head reads, as the cache holds them; `objective` reads them.

        Of a head that reads tokens, for the texts' `Tokens`.
        """
        return self.answers(self.rows(x))

    @property
    def inner(self) -> Head:
        """See above."""
        return self.head.inner if isinstance(self.head, TokenHead) else self.head

    def rows(self, x: Float[Tensor, "texts layers dim"] | Tokens) -> Float[Tensor, "texts layers treated"]:
        """What `inner` is asked about: treated rows, or those that the reader makes of each text's treated tokens."""
        treated = self.treated(x)
        rows: Tensor = self.head.pooled(treated) if isinstance(self.head, TokenHead) else treated
        return rows

    def answers(self, rows: Float[Tensor, "texts layers treated"]) -> Float[Tensor, "answers out"]:
        """`forward`, from what `rows` gives."""
        logits: Tensor = self.inner(rows)
        return logits

    def treated(self, x: Float[Tensor, "texts layers dim"] | Tokens) -> Any:
        """Rows, or tokens, as the head sees them."""
        return x.map(self.treatment) if isinstance(x, Tokens) else self.treatment(x)

    def embed(self, x: Float[Tensor, "texts layers dim"] | Tokens) -> Float[Tensor, "texts width"]:
        """The vector of each text, from rows as for `forward`.

        Of a head that compares two texts it is what is compared; of any other, what its readout reads. Heads with a
        classifier a layer have no such vector: there it is the treated row of the last layer that they read.
        """
        return self.vectors(self.rows(x))

    def vectors(self, rows: Float[Tensor, "texts layers treated"]) -> Float[Tensor, "texts width"]:
        """`embed`, from what `rows` gives."""
        head = self.inner
        if isinstance(head, PairHead):
            vectors: Tensor = head.vectors(rows)
        elif self.objective.embeds:
            vectors = head(rows)
        elif isinstance(head, EncoderHead):
            vectors = head.encode(rows)
        else:
            vectors = rows[:, -1]
        return vectors

    @property
    def parameters_trained(self) -> int:
        """Trained values of the head; the statistics of the treatment are not trained."""
        return sum(p.numel() for p in self.head.parameters())


def require_basis(trained: TrainedHead, doing: str) -> None:
    """Raises `UserError` for a head of an earlier release whose tokens are in a basis: only its cache has that."""
    tokens = trained.facts.capture.tokens
    if trained.facts.reads_tokens and trained.basis is None and tokens is not None and tokens.rank is not None:
        raise UserError(
            f"{doing} with head '{trained.head.spec.name}'",
            expected=f"a head that carries the basis of the tokens that it reads, format version {BASIS_VERSION}",
            found=f"format version {TOKENS_VERSION}, of an earlier release: the basis of rank {tokens.rank} is in the "
            "cache alone",
            next_step="train the head again on that cache, with 'ilse train'",
        )


def save_head(folder: Path, trained: TrainedHead) -> None:
    """Writes the artifact into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous().cpu() for name, value in trained.state_dict().items()}
    save_file(state | basis_tensors(trained.basis), folder / WEIGHTS)
    treatment = {"options": trained.treatment.options.model_dump(), "dim": trained.treatment.standardise.mean.shape[1]}
    facts = asdict(trained.facts)
    capture = {"fingerprint": trained.facts.fingerprint, **facts.pop("capture")}
    described = {"head": head_config(trained.head), "treatment": treatment, "capture": capture, "facts": facts}
    version = TOKENS_VERSION if trained.facts.reads_tokens else FORMAT_VERSION
    version = version if trained.basis is None else BASIS_VERSION
    write_json(folder / CONFIG, {"format_version": version, **described})


def load_head(folder: Path) -> TrainedHead:
    """The head in `folder`, in evaluation mode. Nothing is unpickled, and no name in it is looked up but the head's.

    Raises `UserError` for a missing or damaged file, a link that leads out of the folder, another format version,
    values that are not finite, and where the two files or the facts and the head's shape disagree; before anything of
    a claimed size is made.
    """
    try:
        config = read_json(own_file(folder, CONFIG))
        version = config.get("format_version") if isinstance(config, dict) else None
        if version not in (FORMAT_VERSION, TOKENS_VERSION, BASIS_VERSION):
            expected = f"head format version {FORMAT_VERSION}, {TOKENS_VERSION} or {BASIS_VERSION}"
            raise _refused(folder, expected, f"version {str(version)[:40]}")
        if unknown := config.keys() - SECTIONS:
            raise _refused(folder, f"the sections {', '.join(SECTIONS)}", f"{', '.join(sorted(unknown))[:80]} too")
        facts = _facts(folder, config["facts"], dict(config["capture"]))
        _check_facts(folder, config, facts)
        with torch.device("meta"):
            outlined = _built(config, facts)
        weights = own_file(folder, WEIGHTS)
        basis = basis_shapes(facts.capture) if version == BASIS_VERSION else {}
        _check_weights(folder, outlined, basis, weights)
        with seeded(0):  # weights that are drawn, and then replaced
            trained = _built(config, facts)
        read = load_file(weights)
        trained.load_state_dict({name: value for name, value in read.items() if name not in basis})
        trained.basis = basis_in(read, facts.capture) if basis else None
        _check_finite(folder, trained)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _refused(folder, f"{CONFIG} and {WEIGHTS}", f"no {_missing(folder)}") from error
    except UserError as error:  # of building a head, which knows no folder
        raise _refused(folder, error.expected, error.found) from error
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"])) or "facts"
        raise _refused(folder, "facts as 'ilse train' wrote them", f"{place}: {error.errors()[0]['msg']}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RuntimeError, SafetensorError) as error:
        raise _refused(folder, "a head as 'ilse train' wrote it", " ".join(str(error).split())[:200]) from error
    return trained.eval()


def _treatment(config: dict[str, Any], head: Head) -> Treatment:
    options = validate("treatment", TreatmentOptions, config["options"], where="head")
    treatment = Treatment(options, len(head.layers_read), config["dim"])
    if treatment.width != head.spec.dim:
        raise ValueError(f"a treatment that gives {treatment.width} values, a head that reads {head.spec.dim}")
    return treatment


def _facts(folder: Path, facts: dict[str, Any], capture: dict[str, Any]) -> HeadFacts:
    written = capture.pop("fingerprint")
    read = _FACTS.validate_json(json.dumps({**facts, "capture": capture}))
    if read.fingerprint != written:
        raise _refused(folder, f"the capture with fingerprint {str(written)[:16]}", f"one with {read.fingerprint[:16]}")
    if read.reads_tokens:
        if read.capture.tokens is None:
            raise _refused(folder, "a capture with token states, which the head reads", "pooled rows alone")
        return read
    asked, there = read.poolings, read.capture.poolings
    if not asked or len({*asked}) < len(asked) or not {*asked} <= {*there}:
        expected = f"one of the capture's poolings, {', '.join(there)}, or several, each once"
        raise _refused(folder, expected, ", ".join(asked)[:200] or "none")
    return read


def _built(config: dict[str, Any], facts: HeadFacts) -> TrainedHead:
    head = build_head(**config["head"])
    return TrainedHead(_treatment(config["treatment"], head), head, facts)


def _check_facts(folder: Path, config: dict[str, Any], facts: HeadFacts) -> None:
    """Whether the facts are of the head that its sections describe; before it is built, as sizes may be anything."""
    head, width = config["head"], config["treatment"]["dim"]
    if width != facts.width:
        of = "states of tokens" if facts.reads_tokens else f"rows of pooling {' and '.join(facts.poolings)}"
        expected = f"{facts.width} values a layer, as the capture's {of} have"
        raise _refused(folder, expected, f"a treatment of {str(width)[:40]}")
    version = config["format_version"]
    if facts.reads_tokens != (head.get("tokens") is not None) or facts.reads_tokens != (version > FORMAT_VERSION):
        raise _refused(
            folder, "a head that reads what its facts say", "tokens in one of them, pooled rows in the other"
        )
    if version == BASIS_VERSION and (facts.capture.tokens is None or facts.capture.tokens.basis is None):
        raise _refused(folder, f"a capture that names a basis, in format version {BASIS_VERSION}", "none")
    if facts.capture.tokens is not None and facts.reads_tokens:
        kept = {facts.layer_names.index(name) for name in facts.capture.tokens.layers}
        if not {*head["tokens"]["layers"]} <= kept:
            expected = f"layers whose token states its capture keeps: {sorted(kept)}"[:300]
            raise _refused(folder, expected, str(head["tokens"]["layers"])[:200])
    sizes = {name: head[name] for name in ("layers", "dim", "out")}
    if any(type(size) is not int for size in sizes.values()):
        raise _refused(folder, "a head as 'ilse train' wrote it", f"sizes that are no whole numbers: {sizes}"[:200])
    found = (len(facts.layer_names), restore(facts.objective, tuple(facts.labels)).out)
    if found != (head["layers"], head["out"]):
        expected = f"names of {head['layers']} layers and an objective with {head['out']} outputs, as it is built"
        raise _refused(folder, expected, "{} and {}".format(*found))


def _check_weights(folder: Path, outlined: TrainedHead, basis: dict[str, tuple[int, ...]], file: Path) -> None:
    """Whether the file's header names the tensors of this head and its basis, with their shapes and types."""
    with safe_open(file, "pt") as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        found = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    wanted = {name: (tuple(value.shape), _TYPES[value.dtype]) for name, value in outlined.state_dict().items()}
    wanted |= {name: (shape, _TYPES[torch.float32]) for name, shape in basis.items()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        expected = f"{len(wanted)} tensors, among them {name} {wanted[name]}" if name in wanted else f"no tensor {name}"
        there = f"{len(found)}, with {name} {found[name]}" if name in found else f"none of the name {name}"
        raise _refused(folder, f"a head as 'ilse train' wrote it: {expected}"[:300], there[:200])


def _check_finite(folder: Path, trained: TrainedHead) -> None:
    for name, value in trained.state_dict().items():
        if not value.isfinite().all():
            raise _refused(folder, "finite weights", f"NaN or infinity in {name}")


def _missing(folder: Path) -> str:
    return " and no ".join(name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file())


def _refused(folder: Path, expected: str, found: str) -> UserError:
    return UserError(
        f"head {folder}", expected=expected, found=found, next_step="run 'ilse train' again, or pull the head again"
    )
