"""Where removals do not give alike towards a budget, what counts is cost for what is given, up to what is wanted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from prune.planning.evaluator import Evaluator
from prune.planning.planner import make_plan
from prune.planning.race import Race, Round
from prune.planning.registry import Problem, get_strategy
from prune.planning.sizes import loaded_sizes
from prune.planning.units import Units
from prune.planning.worth import Worth, worth_of
from tests.planning.small import LAYERS, build, domains
from tests.planning.test_race import DEPTH, World

SIZES = (1, 3) * (DEPTH // 2)
"""Attention and MLP by turns."""


def first_that_fits(strategy: str, alone: list[float], worth: Worth) -> tuple[int, ...]:
    problem = Problem(
        len(alone), frozenset(), tuple(range(1, len(alone))), lambda n: alone,
        lambda keeps: [sum(cost for unit, cost in enumerate(alone) if unit not in keep) for keep in keeps], worth=worth,
    )  # fmt: skip
    steps = get_strategy(strategy).search(problem)
    return next(step.order for step in steps if sum(worth.sizes[unit] for unit in step.order) >= worth.wanted)


def test_a_unit_gives_its_size_but_never_more_than_is_wanted():
    worth = Worth((1, 3), 4)
    assert [worth.of(1, ()), worth.of(1, (0,)), worth.of(0, (1,))] == [3, 3, 1]
    assert Worth((1, 3), 3.5).of(1, (0,)) == 2.5
    assert worth.of(1, (0, 1)) == 3, "met: sizes again"
    assert worth_of((1, 3), (1,), 2) is None, "all that may go give alike"


@pytest.mark.parametrize("strategy", ["greedy_full", "one_shot"])
def test_one_that_gives_much_goes_before_many_that_give_little_and_not_where_little_is_wanted(strategy):
    alone = [0.10, 0.10, 0.10, 0.15]
    assert first_that_fits(strategy, alone, Worth((1, 1, 1, 3), 3)) == (3,)
    assert first_that_fits(strategy, alone, Worth((1, 1, 1, 3), 1)) == (2,)
    assert first_that_fits(strategy, alone, Worth((1, 1, 1, 3), 4)) == (3, 2)


@pytest.mark.parametrize("strategy", ["greedy_full", "one_shot"])
def test_a_budget_that_only_the_smallest_may_survive_is_met(strategy):
    sizes = (1, 3, 1, 3)
    assert 0 not in first_that_fits(strategy, [0.9, 0.3, 0.1, 0.2], Worth(sizes, 7))
    assert len(first_that_fits(strategy, [0.1, 0.9, 0.2, 0.3], Worth(sizes, 7))) == 3


def test_what_a_speed_up_wants_may_be_rounded():
    model = build("llama")
    read = loaded_sizes(model, Units(LAYERS, "sublayer"), "read")
    total, smallest = read.of(()), min(read.layers)
    for more in (0.0, 1e-12, -1e-12):
        target = total / (read.rest + smallest) * (1 - more)
        worth = Worth(read.layers, total - total / target)
        problem = Problem(2 * LAYERS, frozenset(), (1,), lambda n: [], lambda keeps: [], worth=worth)
        assert any(problem.may_go(unit, ()) for unit in range(2 * LAYERS))
        last = tuple(unit for unit in range(2 * LAYERS) if unit != read.layers.index(smallest))
        assert problem.may_go(last[-1], last[:-1])


def test_a_race_meets_a_budget_that_only_the_smallest_may_survive():
    world = Uneven(0)
    worth = Worth(SIZES, sum(SIZES) - 1)
    problem = Problem(
        DEPTH, frozenset(), tuple(range(DEPTH - 1, DEPTH)), lambda n: [0.0] * DEPTH,
        lambda keeps: [world.cost(set(range(DEPTH)) - set(keep)) for keep in keeps],
        documents=world.documents, worth=worth,
    )  # fmt: skip
    *_, step = get_strategy("greedy").search(problem)
    assert worth.in_all(step.order) >= worth.wanted


class Uneven(World):
    """Units that cost the more the more they give, in the mean."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.alone *= np.sqrt(SIZES)[:, None]

    def met(self, strategy: str, worth: Worth | None):
        wanted = 9
        problem = Problem(
            DEPTH, frozenset(), tuple(range(3, DEPTH)), lambda n: [0.0] * DEPTH,
            lambda keeps: [self.cost(set(range(DEPTH)) - set(keep)) for keep in keeps],
            documents=self.documents, worth=worth,
        )  # fmt: skip
        steps = get_strategy(strategy).search(problem)
        return next(step.order for step in steps if sum(SIZES[unit] for unit in step.order) >= wanted)


def test_budgets_are_met_for_less_by_scoring_everything_and_by_races():
    worth, plain, given, raced = Worth(SIZES, 9), [], [], []
    for seed in range(20):
        world = Uneven(seed)
        plain.append(world.cost(world.met("greedy_full", None)))
        given.append(world.cost(world.met("greedy_full", worth)))
        raced.append(world.cost(world.met("greedy", worth)))
    assert np.mean(given) < 0.9 * np.mean(plain)
    assert sum(ours > 1.02 * theirs for ours, theirs in zip(given, plain, strict=True)) <= 1
    # Exchanges at the race's end mend what the last removals fit badly, which scoring everything leaves.
    assert np.mean(raced) < 0.98 * np.mean(given)
    assert sum(ours > 1.02 * theirs for ours, theirs in zip(raced, given, strict=True)) <= 2


def test_exchanges_give_no_less_than_is_wanted_and_make_no_plan_dearer():
    worth, better = Worth(SIZES, 9), 0
    for seed in range(12):
        world = Uneven(seed)
        full, greedy, swapped = (
            world.cost(world.met(name, worth)) for name in ("greedy_full", "greedy", "greedy_swap")
        )
        assert swapped <= greedy * (1 + 1e-9)
        better += swapped < full * (1 - 1e-9)
    assert better >= 3


def test_what_costs_nothing_goes_first_and_what_gives_nothing_last():
    costs, worth = [-0.2, -0.15, -0.1, 0.0], Worth((3, 3, 1, 0), 6)
    for strategy in ("greedy_full", "one_shot"):
        assert first_that_fits(strategy, costs, worth) == (0, 1)

    world = World(0)
    world.alone[4] *= 1e-3
    sizes = [0 if unit == 4 else size for unit, size in enumerate(SIZES)]
    problem = Problem(
        DEPTH, frozenset(), tuple(range(3, DEPTH)), lambda n: [0.0] * DEPTH,
        lambda keeps: [world.cost(set(range(DEPTH)) - set(keep)) for keep in keeps],
        documents=world.documents, worth=Worth(sizes, 9),
    )  # fmt: skip
    for strategy in ("greedy", "greedy_full"):
        steps = get_strategy(strategy).search(problem)
        assert 4 not in next(step.order for step in steps if sum(sizes[unit] for unit in step.order) >= 9)


def test_a_race_does_not_miss_the_cheapest_for_what_it_gives_after_a_removal_that_cost_little():
    ground = World(0).ground
    alone = [0.03, 0.40, 0.41, *(0.32 + 0.01 * number for number in range(7))]
    tokens = ground.tokens[0]
    race, gone = Race(ground), [0]

    def sample(candidates, look):
        read = ground.documents(look)[0]
        return [np.zeros(read)], [[alone[layer] * tokens[:read]] for layer in candidates]

    def at(candidates):
        return Round(candidates, sample, lambda layer: 1, lambda *_: 0, 1e9, lambda layer: 3.0 if layer < 3 else 1.0)

    assert race.run(at(list(range(10)))).layer == 0
    assert race.run(at([layer for layer in range(10) if layer not in gone])).layer == 1


def test_orders_that_say_no_costs_are_taken_as_they_are():
    plan = make_plan(
        source="made", model=build("llama"), unit="sublayer", criterion="last_n", strategy="one_shot",
        target_params=round(0.6 * sum(p.numel() for p in build("llama").parameters())),
    )  # fmt: skip
    parts = [f"{part}.{layer}" for layer in reversed(range(LAYERS)) for part in ("mlp", "attention")]
    assert plan.order == parts[: len(plan.order)]


def test_a_race_between_units_that_give_alike_is_as_it_was():
    for seed in range(4):
        world = World(seed)
        problem = Problem(
            DEPTH, frozenset(), tuple(range(1, 5)), lambda n: [0.0] * DEPTH,
            lambda keeps, world=world: [world.cost(set(range(DEPTH)) - set(keep)) for keep in keeps],
            documents=world.documents,
        )  # fmt: skip
        same = dataclasses.replace(problem, worth=Worth((7.0,) * DEPTH, 28.0))
        orders = [list(get_strategy("greedy").search(each))[-1].order for each in (problem, same)]
        assert orders[0] == orders[1]


def test_sublayers_of_a_model_meet_a_speed_for_less_than_by_their_costs_alone():
    model = build("llama")
    units = Units(LAYERS, "sublayer")
    evaluator = Evaluator(model, domains(), unit="sublayer", batch_size=3)
    read = loaded_sizes(model, units, "read")
    plan = make_plan(
        source="made", model=model, evaluator=evaluator, unit="sublayer", strategy="greedy_full", target_speedup=1.3
    )
    gone = [*(2 * layer for layer in plan.drop_attention), *(2 * layer + 1 for layer in plan.drop_mlp)]
    assert read.of(()) >= 1.3 * read.of(gone)
    cost = plan.scores["dnll"]["total"]["value"]

    order: list[int] = []  # the naive reading: cheapest first, whatever it gives, every candidate scored alone
    while read.of(()) < 1.3 * read.of(order):
        left = [unit for unit in range(units.size) if unit not in order]
        keeps = [tuple(unit for unit in left if unit != out) for out in left]
        order.append(min(zip(left, evaluator.score_many(keeps), strict=True), key=lambda pair: pair[1].total)[0])
    (by_cost,) = evaluator.score_many([tuple(unit for unit in range(units.size) if unit not in order)])
    assert cost <= by_cost.total


def test_a_budget_in_bytes_of_layers_that_are_alike_is_searched_as_the_number_of_layers_that_it_comes_to():
    model = build(layers=16)
    sizes = loaded_sizes(model, Units(16), "params")
    plans = [
        make_plan(source="made", model=model, domains=domains(), **budget)
        for budget in ({"num_layers": 12}, {"target_params": sizes.of((0, 1, 2, 3)) + 1})
    ]
    assert plans[0].order == plans[1].order
    assert plans[0].evaluations["plans_checked"] == plans[1].evaluations["plans_checked"]
