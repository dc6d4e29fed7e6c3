"""From a request's own words to a budget in units: layers, or attention and MLP apart.

A number of layers means so many attentions where attention goes; where either may go it means the worth of so many
layers, two sub-layers each. Sizes are measured by sub-layer, since attention and MLP differ.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prune.errors import UsageError
from prune.planning.budget import (
    Budget,
    check_dropped,
    check_kept,
    depth_budget,
    fraction_budget,
    size_budget,
    speed_budget,
)
from prune.planning.context import Context
from prune.planning.registry import criterion_names, get_criterion, get_strategy
from prune.planning.sizes import Sizes, kv_sizes, loaded_sizes, measure_sizes
from prune.planning.units import UNITS, Units

CONTIGUOUS = ("blocks", "contiguous")


def check_unit(unit: str, criterion: str, strategy: str) -> None:
    """Refuse what cannot choose such units.

    Raises:
        UsageError: an unknown unit, a criterion that knows no sub-layers, or a strategy of consecutive layers; or an
            unknown criterion or strategy.
    """
    scored = get_criterion(criterion)
    get_strategy(strategy)
    if unit not in UNITS:
        raise UsageError(f"--unit {unit}: give one of {', '.join(UNITS)}")
    if unit == "layer":
        return
    if not scored.apart:
        able = [name for name in criterion_names() if get_criterion(name).apart]
        raise UsageError(f"--criterion {criterion} is of whole layers; with --unit {unit} use {', '.join(able)}")
    if strategy in CONTIGUOUS:
        raise UsageError(f"--strategy {strategy} takes consecutive whole layers; with --unit {unit} use greedy")


def explicit_layers(
    drop: Sequence[int] | None, keep: Sequence[int] | None, protected: frozenset[int], units: Units
) -> tuple[int, ...]:
    """The units that an explicit list names.

    Args:
        drop: layers that go, or whose attention or MLP goes.
        keep: those that stay, where `drop` is None.
        protected: layers that stay.
        units: what the numbers mean.

    Raises:
        UsageError: as `check_dropped` and `check_kept`; or either of two sub-layers could be meant.
    """
    if units.unit == "sublayer":
        flag = "--drop_layers" if drop is not None else "--keep_layers"
        raise UsageError(
            f"{flag} with --unit sublayer names no part: both parts of a layer are the layer (--unit layer); give "
            "--unit attention or --unit mlp, or lists to `prune cut` (--drop_attn, --drop_mlp)"
        )
    depth = units.num_layers
    if units.apart and len(set(drop if drop is not None else ())) == depth and not protected:
        return units.going(drop or ())  # a model may do without any attention, though not without any layer
    layers = check_dropped(drop, protected, depth) if drop is not None else check_kept(keep or (), protected, depth)
    return units.going(layers)


def budget_of(context: Context, protected: frozenset[int], given: Mapping[str, Any], decode_context: int) -> Budget:
    """The budget that one option states.

    Args:
        context: the request's; its own `protected` are units.
        protected: layers that the user protects.
        given: name of the option -> its value; one of them.
        decode_context: tokens in the cache that are read for every token.

    Raises:
        UsageError: it cannot be met.
    """
    ((name, value),) = given.items()
    units, depth = context.units, context.num_layers
    what = units.words
    if name == "num_layers":
        return _in_units(depth_budget(value, protected, depth), units)
    if name == "drop_fraction":
        return _in_units(fraction_budget(value, protected, depth), units)
    if name == "target_kv_bytes":
        kv = _kv(context)
        if units.unit == "mlp":
            raise UsageError(f"--target_kv_bytes {value}: an MLP holds no cache; use --unit attention, or sublayer")
        # what holds no cache cannot help
        idle = frozenset(unit for unit, size in enumerate(kv.layers) if not size)
        context.protected |= idle
        return size_budget(value, kv, context.protected, "--target_kv_bytes", what)
    if name == "target_speedup":
        read = _sizes(context, "read")
        if decode_context:
            kv = _kv(context)
            both = zip(read.layers, kv.layers, strict=True)
            read = dataclasses.replace(read, layers=tuple(own + decode_context * more for own, more in both))
        return speed_budget(value, read, context.protected, what)
    return size_budget(value, _sizes(context, name.removeprefix("target_")), context.protected, f"--{name}", what)


def _in_units(budget: Budget, units: Units) -> Budget:
    """A budget of layers as one of units."""
    each = 2 if units.unit == "sublayer" else 1
    return dataclasses.replace(budget, removals=tuple(each * count for count in budget.removals))


def _place(context: Context) -> Path:
    return Path(context.source) if context.locate is None else context.locate()


def _sizes(context: Context, unit: str) -> Sizes:
    if context.in_memory:
        return loaded_sizes(context.require_model(), context.units, unit)
    place = _place(context)
    on_disk = place.is_dir() and any(place.glob("*.safetensors"))
    return measure_sizes(str(place), context.units, unit, None if on_disk else context.require_model())


def _kv(context: Context) -> Sizes:
    return kv_sizes(str(_place(context)), context.units, context.require_model() if context.in_memory else None)
