"""Removing layers from a loaded model, in place, so that it equals the checkpoint that `cut` writes.

Three things change together: the layer list, the layer number that each sub-module keeps for the cache, and every
depth-dependent field of the config, which all modules share and which is therefore edited in place. Forgetting one is
silent in many families (masks are chosen by `config.layer_types[i]`).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from prune.errors import PruneError
from prune.model.layer_list import find_layer_list, text_config
from prune.surgery.config_fields import edit_config
from prune.surgery.derived import config_object, from_class
from prune.surgery.layers import complement
from prune.surgery.signature import check_signatures, skeleton

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

INDEX_ATTRIBUTES = ("layer_idx", "layer_id", "layer_number")


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
    values = _edited_values(model, len(layers), keep)
    kept = [layers[old] for old in keep]
    for new, (old, layer) in enumerate(zip(keep, kept, strict=True)):
        _renumber(layer, old, new)
    parent = model.get_submodule(path.rpartition(".")[0])
    setattr(parent, path.rpartition(".")[2], type(layers)(kept))
    vars(text_config(model)).update(values)
    return model


def _edited_values(model: PreTrainedModel, depth: int, keep: list[int]) -> dict[str, Any]:
    """The attributes of the text config that change, as its own class derives them, checked on a model without weights.

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
    check_signatures(skeleton(type(model), model.config), skeleton(type(model), shallow), keep)
    return changed


def _differs(old: Any, new: Any) -> bool:
    """Inequality of config values, sub-configs by their content."""
    return (old.to_dict() != new.to_dict()) if hasattr(old, "to_dict") and hasattr(new, "to_dict") else old != new


def _renumber(layer: nn.Module, old: int, new: int) -> None:
    """Rewrite the layer number wherever a sub-module keeps it (two numbers a layer where a layer has two caches)."""
    for module in layer.modules():
        for name in INDEX_ATTRIBUTES:
            value = vars(module).get(name)
            if type(value) is not int:
                continue
            if type(layer).__name__.startswith("LongcatFlash") and module is not layer:
                setattr(module, name, 2 * new + value % 2)
            elif value == old:
                setattr(module, name, new)
