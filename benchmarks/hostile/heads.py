"""Trained heads, opened by `ilse predict`, and as part of an exported folder by its loader."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.hostile.judge import Case
from benchmarks.hostile.opening import Opener, call, ilse
from benchmarks.hostile.project import EXPORTED, HEAD
from benchmarks.hostile.spoiling import CODE, HUGE, TOO_LONG_NUMBER, Craft, broken_json, edited, replaced, written
from benchmarks.hostile.weights import broken_weights
from pipeline.store import CaptureSpec

CONFIG, WEIGHTS = f"{HEAD}/config.json", f"{HEAD}/head.safetensors"
MODULE = f"{EXPORTED}/0_HeadModule"
REFERENCE = f"{MODULE}/model.json"
COMMIT = "0" * 40
PREDICT = ilse("predict", HEAD, "--input", "new.txt", "--model", "model")
PREDICT_WITHOUT_MODEL = ilse("predict", HEAD, "--input", "new.txt", "--params", "none.yaml")


def load_exported() -> None:
    """As the exported folder's README says."""
    from ilse.predict.sentence_transformer import load

    load(EXPORTED)


def cases() -> Iterator[Case]:
    """All of them."""
    for name, craft in broken_json(CONFIG).items():
        yield Case("head's config.json", name, craft, PREDICT)
    for name, craft in broken_weights(WEIGHTS).items():
        yield Case("head's weights", name, craft, PREDICT)
    for name, change in CHANGES.items():
        yield Case("head's config.json", name, edited(CONFIG, change), PREDICT)
    for name, craft in SPELLED.items():
        yield Case("head's config.json", name, craft, PREDICT)
    for name, change in CAPTURES.items():
        yield Case("head's capture", name, recaptured(change), PREDICT)
    for name, change in MODELS.items():
        yield Case("head's model reference", name, recaptured(change), PREDICT_WITHOUT_MODEL)
    for name, craft in {**broken_json(REFERENCE), **REFERENCES}.items():
        yield Case("exported head", name, craft, EXPORT)
    deep = broken_json(f"{MODULE}/head/config.json")["an object in an object, 200,000 deep"]
    yield Case("exported head", "a head 200,000 deep", deep, EXPORT)
    yield Case("exported head", "a model with code", written(f"{MODULE}/model/own.py", CODE.encode()), EXPORT)


EXPORT: Opener = call(load_exported)
Change = Callable[[dict[str, Any]], object]


def everywhere(**values: int) -> Change:
    """A size that head, treatment and capture agree on."""

    def change(config: dict[str, Any]) -> None:
        config["head"].update(values)
        if "dim" in values:
            config["treatment"]["dim"] = config["capture"]["dim"] = values["dim"]
        resign(config["capture"])

    return change


def resign(capture: dict[str, Any]) -> None:
    """Gives the capture the fingerprint that fits it, where there is one."""
    spec = {name: value for name, value in capture.items() if name != "fingerprint"}
    try:
        capture["fingerprint"] = CaptureSpec.from_attributes(spec).fingerprint
    except Exception:
        document = {"format_version": 2, **spec}
        capture["fingerprint"] = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def recaptured(change: Change) -> Craft:
    """The config with another capture, whose fingerprint fits."""

    def both(config: dict[str, Any]) -> None:
        change(config["capture"])
        resign(config["capture"])

    return edited(CONFIG, both)


def as_head(name: str, **options: Any) -> Change:
    """Another head, with options."""
    return lambda config: config["head"].update(name=name, options=options)


def over_two_models(width: int = 8, **second: Any) -> Change:
    """A head whose config claims a second model beside its own, with maps of this width."""

    def change(config: dict[str, Any]) -> None:
        capture = {**config["capture"], "template": "2: {text}", **second}
        resign(capture)
        config["facts"]["further"] = [{"capture": capture, "model_name": "second", "model_parameters": 1}]
        rows = {"layers": len(config["capture"]["layers"]), "dim": config["capture"]["dim"]}
        models = [rows, {**rows, "dim": capture["dim"]}]
        config["head"].update(layers=2 * rows["layers"], joined={"models": models, "width": width})
        config["format_version"] = 7

    return change


CHANGES: dict[str, Change] = {
    "no format version": lambda c: c.pop("format_version"),
    "a later format version": lambda c: c.update(format_version=99),
    "a head that is a path": as_head("../../outside/secret"),
    "a head that is a function": as_head("os.system"),
    "an unknown option": as_head("weighted", code="print()"),
    "a key of build_head's own making": lambda c: c["head"].update(build="os.system"),
    "10¹² layers": everywhere(layers=HUGE),
    "rows of 10¹² values": everywhere(dim=HUGE),
    "rows of 2²⁰ values": everywhere(dim=2**20),
    "10¹² outputs": everywhere(out=HUGE),
    "-1 outputs": everywhere(out=-1),
    "true outputs": lambda c: c["head"].update(out=True),
    "nodes of 10¹² values": as_head("cayley", hidden=HUGE),
    "nodes of 10⁵ values": as_head("cayley", hidden=10**5),
    "10⁹ linear layers": as_head("mlp", mlp_layers=10**9),
    "vectors of 10⁶ values for pairs": lambda c: c["head"].update(pair_width=10**6),
    "10⁶ principal components": lambda c: c["treatment"]["options"].update(pca=10**6),
    "a treatment of 10¹² values": lambda c: c["treatment"].update(dim=HUGE),
    "fewer labels than outputs": lambda c: c["facts"].update(labels=["a"]),
    "another objective": lambda c: c["facts"]["objective"].update(kind="os.system"),
    "a pooling that is a path": lambda c: c["facts"].update(pooling="../../outside"),
    "another fingerprint": lambda c: c["capture"].update(fingerprint="0" * 64),
    "no capture": lambda c: c.pop("capture"),
    "a second model, of which there are no weights": over_two_models(),
    "maps to 10¹² values": over_two_models(width=HUGE),
    "a second model of rows of 10¹² values": over_two_models(dim=HUGE),
    "a second model without a capture": lambda c: c["facts"].update(further=[{}]),
    "text in place of further models": lambda c: c["facts"].update(further="abc"),
    "two models in the head alone": lambda c: c["head"].update(
        joined={"models": [{"layers": 1, "dim": 1}] * 2, "width": 1}
    ),
    "an unknown fact": lambda c: c["facts"].update(code="print()"),
    "an unknown section": lambda c: c.update(code="print()"),
}
CAPTURES: dict[str, Change] = {
    "a layer that is a path": lambda c: c.update(layers=["../../outside", *c["layers"][1:]]),
    "a layer that moves the cursor": lambda c: c.update(layers=["\x1b[2J", *c["layers"][1:]]),
    "a layer twice": lambda c: c.update(layers=[c["layers"][0], *c["layers"][:-1]]),
    "text in place of layers": lambda c: c.update(layers="abc"),
    "an unknown storage type": lambda c: c.update(storage_type="object"),
    "a template without a text": lambda c: c.update(template="{text.__class__}"),
    "10¹² tokens, as a word": lambda c: c.update(max_tokens=str(HUGE)),
}
MODELS: dict[str, Change] = {
    "a path as the model's id": lambda c: c.update(model={"hub": "../project/model", "revision": COMMIT}),
    "an absolute path as its id": lambda c: c.update(model={"hub": "/etc", "revision": COMMIT}),
    "no commit": lambda c: c.update(model={"hub": "owner/name"}),
    "a branch as the commit": lambda c: c.update(model={"hub": "owner/name", "revision": "main"}),
    "leave to run code": lambda c: c.update(
        model={"hub": "owner/name", "revision": COMMIT, "trust_remote_code": "true"}
    ),
    "a place beside the commit": lambda c: c.update(model={"path": "model", "revision": COMMIT}),
    "no model": lambda c: c.update(model={}),
}
SPELLED: dict[str, Craft] = {
    "a key twice": replaced(CONFIG, b'"format_version"', b'"format_version": 1, "format_version"'),
    "a figure that is NaN": replaced(CONFIG, b'"val_loss": ', b'"val_loss": NaN, "x": '),
    "a figure that is infinite": edited(CONFIG, lambda c: c["facts"].update(val_score=float("inf"))),
    "a figure of 5,000 digits": replaced(CONFIG, b'"seed": 0', b'"seed": ' + TOO_LONG_NUMBER),
    "a seed of 400 digits": replaced(CONFIG, b'"seed": 0', b'"seed": ' + b"9" * 400),
}
REFERENCES: dict[str, Craft] = {
    "a path that climbs": written(REFERENCE, b'{"path": "../../model"}'),
    "a path that climbs from inside": written(REFERENCE, b'{"path": "model/../../../model"}'),
    "an absolute path": written(REFERENCE, b'{"path": "/etc"}'),
    "a path that is a number": written(REFERENCE, b'{"path": 1}'),
    "a path as the model's id": written(REFERENCE, b'{"hub": "../project/model", "revision": "%s"}' % COMMIT.encode()),
    "a model that leads out of it": lambda: (
        Path(MODULE, "model").rename("../outside/model"),
        Path(MODULE, "model").symlink_to(Path("../outside/model").resolve()),
    ),
}
