"""Per-layer lists that transformers computes at load when config.json does not state them.

A pure reading of the configuration classes for the families whose rules are known, so that a cut needs neither torch
nor transformers; tests compare every rule with the class itself. For other families `from_class` asks the class.
Assumption: a family in `KNOWN` has no depth-dependent state beyond these lists and the fields in `config_fields`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prune.errors import PruneError

Lists = dict[str, list[Any]]
Resolver = Callable[[dict[str, Any], int], Lists]


def _every(period: int, often: str, rare: str) -> Resolver:
    """`rare` at every period-th layer, `often` elsewhere."""
    return lambda config, n: {"layer_types": [often if (i + 1) % period else rare for i in range(n)]}


def _pattern(field: str, default: int, often: str) -> Resolver:
    """As `_every`, the period being a config field."""
    return lambda config, n: _every(config.get(field) or default, often, "full_attention")(config, n)


def _none(config: dict[str, Any], n: int) -> Lists:
    """Nothing is derived: all layers are alike."""
    return {}


def _window_from(config: dict[str, Any], n: int) -> Lists:
    """Qwen 2 and 3: a sliding window from layer max_window_layers on, if it is switched on at all."""
    start = config.get("max_window_layers", 28)
    sliding = config.get("use_sliding_window", False) and config.get("sliding_window", 4096) is not None
    return {"layer_types": ["sliding_attention" if sliding and i >= start else "full_attention" for i in range(n)]}


def _smollm3(config: dict[str, Any], n: int) -> Lists:
    """Every no_rope_layer_interval-th layer has no rotary position embedding (1 means it has one)."""
    period = config.get("no_rope_layer_interval") or 4
    rope = config.get("no_rope_layers") or [int((i + 1) % period != 0) for i in range(n)]
    window = config.get("use_sliding_window", False) and config.get("sliding_window") is not None
    return {
        "no_rope_layers": rope,
        "layer_types": ["sliding_attention" if window and not has else "full_attention" for has in rope],
    }


ALIKE = (
    "llama mistral mixtral phi phi3 gemma olmo olmo2 olmoe gpt2 gpt_neox gptj granite granitemoe starcoder2 stablelm"
    " falcon opt bloom mpt cohere qwen3_moe nemotron deepseek_v2 deepseek_v3 glm glm4 glm4_moe apertus arcee"
).split()
KNOWN: dict[str, Resolver] = dict.fromkeys(ALIKE, _none) | {
    "qwen2": _window_from,
    "qwen3": _window_from,
    "gemma2": _every(2, "sliding_attention", "full_attention"),
    "gpt_oss": _every(2, "sliding_attention", "full_attention"),
    "olmo3": _every(4, "sliding_attention", "full_attention"),
    "gemma3_text": _pattern("sliding_window_pattern", 6, "sliding_attention"),
    "cohere2": _pattern("sliding_window_pattern", 4, "sliding_attention"),
    "qwen3_next": _pattern("full_attention_interval", 4, "linear_attention"),
    "smollm3": _smollm3,
}


def config_object(config: dict[str, Any]) -> Any:
    """The config of the installed transformers that a config.json (or its text part) describes.

    Raises:
        PruneError: unknown model_type, or the class refuses the values.
    """
    from transformers import CONFIG_MAPPING, PreTrainedConfig

    kind = str(config.get("model_type"))
    if kind not in CONFIG_MAPPING:
        raise PruneError(f"config.json: model_type {kind!r} is unknown to the installed transformers")
    try:
        # what json cannot hold, such as infinity, is tagged on disk
        return CONFIG_MAPPING[kind].from_dict(PreTrainedConfig._decode_special_floats(config))
    except Exception as error:  # strict dataclass validation raises many kinds
        reason = " ".join(str(error).split())[:300]
        raise PruneError(f"config.json: {kind} refuses its values: {reason}") from error


def from_class(config: dict[str, Any], n: int) -> Lists:
    """Every field of the config class that ends up as a list of length n (imports transformers).

    Raises:
        PruneError: unknown model_type, or the class refuses the values.
    """
    values = config_object(config).to_dict()
    return {name: list(v) for name, v in values.items() if isinstance(v, list | tuple) and len(v) == n}


def fixed_lists(config: dict[str, Any]) -> Lists:
    """Per-layer lists that the config class only computes: properties, which no config.json can state.

    Raises:
        PruneError: unknown model_type, or the class refuses the values.
    """
    built = config_object(config)
    names = {name for kind in type(built).__mro__ for name, value in vars(kind).items() if isinstance(value, property)}
    found = {}
    for name in sorted(names - set(built.attribute_map)):
        value = getattr(built, name, None)
        if isinstance(value, list | tuple) and len(value) == built.num_hidden_layers:
            found[name] = list(value)
    return found


def follows_depth(config: dict[str, Any], field: str, n: int) -> bool:
    """Whether a field is per layer by experiment: left to itself, the class makes it one longer for one layer more.

    Lists that a config class does not know, and lists whose length it never derives, do not count.
    """
    lengths = []
    for depth in (n, n + 1):
        bare = {name: value for name, value in config.items() if not (isinstance(value, list) and len(value) == n)}
        bare |= {name: depth for name in config if config[name] == n and "layer" in name}
        try:
            value = config_object(bare).to_dict().get(field)
        except PruneError:
            return False
        lengths.append(len(value) if isinstance(value, list | tuple) else -1)
    return lengths == [n, n + 1]


def resolver_for(model_type: str) -> Resolver:
    """The known rule of a family, or the question to its config class."""
    return KNOWN.get(model_type, from_class)
