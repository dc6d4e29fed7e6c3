"""The measurements by name: one line each. A new one is a file with a `measure(clean, records)` and a line here.

Figures that are no ratio of sums (spectra, quantiles) are made at the end by the file's `derive(parts, draws)`, from
the token samples that its `measure` kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from prune.errors import UsageError, nearest


@dataclass(frozen=True)
class Measure:
    """One name that `measure` takes.

    Attributes:
        module: holds `measure(clean, records)`; measures of one module share their runs of the layers and look at
            `clean.rules.wanted`.
        sublayers: it needs attention's and MLP's contributions.
        parts: it needs them kept for the whole batch.
    """

    module: str
    sublayers: bool = False
    parts: bool = False


MEASURES = {
    "contributions": Measure("prune.analysis.contributions", sublayers=True),
    "angular": Measure("prune.analysis.angular"),
    "lens": Measure("prune.analysis.lens"),
    "width": Measure("prune.analysis.width", sublayers=True),
    "dnll": Measure("prune.analysis.removals"),
    "sublayer_dnll": Measure("prune.analysis.removals", sublayers=True, parts=True),
    "skip": Measure("prune.analysis.removals", sublayers=True, parts=True),
    "local": Measure("prune.analysis.local", sublayers=True, parts=True),
    "future": Measure("prune.analysis.future", sublayers=True, parts=True),
    "swap": Measure("prune.analysis.swap"),
    "erasure": Measure("prune.analysis.erasure"),
    "integrated_gradients": Measure("prune.analysis.gradients"),
}
"""What each one gives is defined in README.md."""

ON_PROMPTS = ("erasure", "integrated_gradients")
"""Measures of documents with a prompt and a completion; the costliest, so in no group but `prompts`."""

TABLES = ("skip", "local", "future")
"""Measures of the effect of one layer on another, with a maximum over tokens."""

GROUPS = {
    "default": ("contributions", "angular", "lens", "width", "dnll"),
    "effects": ("dnll", "sublayer_dnll", "skip", "local", "future", "swap"),
    "paper": ("contributions", "lens", "dnll", "skip", "future"),
    "prompts": ON_PROMPTS,
    "all": tuple(name for name in MEASURES if name not in ON_PROMPTS),
}
"""Names that stand for several measures."""

DEFAULT_MEASURES = ("default",)
"""The group of measures that are cheap: one clean pass, and half a pass a layer for the removals."""

STREAMED = GROUPS["default"]
"""What `stream` offers: all of the clean pass, and leaving out single layers, carried along as L further streams.

The others restart from the middle of the stack many times and would read the weights as often.
"""


def select(names: Sequence[str]) -> dict[str, Measure]:
    """The measures of these names or groups, in the registry's order.

    Raises:
        UsageError: a name is unknown, or there is none.
    """
    valid = [*MEASURES, *GROUPS]
    for name in names:
        if name not in valid:
            raise UsageError(f"measure: unknown measure {nearest(name, valid)}")
    if not names:
        raise UsageError(f"measure is empty; give one or more of {', '.join(valid)}")
    chosen = {single for name in names for single in GROUPS.get(name, (name,))}
    return {name: measure for name, measure in MEASURES.items() if name in chosen}


def modules(chosen: Mapping[str, Measure]) -> list[ModuleType]:
    """The modules of these measures, each once, in order."""
    return [import_module(name) for name in dict.fromkeys(measure.module for measure in chosen.values())]
