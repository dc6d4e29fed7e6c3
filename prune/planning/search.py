"""From a checked request to plans: the criterion's costs into the strategy's search, its answers into Plans."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from evals.progress import stage
from prune.errors import PruneError, UsageError
from prune.planning.budget import Budget
from prune.planning.context import Context
from prune.planning.plan import Plan
from prune.planning.registry import Criterion, Keep, Problem, Step, get_criterion, get_strategy
from prune.planning.tuning import Tuning

EXPLICIT = "explicit"
IN_STEP = "in_step"


def search_plans(
    context: Context, criterion: str, strategy: str, budget: Budget, tuning: Tuning, *, every: bool = False
) -> list[Plan]:
    """Plans for the first count that fits, or for every count of the budget.

    Raises:
        PruneError: no subset meets the budget, or none has a finite cost.
    """
    scored, chosen = get_criterion(criterion), get_strategy(strategy)
    if context.slots is not None:
        strategy, chosen = IN_STEP, get_strategy(IN_STEP)
    elif scored.subset_costs is None and chosen.free:
        strategy, chosen = "one_shot", get_strategy("one_shot")
    if not every and budget.worth is None and context.slots is None:  # whatever goes, so many are enough
        budget = dataclasses.replace(budget, removals=budget.removals[:1])
    alone: dict[int, float] = {}
    problem = _problem(context, scored, budget, tuning, alone)
    plans = []
    what = "layers" if not context.units.apart else "sub-layers"
    with stage(f"{strategy} search by {criterion}", budget.removals[-1], f"{what} removed") as searching:
        for step in chosen.search(problem):
            searching.at(len(step.order), f"last: {context.units.label(step.order[-1])}" if step.order else None)
            if len(step.order) not in budget.removals or not budget.fits(step.order):
                continue
            if step.estimated is not None:
                step = dataclasses.replace(step, cost=problem.costs([problem.without(step.order)])[0])
            if not math.isfinite(step.cost):
                raise PruneError(f"--criterion {context.criterion}: removing {len(step.order)} of them is never finite")
            plans.append(plan_of(context, strategy, step, alone, scored))
            if not every:
                return plans
    if context.slots is not None:
        depths = [n for n in range(1, context.num_layers) if context.slots(n)]
        raise UsageError(f"--runtime: no cut of that size can be read; depths that can: {_listed(depths)}")
    if not every or len(plans) < len(budget.removals):
        raise PruneError(f"--strategy {strategy} found no subset that meets the budget; use another strategy")
    return plans


def _problem(
    context: Context, criterion: Criterion, budget: Budget, tuning: Tuning, alone: dict[int, float]
) -> Problem:
    """The search problem; what is learnt about single layers on the way is noted in `alone`."""
    depth = context.units.size

    def layer_scores(removals: int) -> list[float]:
        scores = [_ordered(float(score)) for score in criterion.layer_scores(context, removals)]
        if len(scores) != depth:
            raise PruneError(f"--criterion {context.criterion} gives {len(scores)} scores for {depth} units")
        alone.update(enumerate(scores))
        return scores

    def costs(keeps: Sequence[Keep]) -> list[float]:
        if criterion.subset_costs is None:
            count = depth - len(keeps[0])
            scores = layer_scores(count)
            return [sum(score for layer, score in enumerate(scores) if layer not in keep) for keep in keeps]
        values = [_ordered(float(value)) for value in criterion.subset_costs(context, keeps)]
        if len(values) != len(keeps):
            raise PruneError(f"--criterion {context.criterion} gives {len(values)} costs for {len(keeps)} subsets")
        for keep, value in zip(keeps, values, strict=True):
            if len(keep) == depth - 1:
                alone[next(layer for layer in range(depth) if layer not in keep)] = value
        return values

    read = criterion.documents
    sweeps = context.evaluator is not None and context.evaluator.sweeps  # a race asks for few documents at a time
    documents = None if read is None or sweeps else lambda: read(context)
    worth = None if criterion.ranks else budget.worth
    return Problem(
        depth, context.protected, budget.removals, layer_scores, costs, tuning, context.slots, documents, worth
    )  # fmt: skip


def _listed(depths: Sequence[int]) -> str:
    return ", ".join(map(str, depths)) or "none"


def _ordered(value: float) -> float:
    """NaN compares with nothing: it counts as the worst."""
    return math.inf if math.isnan(value) else value


def plan_of(
    context: Context, strategy: str, step: Step, alone: dict[int, float], criterion: Criterion | None = None
) -> Plan:
    """The plan that a search's answer stands for, with everything that is known of it."""
    units = context.units
    keep = [unit for unit in range(units.size) if unit not in step.order]
    scores: dict[str, Any] = {} if strategy == EXPLICIT else {"cost": step.cost}
    if alone:
        figures = [_finite(alone.get(unit)) for unit in range(units.size)]
        scores |= {"attention": figures[::2], "mlp": figures[1::2]} if units.apart else {"layers": figures}
    if step.trail:
        scores["trail"] = list(step.trail)
    if context.domain_weights is not None:
        scores["domain_weights"] = dict(context.domain_weights)
    if criterion is not None and criterion.measured:
        scores["by_domain"] = _measured_by_domain(context, criterion, keep)
    data: dict[str, Any] = {}
    evaluations: dict[str, Any] = {}
    if context.evaluator is not None:
        scores["dnll"] = context.scores([keep])[0].describe()
        data = context.evaluator.describe_data()
        evaluations = _effort(context, step)
    elif context.analysis is not None:
        data = dict(context.analysis.info.get("data") or {})
    elif context.domains:
        data = {name: domain.describe() for name, domain in context.domains.items()}
    return Plan(
        source=context.source,
        num_layers=context.num_layers,
        keep=list(range(context.num_layers)) if units.apart else keep,
        drop=[] if units.apart else sorted(step.order),
        order=[units.label(unit) for unit in step.order],
        criterion=context.criterion,
        strategy=strategy,
        scores=scores,
        data=data,
        seed=context.seed,
        evaluations=evaluations,
        revision=context.analysis.info.get("revision") if context.analysis is not None else None,
        unit=context.unit,
        drop_attention=units.attention(step.order),
        drop_mlp=units.mlp(step.order),
    )


def _effort(context: Context, step: Step) -> dict[str, Any]:
    """What the search took so far: evaluations made, over those of a greedy search that runs every candidate in full.

    That count is the full model and, for every removal, each unit that may still go, on all documents. A layer
    evaluation is one layer over one document, attention or MLP alone its share of the layer's parameters.
    """
    evaluator = context.scoring()
    shares, passes = evaluator.unit_shares, float(context.num_layers)
    for gone in range(len(step.order)):
        left = context.num_layers - sum(shares[unit] for unit in step.order[:gone])
        free = [unit for unit in range(context.units.size) if unit not in context.protected | {*step.order[:gone]}]
        passes += len(free) * left - sum(shares[unit] for unit in free)
    naive = round(evaluator.num_documents * passes)
    work = evaluator.work.describe()
    return {
        **work,
        "naive_layer_evaluations": naive,
        "ratio": work["layer_evaluations"] / naive,
        **(step.estimated or {"documents": [evaluator.num_documents] * len(step.trail)}),
    }


def _measured_by_domain(context: Context, criterion: Criterion, keep: Sequence[int]) -> dict[str, float]:
    """The criterion's cost on each domain alone, from the analysis."""
    costs = {}
    for name in context.measured_domains:
        own = dataclasses.replace(context, domain_weights={name: 1.0})
        if criterion.subset_costs is not None:
            (costs[name],) = criterion.subset_costs(own, [tuple(keep)])
        else:
            scores = criterion.layer_scores(own, context.units.size - len(keep))
            costs[name] = float(sum(score for layer, score in enumerate(scores) if layer not in keep))
    return costs


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
