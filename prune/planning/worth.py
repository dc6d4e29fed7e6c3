"""What a removal gives towards a budget of bytes, parameters or time: cheap is what costs little for what it gives.

Attention and MLP, or layers of several sizes, do not give alike. A search that took the cheapest removal would take
many small ones. Greedy removal by cost over gain is the classical rule (Wolsey 1982, the greedy algorithm for the
submodular set covering problem), a gain never counting for more than is still wanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Worth:
    """A budget as what must go.

    Attributes:
        sizes: what each unit gives, in any unit of size.
        wanted: of it, in all.
    """

    sizes: Sequence[float]
    wanted: float

    def in_all(self, gone: Iterable[int]) -> float:
        """What several give."""
        return sum(self.sizes[unit] for unit in gone)

    def of(self, unit: int, gone: Iterable[int]) -> float:
        """What a unit gives when others are gone; its size where the budget is met."""
        left = self.wanted - self.in_all(gone)
        return min(self.sizes[unit], left) if left > 0 else self.sizes[unit]


def worth_of(sizes: Sequence[float], removable: Iterable[int], wanted: float) -> Worth | None:
    """None where the units that may go give alike, so that their costs alone decide."""
    return Worth(sizes, wanted) if len({sizes[unit] for unit in removable}) > 1 else None


def per_worth(cost: float, worth: float) -> float:
    """Cost for what it gives, lower is better: what costs nothing comes first, what gives nothing last."""
    if worth <= 0:
        return float("inf")
    return cost / worth if cost > 0 else cost
