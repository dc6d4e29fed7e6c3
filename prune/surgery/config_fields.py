"""config.json for fewer layers: a pure transform that edits only what depth requires, or refuses with the field's name.

The original's own keys, values and order stay, so that older runtimes still read the result. Assumptions: layers are
numbered 0..n-1 and renumbered without gaps; a list known to be per layer is filtered by index, never by its tail; a
pattern that the shallower model would derive differently is written out as an explicit list.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from prune.checkpoint.config_types import check_decoder
from prune.checkpoint.depth_fields import (
    DEPTH,
    INDEX_LISTS,
    MTP_COUNTS,
    NOT_PER_LAYER,
    PER_LAYER,
    PREFIX_COUNTS,
    SUFFIX_COUNTS,
    depth_of,
    model_kind,
    mtp_layers,
    text_part,
)
from prune.errors import PruneError
from prune.surgery.derived import fixed_lists, follows_depth, from_class, resolver_for
from prune.surgery.families import Removal, family_of
from prune.surgery.families.rule import Lists, Resolver
from prune.surgery.module_names import ModuleNames
from prune.surgery.quantization import edit_quantization

RECURRENT = frozenset(("linear_attention", "recurrent", "mamba", "mamba2", "conv", "moe", "mlp"))
"""Kinds of layer that keep no key-value cache, so that a hybrid of them alone has no cache length."""


def check_causal(config: dict[str, Any]) -> None:
    """Refuse what is not a decoder-only language model, or is one that no cut can express.

    Raises:
        PruneError: encoder-decoder, no model_type, a head that is not causal, or a family without stock depth.
    """
    check_decoder(config)
    check_skips(config)
    if reason := family_of(name := model_kind(config)).never:
        raise PruneError(f"config.json: {name} cannot be cut: {reason}")


def check_skips(config: dict[str, Any]) -> None:
    """Refuse a config whose layers ask to be skipped in part, which transformers accepts and ignores.

    Raises:
        PruneError: names layer and field.
    """
    table = text_part(config).get("per_layer_config")
    for layer, fields in table.items() if isinstance(table, dict) else ():
        if isinstance(fields, dict) and fields.get("skip"):
            raise PruneError(
                f"config.json: per_layer_config of layer {layer} says skip {fields['skip']}, which transformers 5.23"
                " and 5.24 accept and ignore, so no cut of it can be proved: take it out if the layer is to stay"
                " whole, or leave sub-layers out with `prune plan --unit`"
            )


def edit_config(
    config: dict[str, Any],
    keep: Sequence[int],
    *,
    resolve: Resolver | None = None,
    modules: ModuleNames | None = None,
) -> dict[str, Any]:
    """The config of the model whose layers are `keep`, in that order.

    Args:
        config: parsed config.json (untouched).
        keep: sorted source indices.
        resolve: what derives per-layer lists; the family's known rule, else its config class.
        modules: of the checkpoint, for names and patterns of a quantisation; the usual ones if None.

    Raises:
        PruneError: a field has the wrong length, or the result cannot be expressed (the field is named).
    """
    edited = copy.deepcopy(config)
    check_skips(edited)
    text = text_part(edited)
    n, kind = depth_of(edited), model_kind(edited)
    family = family_of(kind)
    resolve = resolve or resolver_for(kind)
    before = _resolved(text, n, resolve)
    fixed = fixed_lists(text) if resolve is from_class else {}
    types = next((v for v in map((before | fixed).get, ("layer_types", "layers_block_type")) if v), [])
    removal = Removal(text, kind, n, keep, types)
    family.check(removal)
    _keep_whole(removal)
    _set_depth(text, n, len(keep))
    _edit_fields(removal, family.per_layer)
    if family.edit is not None:
        family.edit(removal)
    _make_explicit(removal, PER_LAYER | family.per_layer, before, resolve)
    _drop_false_period(text)
    if fixed:
        _check_fixed(removal, fixed)
    for part in {id(edited): edited, id(text): text}.values():
        if isinstance(part.get("quantization_config"), dict):
            edit_quantization(part["quantization_config"], modules or ModuleNames.usual(n, removal.new_index))
    return edited


def _drop_false_period(text: dict[str, Any]) -> None:
    """A period that layer_types no longer has is not kept beside it: what reads the period would be told a lie."""
    types = text.get("layer_types")
    for name in ("sliding_window_pattern", "_sliding_window_pattern"):
        period = text.get(name)
        if not isinstance(types, list) or type(period) is not int or period < 1:
            continue
        if any((kind == "full_attention") != ((i + 1) % period == 0) for i, kind in enumerate(types)):
            del text[name]


def _set_depth(text: dict[str, Any], n: int, n_new: int) -> None:
    """Every depth field that states the old depth states the new one."""
    for name in DEPTH:
        if text.get(name) == n:
            text[name] = n_new


def _edit_fields(removal: Removal, sometimes: frozenset[str]) -> None:
    """Fields whose meaning does not depend on the family; and those that it has per layer `sometimes`."""
    text, n, keep, new_index = removal.text, removal.n, removal.keep, removal.new_index
    mtp = mtp_layers(text)
    for name, value in list(text.items()):
        if name in INDEX_LISTS and isinstance(value, list):
            text[name] = _remap(name, value, n, new_index)
        elif name in PER_LAYER and isinstance(value, list | str):
            if isinstance(value, str) and len(value) != n:
                raise PruneError(f"config.json: {name} has {len(value)} characters for {n} layers")
            text[name] = _filter(name, value, n, mtp, keep)
        elif name in sometimes and isinstance(value, list):
            text[name] = [value[i] for i in keep] if len(value) == n else value
        elif isinstance(value, list) and len(value) == n and n > 2 and name not in NOT_PER_LAYER and _varied(value):
            if not follows_depth(text, name, n):
                raise PruneError(f"config.json: {name} has one entry per layer, but its meaning is unknown: refused")
            text[name] = [value[i] for i in keep]
    for name in PREFIX_COUNTS:
        if type(text.get(name)) is int:
            text[name] = sum(old < text[name] for old in keep)
    for name in SUFFIX_COUNTS:
        if type(text.get(name)) is int:
            text[name] = sum(old >= n - text[name] for old in keep)
    if type(text.get("max_window_layers")) is int and text["max_window_layers"] <= n:
        text["max_window_layers"] = sum(old < text["max_window_layers"] for old in keep)
    for name in MTP_COUNTS:
        if text.get(name):
            text[name] = 0
    if isinstance(text.get("per_layer_config"), dict):
        table = {int(k): v for k, v in text["per_layer_config"].items()}
        text["per_layer_config"] = {str(new_index[k]): v for k, v in sorted(table.items()) if k in new_index}


def _filter(name: str, value: Any, n: int, mtp: int, keep: Sequence[int]) -> Any:
    """The entries of a per-layer list (or pattern string) by index; entries of MTP layers go with them."""
    if len(value) not in (n, n + mtp):
        raise PruneError(f"config.json: {name} has {len(value)} entries for {n} layers")
    return "".join(value[i] for i in keep) if isinstance(value, str) else [value[i] for i in keep]


def _remap(name: str, value: list[Any], n: int, new_index: dict[int, int]) -> list[int]:
    """Layer numbers of kept layers, renumbered."""
    if not all(type(i) is int and 0 <= i < n for i in value):
        raise PruneError(f"config.json: {name} names a layer outside 0-{n - 1}")
    return [new_index[i] for i in value if i in new_index]


def _varied(value: list[Any]) -> bool:
    """Whether a list could be per-layer data: scalars of one kind."""
    return all(isinstance(item, str | int | float | bool) for item in value)


def _make_explicit(removal: Removal, per_layer: frozenset[str], before: Lists, resolve: Resolver) -> None:
    """Write out each list that the shallower model would derive differently; refuse if that does not help."""
    text, n, keep = removal.text, removal.n, removal.keep
    wanted = {}
    for name, value in before.items():
        if name in INDEX_LISTS:
            wanted[name] = _remap(name, value, n, removal.new_index)
        elif name in per_layer and len(value) == n:
            wanted[name] = [value[i] for i in keep]
    after = _resolved(text, len(keep), resolve)
    for name, value in wanted.items():
        if name in after and after[name] != value and text.get(name) != value:
            text[name] = value
    after = _resolved(text, len(keep), resolve)
    for name, value in wanted.items():
        if name in per_layer and name in after and after[name] != value:
            raise PruneError(f"config.json: {name}: {removal.kind} cannot express {value} for the kept layers")


def _resolved(text: dict[str, Any], n: int, resolve: Resolver) -> Lists:
    """Derived lists overlaid by the explicit ones."""
    derived = resolve(copy.deepcopy(text), n)
    explicit = {name: text[name] for name in derived if isinstance(text.get(name), list)}
    return derived if resolve is from_class else derived | explicit


def _check_fixed(removal: Removal, fixed: Lists) -> None:
    """Lists that a config class computes and that no field can state must come out as the kept layers' entries."""
    keep, kind, types = removal.keep, removal.kind, removal.types
    after = fixed_lists(removal.text)
    for name, value in fixed.items():
        wanted, found = [value[i] for i in keep], after.get(name)
        matters = family_of(kind).computed.get(name)
        if matters is not None and found is not None and len(types) == len(value):
            wanted, found = (matters(modes, [types[i] for i in keep]) for modes in (wanted, found))
        if found is not None and found != wanted:
            raise PruneError(f"config.json: {name}: {kind} would derive {found} for the kept layers {list(keep)}")


def _keep_whole(removal: Removal) -> None:
    """Layers that others need: one attention layer of a hybrid, which has no cache length without; a first indexer."""
    types, keep = removal.types, removal.keep
    indexers = removal.text.get("indexer_types") or []
    if len(indexers) == removal.n and indexers[keep[0]] == "shared":
        raise PruneError(f"config.json: indexer_types: layer {keep[0]} reads an earlier layer's top-k; keep a full one")
    mixing = [i for i, kind in enumerate(types) if kind not in RECURRENT]
    if mixing and not set(mixing) & set(keep):
        raise PruneError(f"config.json: layer_types: no attention layer would be left; keep one of {mixing}")
