"""What each runtime derives for every layer of a config.json, read from its source, and whether that is the truth.

A runtime that takes a list from the config reads any cut rightly; one that recomputes a period from the layer's number
reads a cut wrongly, without an error, as soon as the kept layers fall out of step. Each rule names the version whose
source was read; scripts/runtime_matrix.py compares the answers with what the runtimes do. Assumption: a family that
stands in no rule of a runtime is not known here, which is said, and is no promise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from prune.checkpoint.depth_fields import depth_of, model_kind, text_part
from prune.model.deci import KIND as PARTED
from prune.serving.layers import LayerFacts, RopeFacts, true_layers, true_rope

Status = Literal["right", "wrong", "unknown"]
Derive = Callable[[dict[str, Any], int], list[LayerFacts] | None]
"""(text part of the config, layers) -> what stands at each position; None where the config's own lists are taken."""
Rope = Callable[[dict[str, Any]], dict[str, RopeFacts]]


@dataclass(frozen=True)
class Reading:
    """How one runtime reads one config.

    Attributes:
        runtime, version: whose source the rule was read from.
        status: `right`, `wrong`, or `unknown` where there is no rule for the family.
        reason: what it gets wrong, naming field and layer; or what stays as it is with the original.
    """

    runtime: str
    version: str
    status: Status
    reason: str = ""

    @property
    def name(self) -> str:
        """The program and its version, for people."""
        alone = self.version.startswith(self.runtime)
        return self.version if alone else f"{self.runtime.rstrip('4')} {self.version}"

    def as_dict(self) -> dict[str, str]:
        """JSON-ready."""
        return {"runtime": self.runtime, "version": self.version, "status": self.status, "reason": self.reason}


@dataclass(frozen=True)
class Runtime:
    """One program at one version.

    Attributes:
        version: of the source that was read.
        families: model_type -> what it derives for each layer.
        rope: what rotary embeddings it takes from the config.
        scale: the square of the divisor of attention scores that it uses, None where it takes the config's.
        notes: model_type -> what it reads differently for cut and original alike.
    """

    version: str
    families: Mapping[str, Derive]
    rope: Rope = true_rope
    scale: Callable[[dict[str, Any], int], float | None] = lambda text, n: None
    notes: Mapping[str, str] | None = None


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


PLAIN = ("llama", "mistral", "phi3", "gemma", "olmo", "olmo2", "granite", "starcoder2", "stablelm", "gpt2", "gpt_neox")
"""Families whose layers are all alike, in every runtime here that knows them."""
MODERN = (*PLAIN, "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3_text", "cohere2", "gpt_oss", "olmo3", "smollm3")
"""Families of which a runtime that takes every list from the config was read."""
NO_WINDOW = "no sliding window: prompts longer than it differ from transformers, as they do with the original"
EARLIER = {"gemma3_text": 1_000_000.0, "gpt_oss": 150_000.0, "smollm3": 2_000_000.0}
YARN = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
STANDING = {"gpt_oss": {**YARN, "original_max_position_embeddings": 4096}}
"""What transformers 4.57 has for families whose config class brings a scaling of its own."""

RUNTIMES: dict[str, tuple[Runtime, ...]] = {
    "vllm": (
        # gpt_oss: a window in every layer of even number, whatever layer_types says (found by running it).
        Runtime("0.32.0", dict.fromkeys(MODERN, explicit) | {"gpt_oss": windows_every(2)}),
    ),
    "llama.cpp": (
        Runtime(
            "of llama-cpp-python 0.3.36",
            {
                **dict.fromkeys((*PLAIN, "qwen2", "qwen3"), alike),
                "qwen3_moe": all_experts,
                "gemma2": windows_every(2),
                "gemma3_text": windows_every(6),
                "cohere2": windows_every(4),
                "olmo3": windows_every(4),
                "exaone4": explicit,
                "smollm3": no_rope_every(4),
            },
            scale=gemma_scale({"gemma2": 46, "gemma3_text": 62}),
        ),
    ),
    "mlx": (
        Runtime(
            "mlx-lm 0.32.2",
            {
                **dict.fromkeys((*PLAIN, "gpt_oss", "olmo3", "smollm3"), explicit),
                **dict.fromkeys(("qwen2", "qwen3", "gemma2"), alike),
                "qwen3_moe": explicit,
                "gemma3_text": windows_every("sliding_window_pattern", 6),
                "cohere2": windows_every("sliding_window_pattern", 4),
            },
            rope=rope_unless_qwen(
                old_rope({"gemma3_text": 1e6, "cohere2": 50_000.0, "qwen2": 1e6, "gpt_oss": 150_000.0})
            ),
            notes={"gemma2": NO_WINDOW},
        ),
    ),
    "ctranslate2": (
        Runtime(
            "4.8.5",
            {
                **dict.fromkeys(("llama", "mistral", "gemma", "gpt2", "gpt_neox", "phi3", "qwen2", "qwen3"), alike),
                "gemma2": alike,
                "gemma3_text": explicit,
            },
            notes={"gemma2": NO_WINDOW},
        ),
    ),
    "transformers4": (
        Runtime(
            "4.57.6",
            dict.fromkeys(MODERN, explicit),
            rope=old_rope(EARLIER, scalings=STANDING),
        ),
        Runtime(
            "4.51.3",
            {
                **dict.fromkeys(PLAIN, alike),
                # Windows from max_window_layers on: a count that a cut recounts, so that it stays true.
                **dict.fromkeys(("qwen2", "qwen3"), explicit),
                "qwen3_moe": explicit,
                "gemma2": windows_every(2),
                "gemma3_text": windows_every("sliding_window_pattern", 6),
                "cohere2": windows_every("sliding_window_pattern", 4),
            },
            rope=old_rope(EARLIER),
        ),
    ),
    # Traces transformers' own model, so that it has the layers as they are; Gemma 2 and 3 it refuses.
    "openvino": (
        Runtime("2026.4.1, optimum-intel 2.2.0", dict.fromkeys((*PLAIN, "qwen2", "qwen3", "smollm3"), explicit)),
    ),
    "onnxruntime": (
        Runtime(
            "genai 0.18.0",
            {
                **dict.fromkeys(("llama", "mistral", "phi3", "gemma", "granite", "qwen2", "qwen3"), alike),
                "gemma2": explicit,
                "gpt_oss": windows_every(2),
            },
        ),
    ),
}
"""Name of `--runtime` -> the versions whose source was read, newest first."""


PARTED_READERS: dict[str, tuple[Status, str]] = {
    "mlx": ("right", ""),
    "vllm": ("unknown", "reads it with the original's configuration class, which is custom code"),
    "llama.cpp": ("unknown", "reads such models as GGUF of architecture deci"),
}
"""Who reads models that lack sub-layers; seen by running mlx-lm."""


QUANTISED = {"bitsandbytes": ("transformers4",)}
"""Kind of quantised weights -> who reads them; the other kinds are vLLM's and transformers' own."""


def readings(config: dict[str, Any], runtimes: list[str] | None = None) -> list[Reading]:
    """How each runtime reads a config, one line a version.

    Args:
        config: parsed config.json of the checkpoint that would be served.
        runtimes: names in `RUNTIMES`; all if None.

    Raises:
        PruneError: a config that transformers refuses.
    """
    names = RUNTIMES if runtimes is None else runtimes
    return [_read(config, name, runtime) for name in names for runtime in RUNTIMES[name]]


def _read(config: dict[str, Any], name: str, runtime: Runtime) -> Reading:
    text, n, kind = text_part(config), depth_of(config), model_kind(config)
    if kind == PARTED:
        return Reading(name, runtime.version, *PARTED_READERS.get(name, ("unknown", f"no {PARTED} in its source")))
    if kind not in runtime.families:
        return Reading(name, runtime.version, "unknown", f"no rule for {kind} was read from its source")
    if (quantised := _quantised(config)) and name not in QUANTISED.get(quantised, ("vllm", "transformers4")):
        return Reading(name, runtime.version, "unknown", f"weights in {quantised} are refused by it, or were not tried")
    problem = (
        _layers_differ(derived(runtime, text, kind, n), true_layers(config), kind in (runtime.notes or {}))
        or _rope_differs(runtime.rope(config), true_rope(config))
        or _scale_differs(runtime.scale(text, n), text)
    )
    note = (runtime.notes or {}).get(kind, "")
    return Reading(name, runtime.version, "wrong" if problem else "right", problem or note)


def _quantised(config: dict[str, Any]) -> str:
    """How the weights are quantised, as config.json names it; empty where they are not."""
    found = config.get("quantization_config")
    return str(found.get("quant_method") or "an unnamed way") if isinstance(found, dict) and found else ""


def derived(runtime: Runtime, text: dict[str, Any], kind: str, n: int) -> list[LayerFacts]:
    """What a runtime derives for each of n layers of a family; empty where it takes the config's own lists."""
    return runtime.families[kind](text, n) or []


def same(own: LayerFacts, read: LayerFacts, blind: bool) -> bool:
    """Whether a layer is what a runtime derives; `blind`: windows do not count."""
    return (own.rotary, own.sparse) == (read.rotary, read.sparse) and (blind or own.windowed == read.windowed)


def _layers_differ(read: list[LayerFacts], true: list[LayerFacts], blind: bool) -> str:
    words = {"windowed": "sliding window", "rotary": "rotary embeddings", "sparse": "mixture of experts"}
    for layer, (one, other) in enumerate(zip(read, true, strict=False)):
        for name, what in words.items():
            if getattr(one, name) != getattr(other, name) and not (name == "windowed" and blind):
                got, wanted = ("with" if v else "without" for v in (getattr(one, name), getattr(other, name)))
                return f"takes layer {layer} for one {got} {what}, it is one {wanted}"
    return ""


def _rope_differs(read: dict[str, RopeFacts], true: dict[str, RopeFacts]) -> str:
    for kind, facts in true.items():
        found = read.get(kind, read["full_attention"])
        if found.theta != facts.theta:
            return f"takes rope_theta {found.theta:g} for {kind}, it is {facts.theta:g} (rope_parameters is not read)"
        if dict(found.scaling) != dict(facts.scaling):
            return f"takes rope scaling {dict(found.scaling)} for {kind}, it is {dict(facts.scaling)}"
    return ""


def _scale_differs(read: float | None, text: dict[str, Any]) -> str:
    true = text.get("query_pre_attn_scalar")
    if read is None or true is None or float(true) == read:
        return ""
    return f"scales attention by 1/sqrt({read:g}) at this depth, query_pre_attn_scalar is {true:g}"
