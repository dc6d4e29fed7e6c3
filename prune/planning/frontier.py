"""The frontier: what each depth costs, from one search; the whole trade between layers and likelihood at a glance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prune.errors import UsageError
from prune.planning.plan import Plan


def depths(num_layers: int, protected: int, budgets: Mapping[str, Any]) -> list[int]:
    """The depths of a sweep, the full one first.

    Args:
        num_layers: L of the source.
        protected: how many layers must stay.
        budgets: by name of the flag; `num_layers` or `drop_fraction` says where the sweep ends, half of the layers if
            neither is given.

    Raises:
        UsageError: another budget, several, or an end that is no depth below L.
    """
    given = [name for name, value in budgets.items() if value is not None]
    if len(given) > 1 or not set(given) <= {"num_layers", "drop_fraction"}:
        flags = ", ".join(f"--{name}" for name in given)
        raise UsageError(f"--sweep ends at --num_layers or --drop_fraction, not at {flags}")
    if budgets.get("num_layers") is not None:
        end = int(budgets["num_layers"])
    else:
        stated = budgets.get("drop_fraction")
        fraction = 0.5 if stated is None else float(stated)
        if not 0 < fraction < 1:
            raise UsageError(f"--drop_fraction {fraction}: give a number above 0 and below 1")
        end = max(1, num_layers - int(fraction * num_layers + 0.5))
        if stated is None:
            end = max(end, protected)
    if not 1 <= end < num_layers:
        raise UsageError(f"--sweep: ends at {end} layers; the model has {num_layers}, so give 1 to {num_layers - 1}")
    return list(range(num_layers, end - 1, -1))


@dataclass(frozen=True)
class Frontier:
    """Plans of one model by one criterion and strategy.

    Attributes:
        plans: deepest first.
    """

    plans: tuple[Plan, ...]

    @classmethod
    def of(cls, plans: Sequence[Plan]) -> Frontier:
        """Sorted by depth."""
        return cls(tuple(sorted(plans, key=lambda plan: -len(plan.keep))))

    def points(self) -> list[dict[str, Any]]:
        """One entry a depth: `num_layers`, `removed`, `drop`, and its `score` with `by_domain`.

        A score is {value, lo, hi}: ΔNLL per token (nats) with 95 % bootstrap intervals over documents where the
        candidates were run on documents; else the criterion's cost, without an interval.
        """
        points = []
        for plan in self.plans:
            measured = plan.scores.get("dnll")
            if measured is not None:
                score, by_domain = measured["total"], measured["by_domain"]
            else:
                score = _bare(plan.scores["cost"])
                by_domain = {name: _bare(value) for name, value in plan.scores.get("by_domain", {}).items()}
            removed = len(plan.drop)
            points.append(
                {
                    "num_layers": len(plan.keep),
                    "removed": removed,
                    "drop": plan.drop,
                    "order": plan.order,
                    "score": score,
                    "by_domain": by_domain,
                }
            )
        return points

    def describe(self) -> dict[str, Any]:
        """JSON-ready."""
        last = self.plans[-1]
        measured = "dnll" in last.scores
        return {
            "source": last.source,
            "num_layers": last.num_layers,
            "criterion": last.criterion,
            "strategy": last.strategy,
            "measured": measured,
            "score": "rise of the NLL, nats per token" if measured else f"cost by {last.criterion}",
            "points": self.points(),
            "evaluations": last.evaluations,
            "data": last.data,
            "seed": last.seed,
        }


def _bare(value: float) -> dict[str, float | None]:
    return {"value": value, "lo": None, "hi": None}
