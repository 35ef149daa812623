"""Restores a model to the state before its first text, as a forward pass may leave state behind.

BigBird turns to full attention for good at its first short text, and scaled rotary embeddings keep the longest text
that they have met: the next text's states then depend on those before it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

_PLAIN = (bool, int, float, str, type(None), Tensor)
# Set by what wraps a forward pass, and not by the pass itself.
_NOT_STATE = ("forward", "training", "_output_capturing")


class Pristine:
    """The modules, buffers and plain attributes of a model, to be put back; weights are left alone.

    Parameters
    ----------
    model
        As it was loaded. It must not have been used since, or must have been restored.

    Attributes
    ----------
    needed
        Whether some forward pass is known to leave what changes a later one: then every pass is taken back.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self.needed = model, False
        self.renew()

    def renew(self) -> None:
        """Takes the model as it is now, some of whose blocks were read again, for what it was at first."""
        self._modules = [_Module(module) for module in self._model.modules()]

    def restore(self) -> tuple[str, ...]:
        """Puts everything back, and names what had changed, each once."""
        return tuple(dict.fromkeys(name for module in self._modules for name in module.restore()))


class _Module:
    def __init__(self, module: nn.Module) -> None:
        self._name = type(module).__name__
        self._stores = [(module.__dict__, _attributes(module)), (module._buffers, dict(module._buffers))]
        if not isinstance(module, nn.ModuleList):  # blocks come and go as requests need them
            self._stores.append((module._modules, dict(module._modules)))
        tensors = (value for _, kept in self._stores for value in kept.values() if isinstance(value, Tensor))
        self._values = [(tensor, tensor.clone(), _version(tensor)) for tensor in tensors if not tensor.is_meta]

    def restore(self) -> list[str]:
        changed = []
        for store, kept in self._stores:
            now = store if store is not self._stores[0][0] else _plain(store)
            for name in [name for name in now if name not in kept]:
                changed.append(f"{self._name}.{name}")
                del store[name]
            for name, value in kept.items():
                if name not in store or store[name] is not value:
                    changed.append(f"{self._name}.{name}")
                    store[name] = value
        for place, (tensor, value, version) in enumerate(self._values):
            if _version(tensor) != version:
                changed.append(f"a tensor of {self._name}")
                tensor.copy_(value)
                self._values[place] = tensor, value, _version(tensor)
        return changed


def _attributes(module: nn.Module) -> dict[str, Any]:
    return dict(_plain(module.__dict__))


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in values.items() if isinstance(value, _PLAIN) and not name.startswith(_NOT_STATE)
    }


def _version(tensor: Tensor) -> int:
    """Counts changes in place; of a tensor made for inference alone nothing counts them."""
    return 0 if tensor.is_inference() else int(tensor._version)
