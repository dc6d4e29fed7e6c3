"""Removing layers from a loaded model, in place, so that it equals the checkpoint that `cut` writes.

Four things change together: the layer list, the layer number that each sub-module keeps for the cache, weights that
hold a share of every layer, and every depth-dependent field of the config, which all modules share and which is
therefore edited in place. Forgetting one is silent in many families (masks are chosen by `config.layer_types[i]`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prune.checkpoint.layer_lists import complement
from prune.errors import PruneError
from prune.model.layer_list import find_layer_list, text_config
from prune.surgery.config_fields import edit_config
from prune.surgery.derived import config_object, from_class
from prune.surgery.packed import AXES
from prune.surgery.signature import NUMBERING, check_signatures, skeleton

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

TIES = ("_tied_weights_keys", "all_tied_weights_keys")
"""Which parameters are one: by name, and so by layer where layers share a block (Zamba)."""


def drop_layers(model: PreTrainedModel, drop: Sequence[int]) -> PreTrainedModel:
    """Remove layers; returns the same object.

    Args:
        model: a causal language model (its config is edited in place).
        drop: layer indices to remove.

    Raises:
        UsageError: indices that do not fit the depth.
        PruneError: the family cannot be cut like this (field named).
    """
    path, layers = find_layer_list(model)
    keep = complement(list(drop), len(layers), "drop")
    values, pattern = _checked(model, len(layers), keep)
    packed = _packed(model, pattern, len(layers), keep)
    parent = model.get_submodule(path.rpartition(".")[0])
    setattr(parent, path.rpartition(".")[2], type(layers)(layers[old] for old in keep))
    vars(text_config(model)).update(values)
    for path, weight in packed.items():
        _resize(model.get_submodule(path), pattern.get_submodule(path), weight)
    _take_numbers(model, pattern)
    return model


def _checked(model: PreTrainedModel, depth: int, keep: list[int]) -> tuple[dict[str, Any], PreTrainedModel]:
    """The text config's attributes that change, as its class derives them, and a model without weights built from them.

    Raises:
        PruneError: the family cannot be cut like this, or a kept layer would be built differently.
    """
    config = text_config(model)
    before = config.to_dict()
    before.pop("quantization_config", None)  # names in it only matter to a loader
    after = edit_config(before, keep, resolve=from_class)
    old, new = (vars(config_object(copy.deepcopy(fields))) for fields in (before, after))
    changed = {name: value for name, value in new.items() if name not in old or _differs(old[name], value)}
    if not changed:
        raise PruneError(f"config of {type(config).__name__}: no field states its depth of {depth}")
    shallow = copy.deepcopy(model.config)
    vars(shallow.get_text_config(decoder=True)).update(copy.deepcopy(changed))
    pattern = skeleton(type(model), shallow)
    check_signatures(skeleton(type(model), model.config), pattern, keep)
    return changed, pattern


def _packed(model: nn.Module, pattern: nn.Module, depth: int, keep: list[int]) -> dict[str, nn.Parameter]:
    """The kept layers' shares of weights that hold a share of every layer, by the path of their module.

    Raises:
        PruneError: such a module is wrapped or quantised.
    """
    import torch
    from torch import nn

    found = {}
    own = dict(model.named_modules())
    for path, part in pattern.named_modules():
        if (axis := AXES.get(path.rpartition(".")[2])) is None:
            continue
        if path not in own or type(own[path]) is not type(part):
            raise PruneError(
                f"{path} holds all layers' shares, and is wrapped or quantised: it cannot be cut in memory"
            )
        weight = own[path].weight
        chosen = torch.tensor(keep, device=weight.device)
        shares = weight.detach().unflatten(axis, (depth, -1)).index_select(axis, chosen)
        found[path] = nn.Parameter(shares.flatten(axis, axis + 1), requires_grad=weight.requires_grad)
    return found


def _resize(module: nn.Module, like: nn.Module, weight: nn.Parameter) -> None:
    """Give a module its smaller weight, and the sizes that it states about itself."""
    module.weight = weight
    for name, value in vars(like).items():
        if type(value) is int:
            setattr(module, name, value)


def _differs(old: Any, new: Any) -> bool:
    """Inequality of config values, sub-configs by their content."""
    return (old.to_dict() != new.to_dict()) if hasattr(old, "to_dict") and hasattr(new, "to_dict") else old != new


def _take_numbers(model: nn.Module, pattern: nn.Module) -> None:
    """Set every layer number, and every table by layer number, to what a fresh model of this depth has there.

    The signature check has shown that nothing else differs. Modules that only one of the two has (adapters, quantised
    layers' insides) hold no layer numbers.
    """
    own = dict(model.named_modules())
    for path, part in pattern.named_modules():
        for name, value in vars(part).items():
            numbered = name in NUMBERING or name in TIES or _counts(value)
            if path in own and name in vars(own[path]) and numbered:
                setattr(own[path], name, copy.copy(value))


def _counts(value: Any) -> bool:
    """A list of integers or a table by integers."""
    return isinstance(value, list | tuple | dict) and bool(value) and all(type(item) is int for item in value)
