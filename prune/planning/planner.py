"""From measurements, or from scores made on the spot, to a Plan.

Checks the request, hands the criterion's costs to the strategy's search, and takes the first answer that meets the
budget. A criterion that reads the analysis alone never touches the model. Nothing here is written to disk but the
score cache.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from prune.errors import PruneError, UsageError
from prune.planning.budget import Budget, check_depth, check_one_budget, check_protected
from prune.planning.budgeting import budget_of, check_unit, explicit_layers
from prune.planning.context import Context
from prune.planning.plan import Plan
from prune.planning.registry import Step, get_criterion, get_strategy
from prune.planning.search import EXPLICIT, plan_of, search_plans
from prune.planning.sizes import config_depth
from prune.planning.slots import Slots
from prune.planning.tuning import Tuning
from prune.planning.units import Unit, Units

if TYPE_CHECKING:
    from torch import nn

    from prune.analysis.processes import Processes
    from prune.analysis.result import Analysis
    from prune.data.domains import Domain
    from prune.planning.crew import Crew
    from prune.planning.evaluator import Evaluator


class Inputs(TypedDict, total=False):
    """What a plan is made from; each is optional, and fetched only if the criterion needs it.

    Keys:
        analysis: measurements; enough for every criterion that reads them.
        model, load_model: the loaded model, or what loads it; `source` is loaded if neither is given.
        domains, load_domains: calibration documents, or what reads them.
        evaluator: scores subsets; made from model and documents if not given.
        locate: the directory of the checkpoint, where `source` is not one itself.
        score_cache: SQLite file for the scores of an evaluator made here.
        pad_token_id: fills short rows there.
        in_memory: `model` is the caller's own; sizes are taken from it, not from a checkpoint.
        slots: which layers may stand where, see `registry.Problem`.
        crew: processes that score together.
        prediction_share: of each document's predictions that an evaluator made here reads; by the model if None.
    """

    analysis: Analysis | None
    model: nn.Module | None
    load_model: Callable[[], nn.Module] | None
    domains: Mapping[str, Domain] | None
    load_domains: Callable[[], Mapping[str, Domain]] | None
    evaluator: Evaluator | None
    locate: Callable[[], Path] | None
    score_cache: Path | None
    pad_token_id: int
    in_memory: bool
    slots: Slots | None
    crew: Crew | None
    prediction_share: float | None


def make_plan(
    *,
    source: str,
    criterion: str = "dnll",
    strategy: str = "greedy",
    num_layers: int | None = None,
    drop_fraction: float | None = None,
    target_params: int | None = None,
    target_bytes: int | None = None,
    target_speedup: float | None = None,
    target_kv_bytes: int | None = None,
    drop_layers: Sequence[int] | None = None,
    keep_layers: Sequence[int] | None = None,
    protect: Sequence[int] = (),
    domain_weights: Mapping[str, float] | None = None,
    tuning: Tuning | None = None,
    seed: int = 0,
    unit: Unit = "layer",
    decode_context: int = 0,
    **inputs: Unpack[Inputs],
) -> Plan:
    """Choose the layers that go.

    Args:
        source: the model's directory or id, recorded in the plan.
        criterion: name in the registry.
        strategy: name in the registry; where the cost of several layers is by definition the sum of their scores,
            every free search is `one_shot`, and the plan says so.
        num_layers: so many layers remain.
        drop_fraction: this share of the layers goes, rounded to the nearest layer.
        target_params: at most so many parameters remain.
        target_bytes: at most so many bytes of the source's checkpoint remain.
        target_speedup: decoding is at least so many times as fast, as the bytes read per token predict it.
        target_kv_bytes: one more token adds at most so many bytes to the key-value cache.
        drop_layers: exactly these go; criterion and strategy are not used.
        keep_layers: exactly these stay; likewise.
        protect: layers that stay; -1 is the last.
        domain_weights: of the domains; equal if None.
        tuning: widths and limits of the searches; its seed is `seed` if None.
        seed: of random choices.
        unit: what goes: layers, or their attention, their MLP, or either of the two.
        decode_context: tokens in the cache that `target_speedup` counts as read.
        inputs: see `Inputs`.

    Raises:
        UsageError: not exactly one budget, one that cannot be met, unknown names, contradictory lists, or an input
            that the criterion needs is missing.
        PruneError: inputs of different depths, a measurement that was not made, or a non-finite score of every choice.
    """
    given = {
        "num_layers": num_layers,
        "drop_fraction": drop_fraction,
        "target_params": target_params,
        "target_bytes": target_bytes,
        "target_speedup": target_speedup,
        "target_kv_bytes": target_kv_bytes,
        "drop_layers": drop_layers,
        "keep_layers": keep_layers,
    }
    check_one_budget(given)
    check_unit(unit, criterion, strategy)
    context = _context(source, criterion, domain_weights, protect, seed, unit, inputs)
    if drop_layers is not None or keep_layers is not None:
        drop = explicit_layers(drop_layers, keep_layers, check_protected(protect, context.num_layers), context.units)
        return plan_of(dataclasses.replace(context, criterion=EXPLICIT), EXPLICIT, Step(drop, 0.0), {})
    given = {name: value for name, value in given.items() if value is not None}
    budget = budget_of(context, check_protected(protect, context.num_layers), given, decode_context)
    return search_plans(context, criterion, strategy, budget, tuning or Tuning(seed=seed))[0]


def sweep(
    *,
    source: str,
    depths: Sequence[int],
    criterion: str = "dnll",
    strategy: str = "greedy",
    protect: Sequence[int] = (),
    domain_weights: Mapping[str, float] | None = None,
    tuning: Tuning | None = None,
    seed: int = 0,
    **inputs: Unpack[Inputs],
) -> list[Plan]:
    """The frontier: one plan for each depth, from one search (nested for greedy).

    Args:
        depths: numbers of layers that remain, the full depth included if wanted.

    Returns:
        Plans in the order of `depths`; other arguments and errors as in `make_plan`.
    """
    if not depths:
        raise UsageError("--sweep: give at least one number of layers")
    get_criterion(criterion), get_strategy(strategy)
    context = _context(source, criterion, domain_weights, protect, seed, "layer", inputs)
    counts = [check_depth(depth, context.protected, context.num_layers, "--sweep") for depth in depths]
    plans: dict[int, Plan] = {}
    if wanted := tuple(sorted({count for count in counts if count})):
        budget = Budget(wanted, lambda removed: True)
        found = search_plans(context, criterion, strategy, budget, tuning or Tuning(seed=seed), every=True)
        plans = {len(plan.drop): plan for plan in found}
    if 0 in counts:
        plans[0] = plan_of(context, strategy, Step((), 0.0), {}, get_criterion(criterion))
    return [plans[count] for count in counts]


def sweep_together(
    processes: Processes,
    *,
    depths: Sequence[int],
    strategy: str,
    tuning: Tuning,
    score_cache: Path,
    **request: Any,
) -> list[Plan]:
    """`sweep`, with the scoring shared out among processes that all call this; only the first opens the cache.

    Args:
        processes: this one and how many there are.
        depths, strategy, tuning, score_cache, request: as for `sweep`.

    Raises:
        PruneError: what `sweep` raises, in every process.
    """

    from prune.planning.crew import together

    def search(crew: Crew | None) -> list[Plan]:
        return sweep(depths=depths, strategy=strategy, tuning=tuning, score_cache=score_cache, crew=crew, **request)

    return together(processes, search, lambda crew: assist(crew=crew, **request))


def assist(
    *,
    source: str,
    criterion: str = "dnll",
    domain_weights: Mapping[str, float] | None = None,
    protect: Sequence[int] = (),
    seed: int = 0,
    unit: Unit = "layer",
    **inputs: Unpack[Inputs],
) -> object:
    """Score for a search that the first process of a crew makes, with the same arguments; what it found.

    Raises:
        PruneError: the search failed.
    """
    crew = inputs["crew"]
    assert crew is not None

    def make() -> Evaluator:
        return _context(source, criterion, domain_weights, protect, seed, unit, inputs).require_evaluator()

    return crew.assist(make)


def with_scores(plan: Plan, evaluator: Evaluator) -> Plan:
    """A plan with its ΔNLL, per domain and in total with intervals, as the evaluator measures it."""
    if evaluator.num_layers != plan.num_layers:
        raise PruneError(f"the plan is for {plan.num_layers} layers, the model has {evaluator.num_layers}")
    scores = {**plan.scores, "dnll": evaluator.score(plan.keep).describe()}
    return plan.model_copy(update={"scores": scores, "data": plan.data or evaluator.describe_data()})


def _context(
    source: str,
    criterion: str,
    domain_weights: Mapping[str, float] | None,
    protect: Sequence[int],
    seed: int,
    unit: Unit,
    inputs: Inputs,
) -> Context:
    """The request's context.

    Raises:
        PruneError: analysis, model and evaluator are of different depths.
    """
    analysis, model, evaluator = inputs.get("analysis"), inputs.get("model"), inputs.get("evaluator")
    depths = {}
    if analysis is not None:
        depths["the analysis"] = analysis.num_layers
    if evaluator is not None:
        depths["the evaluator's model"] = evaluator.num_layers
    if model is not None:
        from prune.model.anatomy import find_anatomy

        depths["the model"] = find_anatomy(model).num_layers
    depth = next(iter(depths.values())) if depths else config_depth(source)
    units = Units(depth, unit)
    context = Context(
        source,
        depth,
        criterion,
        domain_weights=domain_weights,
        protected=units.of_layers(check_protected(protect, depth)) | units.fixed,
        unit=unit,
        seed=seed,
        **inputs,
    )
    if evaluator is not None and model is None:
        context.model = evaluator.model
    for where, layers in depths.items():
        context.check_depth(layers, where)
    return context
