"""Per-layer lists that transformers computes at load when config.json does not state them: the patterns in use.

A pure reading of the configuration classes, so that a cut needs neither torch nor transformers; tests compare every
rule with the class itself.
"""

from __future__ import annotations

from typing import Any

from prune.errors import PruneError
from prune.surgery.families.rule import Lists, Resolver


def alike(config: dict[str, Any], n: int) -> Lists:
    """Nothing is derived: all layers are alike."""
    return {}


def every(period: int, often: str) -> Resolver:
    """`full_attention` at every period-th layer, `often` elsewhere."""
    return lambda config, n: {"layer_types": [often if (i + 1) % period else "full_attention" for i in range(n)]}


def periodic(field: str, default: int, often: str) -> Resolver:
    """As `every`, the period being a config field."""

    def derived(config: dict[str, Any], n: int) -> Lists:
        period = config.get(field) or default
        if type(period) is not int or period < 1:
            raise PruneError(f"config.json: {field} is {str(period)[:40]!r}; it must be an integer of at least 1")
        return every(period, often)(config, n)

    return derived


def window_from(config: dict[str, Any], n: int) -> Lists:
    """Qwen 2 and 3: a sliding window from layer max_window_layers on, if it is switched on at all."""
    start = config.get("max_window_layers", 28)
    sliding = config.get("use_sliding_window", False) and config.get("sliding_window", 4096) is not None
    return {"layer_types": ["sliding_attention" if sliding and i >= start else "full_attention" for i in range(n)]}
