"""The metadata and tensor names of fewer layers: every count and every array that speaks of layers, or a refusal.

llama.cpp's own `--prune-layers` renumbers tensors and sets `block_count`, and leaves arrays as they are; here an array
is cut by position, a pattern that llama.cpp would derive anew is written out where it reads an array, and whatever
speaks of layers in a way that is not known is refused by name. Values that do not change keep their bytes.
Assumption: layers are removed, never reordered; layers for multi-token prediction, which stand last, always go.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from prune.errors import PruneError
from prune.gguf.architectures import (
    ALIKE,
    BY_DEPTH,
    EDITED,
    HARMLESS,
    NO_ROPE,
    NOT_PER_LAYER,
    PER_LAYER,
    RECURRENT,
    RECURRENT_KEY,
    WINDOW_IF_STATED,
    WINDOW_KEY,
    WINDOWS,
)
from prune.gguf.header import Array
from prune.gguf.parts import Model
from prune.gguf.types import BOOL, INTEGERS

BLOCK = re.compile(r"blk\.(\d{1,6})\.(.+)")
ELSEWHERE = re.compile(r"(^|\.)(\d+)\.")
KEPT = "prune.kept_layers"
"""Our own key: which layers of the file that was first cut these are."""
IMATRIX = "imatrix"


@dataclass
class Edit:
    """What changes.

    Attributes:
        names: old -> new name of every tensor that stays.
        values: key -> (value type, value) of the metadata that changes or is new; arrays as `Array`.
        notes: what a user should know of the result.
    """

    names: dict[str, str]
    values: dict[str, tuple[int, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def depth_of(model: Model, absent: Iterable[int] = ()) -> int:
    """The number of layers, without those for multi-token prediction.

    Args:
        absent: layers that may be without a single tensor.

    Raises:
        PruneError: an unknown architecture, no usable `block_count`, or tensors that do not fit it.
    """
    layers = {int(match[1]) for _, tensor in model.tensors if (match := BLOCK.fullmatch(tensor.name))}
    if model.first.get("general.type") == IMATRIX:
        if not layers:
            raise PruneError(f"{model.path}: an importance matrix without layers")
        return max(layers) + 1
    name = model.architecture
    if name not in ALIKE and not any(name in table for table in (WINDOWS, RECURRENT, NO_ROPE)):
        known = ", ".join(sorted(ALIKE | set(WINDOWS) | set(RECURRENT) | set(NO_ROPE)))
        raise PruneError(
            f"{model.path}: no rule for architecture {name[:40]!r}, so its layers cannot be renumbered safely; known"
            f" are {known}; `prune import` may read it"
        )
    total, extra = (_count(model, key) for key in ("block_count", "nextn_predict_layers"))
    counted = layers.union(absent)
    if not 0 <= extra < total or len(counted) != total or max(counted) != total - 1:
        raise PruneError(f"{model.path}: {name}.block_count is {total}, which its tensors do not fit")
    return total - extra


def plan_edit(model: Model, depth: int, keep: Sequence[int]) -> Edit:
    """The names and metadata of the model with the layers `keep`.

    Raises:
        PruneError: a key or tensor that cannot be expressed, by name.
    """
    edit = Edit(_names(model, {old: new for new, old in enumerate(keep)}))
    if model.first.get("general.type") == IMATRIX:
        return edit
    name, count = model.architecture, len(keep)
    if name in BY_DEPTH and (depth == BY_DEPTH[name][0]) != (count == BY_DEPTH[name][0]):
        special, what = BY_DEPTH[name]
        raise PruneError(f"{model.path}: llama.cpp derives {what} of {name} from a depth of {special} layers: refused")
    _numbers(model, edit, depth, keep)
    _arrays(model, edit, depth, keep)
    _windows(model, edit, depth, keep)
    _recurrent(model, edit, depth, keep)
    if name in NO_ROPE:
        _in_step(model, "layers without rotary positions", NO_ROPE[name], keep)
    before = model.first.get(KEPT)
    own = before.values if isinstance(before, Array) and before.count == depth and before.values else range(depth)
    edit.values[KEPT] = (9, Array(5, count, tuple(own[i] for i in keep)))
    return edit


def _count(model: Model, key: str, default: int = 0) -> int:
    """A number of the architecture's metadata.

    Raises:
        PruneError: not a whole number of zero or more.
    """
    found = model.first.fields.get(f"{model.architecture}.{key}")
    if found is None:
        return default
    if found.kind not in INTEGERS or found.value < 0:
        raise PruneError(f"{model.path}: {found.key} must be a whole number, not {str(found.value)[:40]}")
    return int(found.value)


def _names(model: Model, new_index: dict[int, int]) -> dict[str, str]:
    names = {}
    for path, tensor in model.tensors:
        match = BLOCK.fullmatch(tensor.name)
        if match is None:
            if ELSEWHERE.search(tensor.name):
                raise PruneError(f"{path}: tensor {tensor.name!r} has a number in its name that is no layer's: refused")
            names[tensor.name] = tensor.name
        elif (old := int(match[1])) in new_index:
            names[tensor.name] = f"blk.{new_index[old]}.{match[2]}"
    return names


def _numbers(model: Model, edit: Edit, depth: int, keep: Sequence[int]) -> None:
    """Counts: of blocks, of dense layers in front, of layers for multi-token prediction; steps that must stay true."""
    name = model.architecture
    values = {"block_count": len(keep)}
    if dense := _count(model, "leading_dense_block_count"):
        values["leading_dense_block_count"] = sum(old < dense for old in keep)
    if _count(model, "nextn_predict_layers"):
        values["nextn_predict_layers"] = 0
        edit.notes.append("the layers for multi-token prediction are left out")
    if (step := _count(model, "interleave_moe_layer_step", 1)) > 1:
        _in_step(model, "interleave_moe_layer_step: layers with experts", step, keep)
    for key, value in values.items():
        edit.values[f"{name}.{key}"] = (model.first.fields[f"{name}.{key}"].kind, value)
    for found in model.fields.values():
        key = found.key.removeprefix(f"{name}.")
        if key == found.key or isinstance(found.value, Array) or key in EDITED or key in HARMLESS:
            continue
        if re.search("layer|block|every", key) and found.value not in (0, False, ""):
            raise PruneError(f"{model.path}: {found.key} speaks of layers, but its meaning is unknown: refused")


def _in_step(model: Model, what: str, step: int, keep: Sequence[int]) -> None:
    """Every kept layer must keep its place in a period that no key can state otherwise."""
    moved = next((old for new, old in enumerate(keep) if ((old + 1) % step == 0) != ((new + 1) % step == 0)), None)
    if moved is not None:
        raise PruneError(
            f"{model.path}: {what} come every {step} in {model.architecture}, and llama.cpp would take layer {moved}"
            f" for another kind; drop whole groups of {step}"
        )


def _arrays(model: Model, edit: Edit, depth: int, keep: Sequence[int]) -> None:
    """Arrays with one entry a layer, by position."""
    name, total = model.architecture, depth + _count(model, "nextn_predict_layers")
    for found in model.fields.values():
        key, value = found.key.removeprefix(f"{name}."), found.value
        if not isinstance(value, Array) or found.key.startswith(("general.", "tokenizer.")) or found.key == KEPT:
            continue
        if key in PER_LAYER:
            if value.values is None or value.count not in (depth, total):
                raise PruneError(f"{model.path}: {found.key} has {value.count} entries for {depth} layers")
            edit.values[found.key] = (found.kind, Array(value.kind, len(keep), tuple(value.values[i] for i in keep)))
        elif value.count in (depth, total) and key not in NOT_PER_LAYER:
            raise PruneError(f"{model.path}: {found.key} has one entry per layer, but its meaning is unknown: refused")
    heads = _edited(edit, f"{name}.attention.head_count")
    if heads and not heads[0] and _any(model, f"{name}.attention.head_count"):
        raise PruneError(f"{model.path}: layer {keep[0]} has no attention, and llama.cpp needs some in the first layer")
    keys = _edited(edit, f"{name}.attention.head_count_kv")
    if keys and not any(keys) and _any(model, f"{name}.attention.head_count_kv"):
        raise PruneError(f"{model.path}: no layer with attention would be left; keep one of those")


def _edited(edit: Edit, key: str) -> tuple[Any, ...]:
    return edit.values[key][1].values if key in edit.values else ()


def _any(model: Model, key: str) -> bool:
    value = model.first.get(key)
    return isinstance(value, Array) and bool(value.values) and any(value.values or ())


def _windows(model: Model, edit: Edit, depth: int, keep: Sequence[int]) -> None:
    """Sliding layers, where llama.cpp derives them from a period."""
    name = model.architecture
    if name not in WINDOWS or (name in WINDOW_IF_STATED and not _count(model, "attention.sliding_window")):
        return
    key = f"{name}.{WINDOW_KEY}"
    if key in edit.values:  # an array, cut by position
        return
    period = _count(model, WINDOW_KEY, WINDOWS[name])

    def slides(index: int) -> bool:
        return period == 0 or index % period < period - 1

    _state(edit, key, [slides(i) for i in keep], [slides(i) for i in range(len(keep))], "sliding windows")


def _recurrent(model: Model, edit: Edit, depth: int, keep: Sequence[int]) -> None:
    """Recurrent layers, likewise."""
    name = model.architecture
    key = f"{name}.{RECURRENT_KEY}"
    if name not in RECURRENT:
        return
    if key not in edit.values:
        interval = _count(model, "full_attention_interval", RECURRENT[name])
        if interval == 0:
            raise PruneError(f"{model.path}: {name}.full_attention_interval is 0")
        wanted, derived = ([(i + 1) % interval != 0 for i in layers] for layers in (keep, range(len(keep))))
        _state(edit, key, wanted, derived, "recurrent layers")
    else:
        wanted = list(edit.values[key][1].values)
    if all(wanted):
        raise PruneError(f"{model.path}: no layer with attention would be left; keep one of those")


def _state(edit: Edit, key: str, wanted: list[bool], derived: list[bool], what: str) -> None:
    """Write the array out where the period would give other layers."""
    if wanted != derived:
        edit.values[key] = (9, Array(BOOL, len(wanted), tuple(wanted)))
        edit.notes.append(f"{what} stand as an array in {key}: llama.cpp versions that read only a period ignore it")
