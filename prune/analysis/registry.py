"""The measurements by name: one line each. A new one is a file with a `measure(clean, records)` and a line here.

Figures that are no ratio of sums (spectra, quantiles) are made at the end by the file's `derive(parts, draws)`, from
the token samples that its `measure` kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from prune.errors import UsageError, nearest

if TYPE_CHECKING:
    import numpy as np

    from prune.analysis.clean_pass import CleanPass
    from prune.analysis.statistics import Records


@dataclass(frozen=True)
class Measure:
    """One name that `--measure` takes.

    Attributes:
        module: holds `measure(clean, records)`.
        help: what it gives, in one line.
        sublayers: it needs attention's and MLP's contributions.
    """

    module: str
    help: str
    sublayers: bool = False

    def load(self) -> Callable[[CleanPass, Records], None]:
        """The function that adds one batch to the records."""
        function: Callable[[CleanPass, Records], None] = import_module(self.module).measure
        return function

    def derive(self, parts: Sequence[Records], draws: Sequence[np.ndarray] | None) -> dict[str, np.ndarray]:
        """Figures from the samples that the records of one or more domains hold; empty for most measures."""
        function = getattr(import_module(self.module), "derive", None)
        return function(parts, draws) if function is not None else {}


MEASURES = {
    "contributions": Measure(
        "prune.analysis.contributions",
        "what attention, MLP and layer add: size, direction, Block Influence, share of the final stream",
        sublayers=True,
    ),
    "angular": Measure("prune.analysis.angular", "angle between the streams at any two depths"),
    "lens": Measure("prune.analysis.lens", "how near the final prediction the stream is at every depth (logit lens)"),
    "width": Measure(
        "prune.analysis.width", "how many directions of the stream are in use at every depth", sublayers=True
    ),
    "dnll": Measure("prune.analysis.effects", "what leaving out each layer does to the predictions"),
}


def select(names: Sequence[str]) -> dict[str, Measure]:
    """The measures of these names, in the registry's order.

    Raises:
        UsageError: a name is unknown, or there is none.
    """
    for name in names:
        if name not in MEASURES:
            raise UsageError(f"--measure: unknown measure {nearest(name, list(MEASURES))}")
    if not names:
        raise UsageError(f"--measure is empty; give one or more of {', '.join(MEASURES)}")
    return {name: measure for name, measure in MEASURES.items() if name in names}
