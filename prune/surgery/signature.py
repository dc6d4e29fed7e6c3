"""The check that needs no table of families: what two configs build, compared layer by layer, without weights.

The models before and after a cut are built from their configs alone (parameters on the meta device, computed buffers
real). Every kept layer must agree in classes, plain attributes, tensors and parameter shapes, and so must everything
outside the layers. Whatever a family computes from a layer's number, and no table of ours knows, shows here. Not seen:
arithmetic with the depth or the layer's number inside `forward`; the replay of logits is for that.
Assumption: attributes in `NUMBERING` are numbers of layers and expected to change.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.checkpoint.depth_fields import DEPTH, INDEX_LISTS
from prune.checkpoint.directory import CONFIG, read_json
from prune.errors import PruneError
from prune.surgery.packed import AXES

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

NUMBERING = frozenset(("layer_idx", "layer_id", "layer_number", *DEPTH))
"""Attributes that count layers."""
RUNTIME = frozenset(("training", "_is_hf_initialized", "name_or_path", "all_tied_weights_keys"))
"""Attributes that say nothing about the computation."""
PLAIN = (bool, int, float, complex, str, bytes)


def check_directories(source: Path, result: Path, keep: Sequence[int], *, trust_remote_code: bool = False) -> None:
    """Compare the models that two checkpoint directories' configs build.

    Args:
        source, result: before the cut and after it.
        keep: sorted source indices.
        trust_remote_code: run the checkpoint's own modelling code.

    Raises:
        PruneError: a config builds no model, or the first attribute, shape or buffer that differs.
    """
    old, new = read_json(source / CONFIG), read_json(result / CONFIG)
    before, after = (
        skeleton(model_class(config), load_config(directory, trust_remote_code), trust_remote_code)
        for config, directory in ((old, source), (new, result))
    )
    check_signatures(before, after, keep)


def model_class(config: dict[str, Any]) -> Any:
    """The transformers class that a config.json names, else the automatic one."""
    import transformers

    for name in config.get("architectures") or []:
        if hasattr(transformers, str(name)):
            return getattr(transformers, str(name))
    return transformers.AutoModelForCausalLM


def load_config(directory: Path, trust_remote_code: bool = False) -> Any:
    """The config object of a checkpoint, without its quantisation.

    Raises:
        PruneError: the stock class refuses it.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=trust_remote_code)
    except Exception as error:  # strict dataclass validation raises many kinds
        reason = " ".join(str(error).split())[:300]
        raise PruneError(f"config.json is refused by its class: {type(error).__name__}: {reason}") from error
    for part in (config, config.get_text_config(decoder=True)):
        vars(part).pop("quantization_config", None)
    return config


def skeleton(kind: Any, config: Any, trust_remote_code: bool = False) -> PreTrainedModel:
    """The model of a config without weights, but with its computed buffers.

    Raises:
        PruneError: it cannot be built.
    """
    import accelerate

    try:
        with accelerate.init_empty_weights(include_buffers=False):
            built = copy.deepcopy(config)
            if hasattr(kind, "_from_config"):
                return kind._from_config(built)
            return kind.from_config(built, trust_remote_code=trust_remote_code)
    except Exception as error:  # any failure to build is the finding
        reason = " ".join(str(error).split())[:300]
        raise PruneError(f"config.json does not build a model: {type(error).__name__}: {reason}") from error


def check_signatures(old_model: nn.Module, new_model: nn.Module, keep: Sequence[int]) -> None:
    """Compare every kept layer of two models, and everything outside the layers.

    Args:
        old_model: before the cut, with or without weights.
        new_model: after it.
        keep: sorted source indices.

    Raises:
        PruneError: the first attribute, shape or buffer that differs (layer and name given).
    """
    from prune.model.layer_list import find_layer_list

    (old_path, old_layers), (_, new_layers) = find_layer_list(old_model), find_layer_list(new_model)
    if len(new_layers) != len(keep):
        raise PruneError(f"the result builds {len(new_layers)} layers, not {len(keep)}")
    depths = (len(old_layers), len(new_layers))
    edited = _edited_fields(old_model, new_model)
    new_index = {old: new for new, old in enumerate(keep)}
    read = _kinds_read(new_layers)
    for new, old in enumerate(keep):
        before, after = signature(old_layers[old], edited), signature(new_layers[new], edited)
        _drop_layer_lists(before, after, depths)
        _drop_unread_stores(before, after, read)
        _compare(f"layer {old} as layer {new}", before, after, new_index)
    before, after = (signature(model, edited, f"{old_path}.") for model in (old_model, new_model))
    _drop_layer_lists(before, after, depths)
    for name in list(before):
        was, is_now = before[name], after.get(name)
        if (
            _is_position(name, was, is_now, keep)
            or _lost_a_kind(name, was, is_now)
            or _is_share(name, was, is_now, depths)
        ):
            before.pop(name), after.pop(name, None)
    _compare("outside the layers", before, after, new_index)
    _check_lists(old_model, new_model, depths, keep)


def signature(module: nn.Module, edited: Collection[str] = (), skip: str = " ") -> dict[str, Any]:
    """Everything of a module that a layer's number or the depth could have changed, by dotted name.

    Args:
        module: a layer, or a model.
        edited: config fields that changed for the whole model, and so in every layer's view of the config.
        skip: leave out sub-modules under this prefix.
    """
    import torch
    from transformers import PreTrainedModel

    found: dict[str, Any] = {}
    for path, part in module.named_modules():
        if f"{path}.".startswith(skip):
            continue
        found[f"{path}/class"] = type(part).__name__
        for name, value in _own_attributes(part):
            if isinstance(value, torch.Tensor) or _is_plain(value):
                found[f"{path}.{name}"] = value
            elif type(value).__name__.endswith("Config") and not isinstance(part, PreTrainedModel):
                found |= {f"{path}.{name}.{key}": item for key, item in _config_values(value) if key not in edited}
        for name, parameter in part._parameters.items():
            found[f"{path}.{name}/shape"] = None if parameter is None else tuple(parameter.shape)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                stored = name not in part._non_persistent_buffers_set
                found[f"{path}.{name}/buffer"] = tuple(buffer.shape) if stored else buffer
    return found


def _own_attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Attributes that a class added to `nn.Module`, private ones included (except the loader's, on whole models)."""
    from torch import nn
    from transformers import PreTrainedModel

    plumbing = {*vars(nn.Module()), *NUMBERING, *RUNTIME}
    for name, value in vars(module).items():
        if name not in plumbing and not (name.startswith("_") and isinstance(module, PreTrainedModel)):
            yield name, value


def _drop_layer_lists(before: dict[str, Any], after: dict[str, Any], depths: tuple[int, int]) -> None:
    """Forget lists with one entry per layer in both models; `_check_lists` compares those.

    A list that only once is as long as its model is deep (the padding of a convolution, say) is an attribute as any.
    """
    for name in before.keys() & after.keys():
        values = before[name], after[name]
        if all(isinstance(value, list | tuple) for value in values) and tuple(map(len, values)) == depths:
            del before[name], after[name]


def _kinds_read(layers: Iterable[nn.Module]) -> set[str]:
    """Kinds of layer whose keys and values some later layer reuses."""
    parts = [part for layer in layers for part in layer.modules()]
    return {str(getattr(part, "layer_type", "")) for part in parts if getattr(part, "is_kv_shared_layer", False)}


def _drop_unread_stores(before: dict[str, Any], after: dict[str, Any], read: Collection[str]) -> None:
    """Forget whether a layer hands on its keys and values where no layer reads those of its kind any more."""
    for name in [name for name in before if name.endswith("store_full_length_kv")]:
        kind = before.get(name.replace("store_full_length_kv", "layer_type"))
        if kind is not None and kind not in read:
            before.pop(name), after.pop(name, None)


def _is_plain(value: Any) -> bool:
    """Whether a value compares by `==`."""
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(_is_plain(item) for item in value.values())
    return value is None or isinstance(value, PLAIN)


def _edited_fields(old_model: nn.Module, new_model: nn.Module) -> set[str]:
    """Names whose value differs between the two text configs."""
    from prune.model.layer_list import text_config

    old, new = (vars(text_config(model)) for model in (old_model, new_model))
    return {name for name in old.keys() | new.keys() if str(old.get(name)) != str(new.get(name))}


def _config_values(config: Any) -> Iterator[tuple[str, Any]]:
    """Plain values of a layer's own view of the config, where layers differ in it (heterogeneous configs)."""
    for name, value in vars(config).items():
        if not name.startswith("_") and name not in NUMBERING and isinstance(value, int | float | str):
            yield name, value


def _compare(where: str, before: dict[str, Any], after: dict[str, Any], new_index: dict[int, int]) -> None:
    for name in sorted(set(before) | set(after)):
        old, new = before.get(name), after.get(name)
        if not _same(old, new) and not _same(_renumbered(old, new_index), new):
            change = f"{name.lstrip('./')} was {_show(old)}, would be {_show(new)}"
            raise PruneError(f"{where}: {change}; no config can express this")


def _is_position(name: str, old: Any, new: Any, keep: Sequence[int]) -> bool:
    """Whether a number outside the layers is a place between two layers, and still the same place."""
    return "layer" in name and type(old) is int and type(new) is int and new == sum(index < old for index in keep)


def _is_share(name: str, old: Any, new: Any, depths: tuple[int, int]) -> bool:
    """Whether a size counts the shares of all layers, and still does (`check_packed` compares the content)."""
    if not any(f".{module}." in f".{name.lstrip('./')}" for module in AXES):
        return False
    pairs = list(zip(old, new, strict=True)) if isinstance(old, tuple) and isinstance(new, tuple) else [(old, new)]
    return all(type(a) is int and type(b) is int and (a == b or a * depths[1] == b * depths[0]) for a, b in pairs)


def _lost_a_kind(name: str, old: Any, new: Any) -> bool:
    """Whether rotary embeddings lack what belongs to a kind of layer that is gone, and nothing else changed."""
    if "rotary" not in name or new is None:
        return "rotary" in name
    if isinstance(old, dict) and isinstance(new, dict):
        return new.items() <= old.items()
    return isinstance(old, list | tuple) and isinstance(new, list | tuple) and set(map(str, new)) <= set(map(str, old))


def _renumbered(value: Any, new_index: dict[int, int]) -> Any:
    """A list of layer numbers, or a table by layer number, as it must read after the cut; anything else unchanged."""
    numbers = list(value) if isinstance(value, list | tuple | dict) else []
    if not numbers or not all(type(item) is int for item in numbers):
        return value
    if isinstance(value, dict):
        return {new_index[old]: item for old, item in value.items() if old in new_index}
    return type(value)(new_index[old] for old in value if old in new_index)


def _show(value: Any) -> str:
    return str(value)[:120]


def _same(a: Any, b: Any) -> bool:
    """Equality of signature values; buffers and floats up to rounding noise."""
    import torch

    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.shape != b.shape or a.device.type == "meta" or b.device.type == "meta":
            return a.shape == b.shape
        return torch.allclose(a.float(), b.float(), rtol=1e-5, atol=1e-7, equal_nan=True)
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return False
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= 1e-9 * max(1.0, abs(a)) or a == b or (a != a and b != b)
    return type(a) is type(b) and a == b


def _check_lists(old_model: nn.Module, new_model: nn.Module, depths: tuple[int, int], keep: Sequence[int]) -> None:
    """Whatever the two configs state once per layer must be the kept layers' entries (names nobody listed included)."""
    from prune.model.layer_list import text_config

    old, new = (text_config(model).to_dict() for model in (old_model, new_model))
    for name, value in old.items():
        other = new.get(name)
        if name in INDEX_LISTS:
            continue
        per_layer = isinstance(value, list | tuple) and isinstance(other, list | tuple)
        if per_layer and (len(value), len(other)) == depths and [value[i] for i in keep] != list(other):
            raise PruneError(f"{name} becomes {_show(other)}, not the kept layers' entries; no config can express this")
