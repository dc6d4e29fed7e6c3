"""How each runtime reads a config.json: its rules (`runtimes.py`) held against what is true of every layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prune.checkpoint.depth_fields import depth_of, model_kind, text_part
from prune.serving.layers import LayerFacts, RopeFacts, true_layers, true_rope
from prune.serving.rules import Runtime, Status
from prune.serving.runtimes import PARTED, PARTED_READERS, RUNTIMES

NO_WINDOW = "has no sliding window: prompts longer than it differ from transformers, as they do with the original"


@dataclass(frozen=True)
class Reading:
    """How one runtime reads one config.

    Attributes:
        runtime, version: whose source the rule was read from.
        status: `right`, `wrong`, `refused` where it ends with an error of its own, or `unknown` where there is no rule.
        reason: what it gets wrong, naming field and layer; why it refuses; or what stays as it is with the original.
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


def readings(config: dict[str, Any], runtimes: Sequence[str] | None = None) -> list[Reading]:
    """How each runtime reads a config, one line a version.

    Args:
        config: parsed config.json of the checkpoint that would be served.
        runtimes: names in `RUNTIMES`; all if None.

    Raises:
        PruneError: a config that transformers refuses.
    """
    names = RUNTIMES if runtimes is None else runtimes
    return [
        Reading(name, runtime.version, *_read(config, name, runtime)) for name in names for runtime in RUNTIMES[name]
    ]


def _read(config: dict[str, Any], name: str, runtime: Runtime) -> tuple[Status, str]:
    text, n, kind = text_part(config), depth_of(config), model_kind(config)
    if kind == PARTED:
        return PARTED_READERS[name]
    quantised = _quantised(config)
    if (refused := runtime.quantised.get(quantised)) or (
        kind in runtime.refuses and (refused := runtime.refuses[kind](text))
    ):
        return "refused", refused
    if kind not in runtime.families:
        return "unknown", f"no rule for {kind} was read from its source"
    if quantised and quantised not in runtime.quantised and name not in ("vllm", "transformers4"):
        return "unknown", f"weights in {quantised} were not tried"
    blind = kind in runtime.windowless
    problem = (
        _layers_differ(derived(runtime, text, kind, n), true_layers(config), blind)
        or _rope_differs(runtime.rope(config), true_rope(config))
        or _scale_differs(runtime.scale(text, n), text)
    )
    note = NO_WINDOW if blind else runtime.note(config)
    return ("wrong", problem) if problem else ("right", note)


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
