"""Compiles a model's blocks so that every worker runs the same kernels, whatever order batches come in."""

from __future__ import annotations

import functools
from types import FunctionType
from typing import Any

import torch

from pipeline.model.architecture import find_blocks
from pipeline.model.witness import entering_states

CAPTURING = "transformers.utils.output_capturing"


def compile_blocks(model: Any) -> Any:
    """Compiles each block's forward pass for shapes of any size and returns the model.

    Hooks stay outside what is compiled. One graph serves all shapes: a graph for the first shape and another for the
    rest would round differently on workers that met them in another order. Whoever reads first, the made-up texts
    that capture is proven on are the first shape. A single row or a single token would be a graph of its own, so
    those run uncompiled.

    Each model has graphs of its own. PyTorch counts them by the code that they come from, which most architectures
    share, and from the ninth on it runs the code uncompiled: in a process that had compiled other models before.
    """
    _remove_capturing_hooks(model)
    compiled = torch.compile(_own_copy(lambda plain, *args, **kwargs: plain(*args, **kwargs)), dynamic=True)
    for block in find_blocks(model):
        plain = block.forward
        block.forward = functools.partial(_forward, plain, functools.partial(compiled, plain))
    return model


def _own_copy(function: Any) -> FunctionType:
    """A copy of the function with its own code object, which is the key under which compiled graphs are kept."""
    return FunctionType(function.__code__.replace(), function.__globals__)


def _forward(plain: Any, compiled: Any, *args: Any, **kwargs: Any) -> Any:
    rows, tokens = entering_states(args, kwargs).shape[:2]
    return (compiled if rows > 1 and tokens > 1 else plain)(*args, **kwargs)


def _remove_capturing_hooks(model: Any) -> None:
    """Takes away what `output_hidden_states` left on the modules: the compiler cannot see through it.

    Transformers installs the hooks again when hidden states are next asked for.
    """
    for module in model.modules():
        for key, hook in list(module._forward_hooks.items()):
            if hook.__module__ == CAPTURING:
                del module._forward_hooks[key]
        if getattr(module, "_output_capturing_hooks_installed", False):
            module._output_capturing_hooks_installed = False
