"""Criteria and strategies by name: what scores a layer, and what chooses among subsets.

A criterion says what removing layers costs (lower goes first); a strategy searches for the cheapest subset of a given
size and knows nothing of models. Built-in ones are one file each, named below; an installed package adds its own with
the entry points `prune.criteria` and `prune.strategies`. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from prune.errors import PruneError, UsageError, nearest
from prune.planning.slots import Slots
from prune.planning.tuning import Tuning
from prune.planning.worth import Worth

if TYPE_CHECKING:
    from prune.planning.context import Context
    from prune.planning.paired import Documents

Keep = tuple[int, ...]

CRITERIA = (
    "angular",
    "answer_accuracy",
    "answer_nll",
    "block_influence",
    "dnll",
    "every_kth",
    "kl",
    "last_n",
    "magnitude",
    "random",
    "relative_contribution",
    "taylor",
)
STRATEGIES = (
    "beam",
    "blocks",
    "contiguous",
    "evolutionary",
    "exhaustive",
    "greedy",
    "greedy_full",
    "greedy_swap",
    "in_step",
    "one_shot",
)


@dataclass(frozen=True)
class Criterion:
    """What removing layers costs.

    Attributes:
        summary: one line, with the source of the formula.
        layer_scores: (context, number of units to go in all) -> the cost of removing each unit alone [L or 2L].
        subset_costs: (context, subsets that stay) -> the cost of each; None where the cost of removing several
            layers is by definition the sum of their layer scores.
        measured: the costs come from the analysis alone, so they can be had for one domain, too.
        documents: `subset_costs` by document, for searches that decide on some of them; None where there are no such
            figures.
        apart: whether it also knows what attention and MLP cost alone.
        ranks: its scores say an order and no costs, so that they are not weighed against what a layer gives.
    """

    summary: str
    layer_scores: Callable[[Context, int], Sequence[float]]
    subset_costs: Callable[[Context, Sequence[Keep]], list[float]] | None = None
    measured: bool = False
    documents: Callable[[Context], Documents] | None = None
    apart: bool = False
    ranks: bool = False


@dataclass
class Problem:
    """What a strategy searches: subsets of `num_layers` layers and their costs.

    Where attention and MLP go apart (`units`), every sub-layer is one of 2L "layers" to a strategy.

    Attributes:
        num_layers: depth L of the source; 2L where attention and MLP go apart.
        protected: layers that must stay.
        removals: numbers of layers to remove that are wanted, ascending.
        layer_scores: number of layers to go in all -> the cost of removing each layer alone [L].
        costs: subsets that stay -> the cost of each, lower is better.
        tuning: widths and limits of the searches.
        slots: number of layers that stay -> for each position the source layers that may stand there, None where no
            cut of that size will do; absent where any layers may go.
        documents: makes the costs by document; None where the criterion has none.
        worth: what each layer gives towards a budget, where they do not give alike.
    """

    num_layers: int
    protected: frozenset[int]
    removals: tuple[int, ...]
    layer_scores: Callable[[int], Sequence[float]]
    costs: Callable[[Sequence[Keep]], Sequence[float]]
    tuning: Tuning = field(default_factory=Tuning)
    slots: Slots | None = None
    documents: Callable[[], Documents] | None = None
    worth: Worth | None = None

    @property
    def full(self) -> Keep:
        """Every layer."""
        return tuple(range(self.num_layers))

    @property
    def removable(self) -> list[int]:
        """Layers that may go, ascending."""
        return [layer for layer in range(self.num_layers) if layer not in self.protected]

    def without(self, removed: Iterable[int]) -> Keep:
        """The layers that stay when some go."""
        gone = frozenset(removed)
        return tuple(layer for layer in range(self.num_layers) if layer not in gone)

    def gives(self, layer: int, gone: Iterable[int]) -> float:
        """What a layer gives towards the budget when others are gone; 1 where all give alike."""
        return 1.0 if self.worth is None else self.worth.of(layer, gone)

    def may_go(self, layer: int, gone: Keep) -> bool:
        """Whether the budget stays within reach: where one must stay at the end, there is still one small enough."""
        if self.worth is None or self.protected:
            return True
        small = self.worth.in_all(self.removable) - self.worth.wanted * (1 - 1e-9)  # what is wanted was rounded
        return any(self.worth.sizes[x] <= small for x in self.removable if x != layer and x not in gone)

    def gives_enough(self, gone: Iterable[int], before: Iterable[int]) -> bool:
        """Whether some removals give what is wanted, or at least what others did."""
        return self.worth is None or self.worth.in_all(gone) >= min(self.worth.wanted, self.worth.in_all(before))

    def exchanged(self, order: Keep, back: int, out: int) -> Keep | None:
        """The removals when one comes back and another layer goes, which then stands last.

        Where they give more than is wanted, the largest of the others that are not needed come back, too; None where
        they give too little.
        """
        rest = tuple(layer for layer in order if layer != back)
        if not self.gives_enough((*rest, out), order):
            return None
        if self.worth is not None:
            for layer in sorted(rest, key=self.worth.sizes.__getitem__, reverse=True):
                fewer = tuple(other for other in rest if other != layer)
                rest = fewer if self.gives_enough((*fewer, out), order) else rest
        return (*rest, out)

    def naive_round(self, removed: int) -> int:
        """Layers that one document takes when every removal after `removed` is scored with a pass of its own."""
        return (len(self.removable) - removed) * (self.num_layers - removed - 1)


@dataclass(frozen=True)
class Step:
    """A strategy's answer for one number of removed layers.

    Attributes:
        order: the removed layers, first chosen first.
        cost: of the subset, as the criterion counts it.
        trail: the cost after each removal of `order`, where the strategy went through these subsets.
        estimated: where the costs are estimates from some of the documents, what a plan should say of that.
    """

    order: Keep
    cost: float
    trail: tuple[float, ...] = ()
    estimated: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Strategy:
    """A search for the cheapest subset.

    Attributes:
        summary: one line, with its source.
        search: yields a `Step` for at least each of `problem.removals`, in ascending order; it is not resumed once
            the caller has enough.
        free: whether it chooses among all subsets; where costs are sums of layer scores such a search gives what
            `one_shot` gives, and the planner takes that.
    """

    summary: str
    search: Callable[[Problem], Iterator[Step]]
    free: bool = field(default=True)


def criterion_names() -> list[str]:
    """Every criterion at hand."""
    return sorted({*CRITERIA, *(entry.name for entry in entry_points(group="prune.criteria"))})


def strategy_names() -> list[str]:
    """Every strategy at hand."""
    return sorted({*STRATEGIES, *(entry.name for entry in entry_points(group="prune.strategies"))})


def get_criterion(name: str) -> Criterion:
    """A criterion by name.

    Raises:
        UsageError: no such criterion; names the nearest.
        PruneError: an installed one cannot be loaded.
    """
    if name in CRITERIA:
        return importlib.import_module(f"prune.planning.criteria.{name}").CRITERION
    return _installed("prune.criteria", name, Criterion, "--criterion", criterion_names())


def get_strategy(name: str) -> Strategy:
    """A strategy by name.

    Raises:
        UsageError: no such strategy; names the nearest.
        PruneError: an installed one cannot be loaded.
    """
    if name in STRATEGIES:
        return importlib.import_module(f"prune.planning.strategies.{name}").STRATEGY
    return _installed("prune.strategies", name, Strategy, "--strategy", strategy_names())


def _installed(group: str, name: str, kind: type, flag: str, valid: list[str]) -> Any:
    for entry in entry_points(group=group, name=name):
        try:
            value = entry.load()
        except Exception as error:
            raise PruneError(f"{flag} {name}: entry point {entry.value!r} cannot be loaded ({error})") from error
        if not isinstance(value, kind):
            raise PruneError(f"{flag} {name}: entry point {entry.value!r} is no {kind.__name__}")
        return value
    raise UsageError(f"{flag}: unknown {flag[2:]} {nearest(name, valid)}")
