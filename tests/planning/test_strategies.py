"""Searches on made-up costs, where the right answer is known by enumeration."""

from __future__ import annotations

import itertools
import random

import pytest

from prune.errors import UsageError
from prune.planning.registry import STRATEGIES, Problem, get_strategy
from prune.planning.tuning import Tuning
from prune.settings import validated

DEPTH = 9


class Costs:
    """Costs of subsets with interactions between layers; counts how often each subset is asked for."""

    def __init__(self, seed: int) -> None:
        generator = random.Random(seed)
        self.alone = [generator.random() for _ in range(DEPTH)]
        self.pair = {pair: generator.uniform(-1, 1) for pair in itertools.combinations(range(DEPTH), 2)}
        self.asked: list[tuple[int, ...]] = []

    def of(self, drop) -> float:
        drop = sorted(drop)
        return sum(self.alone[i] for i in drop) + sum(self.pair[p] for p in itertools.combinations(drop, 2))

    def __call__(self, keeps):
        self.asked += keeps
        return [self.of(set(range(DEPTH)) - set(keep)) for keep in keeps]


def run(name, costs, removals=(3,), protected=(), **tuning):
    problem = Problem(DEPTH, frozenset(protected), tuple(removals), lambda n: costs.alone, costs, Tuning(**tuning))
    steps = {len(step.order): step for step in get_strategy(name).search(problem)}
    return [steps[count] for count in removals]


def best(costs, count, protected=()):
    free = [layer for layer in range(DEPTH) if layer not in protected]
    return min(costs.of(drop) for drop in itertools.combinations(free, count))


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_says_the_true_cost_of_its_answer_and_spares_protected_layers(name):
    for seed in range(5):
        costs = Costs(seed)
        (step,) = run(name, costs, protected=(0, 8))
        assert len(set(step.order)) == 3
        assert not {0, 8} & set(step.order)
        expected = sum(costs.alone[i] for i in step.order) if name == "one_shot" else costs.of(step.order)
        assert step.cost == pytest.approx(expected)


def test_exhaustive_finds_the_optimum_of_every_size():
    costs = Costs(3)
    for step, count in zip(run("exhaustive", costs, removals=(1, 2, 4)), (1, 2, 4), strict=True):
        assert step.cost == pytest.approx(best(costs, count))


def test_exhaustive_refuses_what_it_cannot_finish():
    problem = Problem(64, frozenset(), (16,), lambda n: [0.0] * 64, lambda keeps: [0.0] * len(keeps))
    with pytest.raises(UsageError, match="488,526,937,079,580 ways"):
        next(get_strategy("exhaustive").search(problem))


def test_greedy_takes_the_cheapest_addition_each_time():
    costs, drop, trail = Costs(4), [], []
    for _ in range(4):
        layer = min((i for i in range(DEPTH) if i not in drop), key=lambda i: costs.of([*drop, i]))
        drop.append(layer)
        trail.append(costs.of(drop))
    steps = run("greedy", costs, removals=(1, 2, 3, 4))
    assert list(steps[-1].order) == drop
    assert list(steps[-1].trail) == pytest.approx(trail)
    assert [step.order for step in steps] == [tuple(drop[:n]) for n in (1, 2, 3, 4)]


def test_a_wide_beam_is_exhaustive_and_a_beam_of_one_is_greedy():
    for seed in range(5):
        costs = Costs(seed)
        assert run("beam", costs, beam_width=200)[0].cost == pytest.approx(best(costs, 3))
        assert run("beam", costs, beam_width=1)[0].order == run("greedy", costs)[0].order


def test_contiguous_tries_every_position_the_first_and_the_last_included():
    costs = Costs(5)
    (step,) = run("contiguous", costs)
    drops = [tuple(sorted(set(range(DEPTH)) - set(keep))) for keep in costs.asked]
    assert drops == [tuple(range(start, start + 3)) for start in range(DEPTH - 2)]
    assert step.cost == min(costs.of(drop) for drop in drops)
    with pytest.raises(UsageError, match="no 3 consecutive layers"):
        run("contiguous", costs, protected=(2, 5, 8))


def test_blocks_removes_the_cheapest_run_of_what_remains_then_again():
    costs, drop = Costs(6), []
    for size in (2, 2, 1):
        left = [layer for layer in range(DEPTH) if layer not in drop]
        runs = [left[at : at + size] for at in range(len(left) - size + 1)]
        drop += min(runs, key=lambda block: costs.of([*drop, *block]))
    assert list(run("blocks", costs, removals=(5,), block_size=2)[0].order) == drop
    with pytest.raises(UsageError, match="block_size"):
        run("blocks", costs, protected=(1, 3, 5, 7), block_size=2)


def test_no_single_exchange_improves_what_greedy_swap_found():
    for seed in range(8):
        costs = Costs(seed)
        (step,) = run("greedy_swap", costs)
        kept = [layer for layer in range(DEPTH) if layer not in step.order]
        exchanged = [[*(i for i in step.order if i != back), out] for back in step.order for out in kept]
        assert step.cost <= min(costs.of(drop) for drop in exchanged) + 1e-12
        assert step.cost <= run("greedy", costs)[0].cost


def test_evolution_searches_a_small_space_whole_and_ends_in_a_large_one():
    costs = Costs(7)
    assert run("evolutionary", costs)[0].cost == pytest.approx(best(costs, 3))  # 84 subsets, below the limit
    costs.asked.clear()
    (step,) = run("evolutionary", costs, max_subsets=40)
    assert len(costs.asked) <= 40
    assert len(set(costs.asked)) == len(costs.asked), "a subset was scored twice"
    assert step.cost <= min(costs.of(set(range(DEPTH)) - set(keep)) for keep in costs.asked)


@pytest.mark.parametrize("name", ["evolutionary", "greedy_swap", "beam", "exhaustive"])
def test_a_space_of_one_subset_ends(name):
    costs = Costs(8)
    (step,) = run(name, costs, removals=(2,), protected=(0, 1, 2, 3, 4, 5, 6))
    assert set(step.order) == {7, 8}


def test_evolution_depends_on_its_seed_alone():
    first, again = (run("evolutionary", Costs(9), removals=(4,), max_subsets=50, seed=3)[0] for _ in range(2))
    assert first == again


@pytest.mark.parametrize("name", ["beam_width", "block_size", "max_subsets"])
def test_a_search_told_to_look_at_nothing_is_refused(name):
    with pytest.raises(UsageError, match=f"{name} 0"):
        validated(Tuning, {name: 0})
