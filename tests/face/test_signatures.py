"""What `help()`, an editor's hover and a type checker show of every public name."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import ilse
import pipeline
import trainer

# Of huggingface_hub's mixin: its signature is explicit, and its docstring in another style.
INHERITED = {"push_to_hub", "generate_model_card"}
OF_SKLEARN = {"set_params", "get_params", "score", "get_metadata_routing", "set_fit_request", "set_score_request"}


def public_functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Functions, and the methods that a class of ours has of its own."""
    for module in (ilse, pipeline, trainer):
        for name in module.__all__:
            found = getattr(module, name)
            if not inspect.isclass(found):
                yield f"{module.__name__}.{name}", found
    for kind in (ilse.Predictor, ilse.HeadClassifier, ilse.TextClassifier, ilse.Comparison):
        for name in dir(kind):
            method = inspect.getattr_static(kind, name)
            if name.startswith("_") or name in INHERITED | OF_SKLEARN or isinstance(method, property):
                continue
            if callable(getattr(kind, name)):
                yield f"ilse.{kind.__name__}.{name}", getattr(kind, name)


FUNCTIONS = dict(public_functions())
CLASSES = {name: getattr(ilse, name) for name in ilse.__all__ if inspect.isclass(getattr(ilse, name))}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_says_what_it_takes_and_gives(name: str) -> None:
    function = FUNCTIONS[name]
    signature = inspect.signature(function)
    kinds = [one.kind for one in signature.parameters.values()]
    assert inspect.Parameter.VAR_POSITIONAL not in kinds
    own = [one for one in signature.parameters.values() if one.name != "self"]
    assert [one.kind for one in own] != [inspect.Parameter.VAR_KEYWORD]
    assert signature.return_annotation is not inspect.Signature.empty
    text = inspect.getdoc(function) or ""
    wanted = ["Returns", "Raises", "Examples", *(["Parameters"] if own else [])]
    assert [heading for heading in wanted if f"\n{heading}\n---" not in text] == []
    listed = text.partition("Parameters\n")[2].partition("\n\nReturns\n")[0]
    named = {word.strip("*") for line in listed.splitlines() if not line.startswith(" ") for word in line.split(", ")}
    assert {one.name for one in own} <= named | {"cls"}


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_says_what_it_is(name: str) -> None:
    kind = CLASSES[name]
    if issubclass(kind, Exception):
        return
    assert all(one.kind is not inspect.Parameter.VAR_KEYWORD for one in inspect.signature(kind).parameters.values())
    assert len((inspect.getdoc(kind) or "").splitlines()) > 2


def test_every_public_name_is_there_and_listed() -> None:
    assert ilse.__all__ == sorted(ilse.__all__, key=lambda name: (name.lower() == name, name))
    assert set(ilse.__all__) <= set(dir(ilse))
    for name in ilse.__all__:
        assert getattr(ilse, name).__module__.split(".")[0] in ("ilse", "pipeline", "trainer")
    with pytest.raises(AttributeError, match="'ilse' has no attribute 'fitt'"):
        _ = ilse.fitt


def test_importing_ilse_imports_nothing_heavy() -> None:
    code = "import ilse, sys; print([m for m in ('torch', 'transformers', 'numpy', 'polars') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
