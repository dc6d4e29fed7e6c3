"""What is true of each layer of a config.json beyond its weights: the facts that another runtime may derive wrongly.

The truth is transformers 5's own reading. Assumption: whatever is not here (widths, heads, norms, activations) is the
same in every layer or stands in the weights, so that leaving layers out cannot change how it is read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from prune.checkpoint.depth_fields import depth_of, model_kind, text_part
from prune.surgery.derived import resolver_for

WINDOWED = frozenset(("sliding_attention", "chunked_attention"))
ROPE_DEFAULT = 10_000.0


@dataclass(frozen=True)
class LayerFacts:
    """One layer.

    Attributes:
        windowed: its attention sees a window only.
        rotary: it has rotary position embeddings.
        sparse: its MLP is a mixture of experts.
    """

    windowed: bool = False
    rotary: bool = True
    sparse: bool = False


@dataclass(frozen=True)
class RopeFacts:
    """Rotary embeddings of a kind of layer: base, and the scaling's own keys."""

    theta: float
    scaling: tuple[tuple[str, Any], ...] = ()


def true_layers(config: dict[str, Any]) -> list[LayerFacts]:
    """What transformers 5 builds, layer by layer.

    Raises:
        PruneError: a config that transformers refuses.
    """
    text, n, kind = text_part(config), depth_of(config), model_kind(config)
    lists = resolver_for(kind)(dict(text), n)
    types = text.get("layer_types") or lists.get("layer_types") or ["full_attention"] * n
    rotary = text.get("no_rope_layers") or lists.get("no_rope_layers") or [1] * n
    return [LayerFacts(types[i] in WINDOWED, bool(rotary[i]), is_sparse(text, i)) for i in range(n)]


def is_sparse(text: dict[str, Any], layer: int) -> bool:
    """Qwen's rule for a mixture of experts; False where the config has no such fields."""
    if "mlp_only_layers" not in text and "decoder_sparse_step" not in text:
        return False
    step = text.get("decoder_sparse_step") or 1
    return layer not in (text.get("mlp_only_layers") or []) and (layer + 1) % step == 0


def true_rope(config: dict[str, Any]) -> dict[str, RopeFacts]:
    """Kind of layer (`full_attention`, `sliding_attention`) -> its rotary embeddings; the first alone where all agree.

    Empty where `rope_parameters` is not there: the older keys alone are read alike by all.
    """
    found = text_part(config).get("rope_parameters")
    if not isinstance(found, dict) or not found:
        return {}
    kinds = {k: v for k, v in found.items() if isinstance(v, dict) and k.endswith("attention")}
    return {kind: _rope(values) for kind, values in (kinds or {"full_attention": found}).items()}


def _rope(values: dict[str, Any]) -> RopeFacts:
    kind = values.get("rope_type", values.get("type", "default"))
    scaling = {k: _plain(v) for k, v in values.items() if k not in ("rope_theta", "rope_type", "type")}
    named = {"rope_type": kind, **scaling} if kind != "default" else {}
    return RopeFacts(float(values.get("rope_theta") or ROPE_DEFAULT), tuple(sorted(named.items())))


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
