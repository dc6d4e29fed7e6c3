"""A model's tensors, wherever accelerate keeps them: where layers lie on disk or beside a GPU, the model holds none.

Assumption: what is on the meta device has accelerate's hook on its module, which knows where the values are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def weights(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Every entry of the state dict with its values, sorted by name; fetched one at a time where it is offloaded."""
    for name, tensor in sorted(model.state_dict().items()):
        yield name, _fetched(model, name) if tensor.is_meta else tensor.detach()


def offloaded(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Those entries alone that the model does not hold itself."""
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.is_meta:
            yield name, _fetched(model, name)


def is_offloaded(model: Any) -> bool:
    """Whether there are any."""
    return any(parameter.is_meta for parameter in model.parameters())


def weight(model: Any, name: str) -> torch.Tensor:
    """The values of one parameter, by its name in the model."""
    own: torch.Tensor = model.get_parameter(name)
    return _fetched(model, name) if own.is_meta else own.detach()


def _fetched(model: Any, name: str) -> torch.Tensor:
    path, _, own = name.rpartition(".")
    hook = model.get_submodule(path)._hf_hook
    for each in getattr(hook, "hooks", [hook]):
        if getattr(each, "weights_map", None) is not None:
            tensor: torch.Tensor = each.weights_map[own]
            return tensor.detach()
    raise KeyError(name)
