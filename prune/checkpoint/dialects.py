"""One config.json that transformers 4 and 5 read alike: both spellings of what was renamed.

transformers 5 writes `rope_parameters` and `dtype`; 4.x and mlx-lm know `rope_theta`, `rope_local_base_freq`,
`rope_scaling` and `torch_dtype`, and take a default in silence where these are absent. Of Qwen 3's mixtures of experts
they ask for `num_experts`, which is `num_local_experts` now. Keys that are there are never
changed; what only one dialect can say is not written in the other.
"""

from __future__ import annotations

import copy
from typing import Any

from prune.checkpoint.depth_fields import model_kind, text_part


def in_both_dialects(config: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A copy of a config with the older keys added, and the names of those keys.

    Args:
        config: parsed config.json.
    """
    edited = copy.deepcopy(config)
    added = []
    for part in {id(p): p for p in (edited, text_part(edited))}.values():
        for name, value in _older(part, model_kind(edited)).items():
            if name not in part:
                part[name] = value
                added.append(name)
    return edited, sorted(set(added))


def _older(part: dict[str, Any], kind: str) -> dict[str, Any]:
    found: dict[str, Any] = {"torch_dtype": part["dtype"]} if isinstance(part.get("dtype"), str) else {}
    if kind == "qwen3_moe" and "num_local_experts" in part:
        found["num_experts"] = part["num_local_experts"]
    rope = part.get("rope_parameters")
    if not isinstance(rope, dict):
        return found
    by_kind = {k: v for k, v in rope.items() if isinstance(v, dict)}
    if not by_kind:
        return found | _flat(rope)
    if kind.startswith("gemma3") and set(by_kind) == {"full_attention", "sliding_attention"}:
        local = by_kind["sliding_attention"]
        if local.get("rope_type", "default") == "default" and "rope_theta" in local:
            return found | _flat(by_kind["full_attention"]) | {"rope_local_base_freq": local["rope_theta"]}
    if len({repr(sorted(v.items())) for v in by_kind.values()}) == 1:  # all kinds alike: one base says it
        return found | _flat(next(iter(by_kind.values())))
    return found


def _flat(rope: dict[str, Any]) -> dict[str, Any]:
    scaling = {k: v for k, v in rope.items() if k not in ("rope_theta", "partial_rotary_factor")}
    found = {k: rope[k] for k in ("rope_theta", "partial_rotary_factor") if k in rope}
    return found | ({} if scaling.get("rope_type", "default") == "default" else {"rope_scaling": scaling})
