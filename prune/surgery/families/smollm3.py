"""SmolLM 3: every so many layers go without rotary positions, and the window follows from that."""

from __future__ import annotations

from typing import Any

from prune.surgery.families.rule import Family, Lists


def _derived(config: dict[str, Any], n: int) -> Lists:
    """Every no_rope_layer_interval-th layer has no rotary position embedding (1 means it has one)."""
    period = config.get("no_rope_layer_interval") or 4
    rope = config.get("no_rope_layers") or [int((i + 1) % period != 0) for i in range(n)]
    window = config.get("use_sliding_window", False) and config.get("sliding_window") is not None
    return {
        "no_rope_layers": rope,
        "layer_types": ["sliding_attention" if window and not has else "full_attention" for has in rope],
    }


FAMILY = Family(derives=_derived)
