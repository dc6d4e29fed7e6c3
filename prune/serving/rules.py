"""The shape of a rule: what one version of a runtime derives, takes, refuses, and reads otherwise in any model.

A runtime that takes a list from the config reads any cut rightly; one that recomputes a period from the layer's number
reads a cut wrongly, without an error, as soon as the kept layers fall out of step. The functions here make such rules;
`runtimes.py` has the rules of each program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from prune.checkpoint.depth_fields import model_kind, text_part
from prune.serving.layers import LayerFacts, RopeFacts, true_rope

Status = Literal["right", "wrong", "refused", "unknown"]
Derive = Callable[[dict[str, Any], int], list[LayerFacts] | None]
"""(text part of the config, layers) -> what stands at each position; None where the config's own lists are taken."""
Rope = Callable[[dict[str, Any]], dict[str, RopeFacts]]
Refuse = Callable[[dict[str, Any]], str]
"""Text part of the config -> why it ends with an error, as a sentence's end after 'it'; empty where it does not."""


@dataclass(frozen=True)
class Runtime:
    """One program at one version.

    Attributes:
        version: of the source that was read.
        families: model_type -> what it derives for each layer.
        rope: what rotary embeddings it takes from the config.
        scale: the square of the divisor of attention scores that it uses, None where it takes the config's.
        windowless: families whose sliding windows it leaves out, of cut and original alike.
        note: config -> what else it reads otherwise, of cut and original alike; empty where nothing.
        refuses: model_type -> whether and why it ends with an error, as it was seen to.
        quantised: kind of quantised weights -> why they are refused; empty where they are read.
    """

    version: str
    families: Mapping[str, Derive]
    rope: Rope = true_rope
    scale: Callable[[dict[str, Any], int], float | None] = lambda text, n: None
    windowless: frozenset[str] = frozenset()
    note: Callable[[dict[str, Any]], str] = lambda config: ""
    refuses: Mapping[str, Refuse] = field(default_factory=dict)
    quantised: Mapping[str, str] = field(default_factory=dict)


def explicit(text: dict[str, Any], n: int) -> list[LayerFacts] | None:
    """The config's own lists, as transformers reads them: whatever stands there."""
    return None


def alike(text: dict[str, Any], n: int) -> list[LayerFacts]:
    """Every layer the same: full attention, rotary."""
    return [LayerFacts()] * n


def windows_every(period: int | str, default: int = 0) -> Derive:
    """Every period-th layer has full attention, by the layer's number; the period may be a config field."""

    def derive(text: dict[str, Any], n: int) -> list[LayerFacts]:
        step = int(text.get(period) or default) if isinstance(period, str) else period
        return [LayerFacts(windowed=(i + 1) % step != 0) for i in range(n)]

    return derive


def no_rope_every(period: int) -> Derive:
    """Every period-th layer has no rotary embeddings, by the layer's number."""
    return lambda text, n: [LayerFacts(rotary=(i + 1) % period != 0) for i in range(n)]


def all_experts(text: dict[str, Any], n: int) -> list[LayerFacts]:
    """Every layer is taken for a mixture of experts."""
    return [LayerFacts(sparse=True)] * n


def old_rope(
    defaults: Mapping[str, float], local: float = 10_000.0, scalings: Mapping[str, Mapping[str, Any]] | None = None
) -> Rope:
    """`rope_theta`, `rope_local_base_freq` and `rope_scaling` only; `rope_parameters` is not known.

    Args:
        defaults: model_type -> the base where `rope_theta` is absent; 10,000 for the others.
        local: the base of windowed layers of Gemma 3 where `rope_local_base_freq` is absent.
        scalings: model_type -> the scaling where `rope_scaling` is absent; none for the others.
    """

    def rope(config: dict[str, Any]) -> dict[str, RopeFacts]:
        text, kind = text_part(config), model_kind(config)
        theta = float(text.get("rope_theta") or defaults.get(kind, 10_000.0))
        scaling = text.get("rope_scaling") or (scalings or {}).get(kind, {})
        named = {
            k: tuple(v) if isinstance(v, list) else v for k, v in scaling.items() if k not in ("type", "rope_theta")
        }
        if scaling and "rope_type" not in named:
            named["rope_type"] = scaling.get("type")
        if named.get("rope_type") == "default":
            named = {}
        full = RopeFacts(theta, tuple(sorted(named.items())))
        if kind.startswith("gemma3"):
            return {
                "full_attention": full,
                "sliding_attention": RopeFacts(float(text.get("rope_local_base_freq") or local)),
            }
        return {"full_attention": full}

    return rope


def rope_unless_qwen(old: Rope) -> Rope:
    """mlx-lm: Qwen 3 knows `rope_parameters`, the other families do not."""
    return lambda config: true_rope(config) if model_kind(config) == "qwen3" else old(config)


def gemma_scale(depths: Mapping[str, int]) -> Callable[[dict[str, Any], int], float | None]:
    """llama.cpp tells Gemma's 27B by its depth, and scales its attention by width over heads instead of head_dim."""

    def scale(text: dict[str, Any], n: int) -> float | None:
        kind = str(text.get("model_type"))
        if kind not in depths:
            return None
        heads = text.get("num_attention_heads") or 1
        return float(text["hidden_size"] // heads if n == depths[kind] else text.get("head_dim") or 256)

    return scale


def always(reason: str) -> Refuse:
    """Every model of the family is refused."""
    return lambda text: reason


def experts_unnamed(default: int | None = None) -> Refuse:
    """`num_experts` is asked for, which transformers 5 writes as `num_local_experts`.

    Args:
        default: what is taken where it is absent, so that weights of another number are refused; None: nothing is.
    """

    def refuse(text: dict[str, Any]) -> str:
        if "num_experts" in text or (default is not None and text.get("num_local_experts") == default):
            return ""
        return "asks for num_experts, which is not in the config" + (f": it takes {default}" if default else "")

    return refuse


def unless_packed(reason: str) -> Refuse:
    """Only weights in the form of the release, which `quantization_config` names, are taken."""
    return lambda text: "" if text.get("quantization_config") else reason


def yarn_rounded(rounded: bool) -> Callable[[dict[str, Any]], str]:
    """The borders of YaRN's range are whole dimensions always, or never, whatever `truncate` asks (by default to)."""
    done = "rounds" if rounded else "does not round"

    def note(config: dict[str, Any]) -> str:
        for facts in true_rope(config).values():
            scaling = dict(facts.scaling)
            asked = scaling.get("truncate", True) is not False
            if scaling.get("rope_type") == "yarn" and asked != rounded:
                return f"{done} the range of YaRN (truncate is not read): tokens differ, as with the original"
        return ""

    return note


def of_families(said: str, *kinds: str) -> Callable[[dict[str, Any]], str]:
    """A note on every model of these families."""
    return lambda config: said if model_kind(config) in kinds else ""
