"""Races decide on as few documents as it takes: what they choose, what they say of it, and what they cost."""

from __future__ import annotations

import re

import numpy as np
import pytest

from evals.progress import line
from prune.planning.evaluator import Evaluator
from prune.planning.exchange import Ending, check
from prune.planning.paired import CONFIDENCE, Documents, Ground, difference, nested_shares
from prune.planning.planner import make_plan, sweep
from prune.planning.prefix import prefixes
from prune.planning.race import HEAD, Race, Round, Seen
from prune.planning.registry import Problem, get_strategy
from prune.planning.tuning import Tuning
from tests.planning.small import LAYERS, build, domains

DEPTH, DOCUMENTS = 16, 128
SEEDS = range(6, 10)  # worlds of which some leave an exchange to be made


class World:
    """Made-up documents: a layer's cost on a document, with interactions, and the document's own difficulty."""

    def __init__(self, seed: int, noise: float = 0.02, depth: int = DEPTH) -> None:
        draw, self.depth = np.random.default_rng(seed), depth
        self.tokens = draw.integers(20, 60, DOCUMENTS).astype(float)  # [documents]
        hard = draw.lognormal(0, 0.5, DOCUMENTS)  # [documents]: shared by all layers, so it cancels in pairs
        alone = draw.lognormal(-2, 0.6, depth)  # [L]
        self.alone = self.tokens * hard * (alone[:, None] + noise * draw.standard_normal((depth, DOCUMENTS)))
        self.pair = 0.02 * np.abs(draw.standard_normal((depth, depth)))[:, :, None] * self.tokens * hard
        self.ground = Ground([self.tokens], [1.0], [nested_shares(DOCUMENTS)])

    def of(self, drop) -> np.ndarray:
        """[documents]"""
        drop = sorted(drop)
        pairs = [self.pair[a, b] for i, a in enumerate(drop) for b in drop[i + 1 :]]
        return sum((self.alone[layer] for layer in drop), np.zeros(DOCUMENTS)) + sum(pairs, np.zeros(DOCUMENTS))

    def cost(self, drop) -> float:
        return self.of(drop).sum() / self.tokens.sum()

    def scores(self, keeps, look):
        return [[self.of(set(range(self.depth)) - set(keep))[: self.ground.documents(look)[0]]] for keep in keeps]

    def documents(self) -> Documents:
        return Documents(self.ground, self.scores)

    def search(self, strategy: str, **tuning):
        problem = Problem(
            self.depth, frozenset(), (self.depth // 4,), lambda n: [0.0] * self.depth,
            lambda keeps: [self.cost(set(range(self.depth)) - set(keep)) for keep in keeps], Tuning(**tuning),
            documents=self.documents,
        )  # fmt: skip
        return list(get_strategy(strategy).search(problem))[-1]


def test_shares_grow_and_end_with_all_documents():
    assert nested_shares(96) == [8, 12, 18, 24, 32, 48, 64, 80, 96]
    assert nested_shares(9) == [2, 3, 5, 6, 8, 9]
    assert nested_shares(3) == [2, 3]


@pytest.mark.parametrize("earlier", [0, 96], ids=["alone", "with an earlier round"])
def test_the_error_of_a_difference_is_that_of_repeated_draws(earlier):
    """Ratio estimator, without replacement: its standard error against the spread of 3,000 draws."""
    world, random = World(0, noise=0.2), np.random.default_rng(1)
    one, other = world.alone[3], world.alone[5]
    later = [one + 0.02 * random.standard_normal(DOCUMENTS) * world.tokens, other]  # strongly correlated
    size, values, errors = 32, [], []
    for _ in range(3000):
        order = random.permutation(DOCUMENTS)
        ground = Ground([world.tokens[order]], [1.0], world.ground.shares)
        before = ([one[order][:earlier]], [other[order][:earlier]]) if earlier else None
        found = difference(ground, [later[0][order][:size]], [later[1][order][:size]], before)
        values.append(found.value)
        errors.append(found.error)
    truth = (later[0] - later[1]).sum() / world.tokens.sum()
    assert np.mean(values) == pytest.approx(truth, abs=0.1 * np.std(values))
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values), rel=0.1)
    assert difference(world.ground, [later[0]], [later[1]]).error == 0


def test_an_earlier_round_on_more_documents_sharpens_a_difference_and_an_infinite_cost_settles_it():
    world = World(0, noise=0.2)
    one, other = world.alone[3], world.alone[5]
    few = [one[:16] * 1.1], [other[:16] * 1.1]
    assert difference(world.ground, *few, ([one], [other])).error < 0.2 * difference(world.ground, *few).error
    broken = [np.where(np.arange(16) == 3, np.inf, one[:16])]
    assert difference(world.ground, broken, few[1]).value == np.inf
    assert difference(world.ground, few[0], broken).value == -np.inf


def test_races_lose_little_for_a_tenth_of_the_work():
    """Over thirty worlds, what the raced plan costs above the one that scores everything."""
    regrets, promised = [], 0
    for seed in range(30):
        world = World(seed)
        full, raced = world.search("greedy_full"), world.search("greedy")
        regrets.append(world.cost(raced.order) / world.cost(full.order) - 1)
        promised += world.cost(raced.order) - world.cost(full.order) <= sum(raced.estimated["regret"])
    assert np.mean(regrets) < 0.002
    assert sum(regret > 0.01 for regret in regrets) <= 1
    assert promised >= 30 * CONFIDENCE, "the regret that plans state is too small"


def test_layers_chosen_from_a_few_documents_alone_are_worse():
    """What the purse buys: without it, the first look decides every round."""
    regrets = {effort: [] for effort in (0.001, 0.115, 1.0)}
    for seed in range(12):
        world = World(seed, noise=0.2)
        full = world.cost(world.search("greedy_full").order)
        for effort, found in regrets.items():
            found.append(world.cost(world.search("greedy", search_effort=effort).order) / full - 1)
    assert np.mean(regrets[0.115]) >= np.mean(regrets[1.0])
    assert np.mean(regrets[1.0]) == pytest.approx(0, abs=1e-3)


def test_exchanges_judged_on_all_documents_make_no_plan_dearer_and_some_cheaper(monkeypatch):
    """The same worlds with and without them; what they report is the subset's own cost."""
    with_, without = [], []
    for seed in SEEDS:
        world = World(seed, noise=0.3)
        found = world.search("greedy")
        assert found.cost == pytest.approx(world.cost(found.order))
        with_.append(found)
    monkeypatch.setattr("prune.planning.strategies.greedy.Search.exchange", lambda self: None)
    for seed in SEEDS:
        without.append(World(seed, noise=0.3).search("greedy"))
    gains = []
    for seed, one, other in zip(SEEDS, with_, without, strict=True):
        world = World(seed, noise=0.3)
        gains.append(world.cost(other.order) - world.cost(one.order))
        assert bool(one.estimated["exchanges"]) == (set(one.order) != set(other.order))
        assert one.trail == (() if one.estimated["exchanges"] else other.trail)
    assert min(gains) >= 0
    assert max(gains) > 0


def test_a_purse_that_is_spent_buys_no_exchange():
    world = World(0, noise=0.3)
    order, seen = (1, 2), {layer: Seen([world.alone[layer]], 0.0, 0.0) for layer in range(DEPTH)}
    asked = []

    def costs(keeps):
        asked.extend(keeps)
        return [world.cost(set(range(DEPTH)) - set(keep)) for keep in keeps]

    problem = Problem(DEPTH, frozenset({0}), (2,), lambda n: [], costs)
    poor = check(problem, world.documents(), order, [seen], 0.0)
    assert (poor.order, poor.tried, len(asked)) == (order, 0, 1)
    rich = check(problem, world.documents(), order, [seen], 1e9)
    best = min(world.cost((a, b)) for a in range(1, DEPTH) for b in range(1, a))
    assert rich.cost == pytest.approx(best)
    assert 0 not in rich.order


def test_a_first_look_finds_exchanges_of_which_the_rounds_knew_nothing(monkeypatch):
    """Layers chosen by what each costs alone, in worlds where most of the cost lies between them."""
    order = tuple(range(0, 32, 4))
    asked = []

    def ended(world):
        def scores(keeps, look):
            asked.append(len(keeps))
            return world.scores(keeps, look)

        world.pair = 20 * world.pair
        seen = {layer: Seen([world.alone[layer]], 0.0, 0.0) for layer in range(32)}
        problem = Problem(
            32,
            frozenset(),
            (8,),
            lambda n: [],
            lambda keeps: [world.cost(set(range(32)) - set(keep)) for keep in keeps],
        )
        purse = 20 * 16 * DOCUMENTS  # some twenty plans
        found = check(problem, Documents(world.ground, scores), order, [seen], purse)
        assert found.cost == pytest.approx(world.cost(found.order))
        assert found.cost <= world.cost(order)
        return found.cost, world.cost(order)

    with_, first = zip(*(ended(World(seed, depth=32)) for seed in range(8)), strict=True)
    assert asked
    monkeypatch.setattr("prune.planning.exchange.MANY", np.inf)
    looks = len(asked)
    without, _ = zip(*(ended(World(seed, depth=32)) for seed in range(8)), strict=True)
    assert len(asked) == looks
    assert np.mean(with_) < np.mean(without) < np.mean(first)
    assert sum(np.less(with_, without)) >= 6


def test_plans_of_one_call_take_as_many_layers_as_they_are_priced():
    """Against the layers that the model ran, prefixes shared, for a made-up order in which exchanges are asked for."""
    evaluator = Evaluator(build(layers=16), domains(), batch_size=64)
    problem = Problem(16, frozenset(), (3,), lambda n: [], lambda keeps: [s.total for s in evaluator.score_many(keeps)])
    evaluator.clean_nll()
    ground = Ground(evaluator.tokens_in_order(), [0.5, 0.5], list(evaluator.shares.values()))
    ending = Ending(problem, Documents(ground, lambda keeps, look: []), [], (4, 9, 12), 0.0)
    plans = [(4, 9, 12), (4, 9, 13), (4, 9, 14), (9, 12, 3), (9, 12, 15), (4, 12, 2)]
    keeps = [problem.full, *map(problem.without, plans)]
    beside = [set().union(*map(prefixes, keeps[: at + 1])) for at in range(len(plans))]
    priced = sum(ending.takes(plan, known) - HEAD for plan, known in zip(plans, beside, strict=True))
    before = evaluator.work.layers
    problem.costs(keeps[1:])
    assert evaluator.work.layers - before == evaluator.num_documents * priced
    assert priced < sum(ending.takes(plan, beside[0]) - HEAD for plan in plans)


def test_progress_names_candidates_left_and_documents(monkeypatch):
    said, world = [], World(3, noise=0.2)
    real = world.scores
    world.scores = lambda keeps, look: (said.append(line()), real(keeps, look))[1]
    world.search("greedy")
    told = [words for words in said if "candidates left" in words]
    assert told
    assert all("race: " in words and "layer evaluations" in words for words in said)
    assert any(re.search(r"ahead on \d+ of 128 documents; .* elapsed, about .* left", words) for words in told)


def test_a_clear_leader_wins_on_the_first_look_and_close_ones_are_read_far():
    world = World(3, noise=0.0)
    clear = np.arange(1, DEPTH + 1)[:, None] * world.tokens
    tied = np.ones(DEPTH)[:, None] * world.tokens
    close = tied + 10 * np.random.default_rng(4).standard_normal((DEPTH, DOCUMENTS))

    def raced(costs):
        def sample(candidates, look):
            (size,) = world.ground.documents(look)
            return [np.zeros(size)], [[costs[layer][:size]] for layer in candidates]

        return Race(world.ground).run(Round(range(DEPTH), sample, lambda layer: 1, lambda domain, level: 0, 1e9))

    assert (raced(clear).layer, raced(clear).look, raced(clear).regret) == (0, (0,), 0)
    assert raced(tied).layer == DEPTH - 1  # of equal ones the deepest
    assert raced(close).look > (len(world.ground.shares[0]) // 2,)


def test_a_late_layer_is_still_scored_where_those_that_were_cheap_took_half_of_the_purse_and_became_dear():
    """Of clones those whose likes went become dear; the last layer, which costs nothing to score, did not."""
    world = World(3, noise=0.0)
    costs = np.linspace(1, 2, DEPTH)[:, None] * world.tokens

    def sample(candidates, look):
        (size,) = world.ground.documents(look)
        return [np.zeros(size)], [[costs[layer][:size]] for layer in candidates]

    def behind(layer):
        return DEPTH - 1 - layer

    race = Race(world.ground)
    first = race.run(Round(range(DEPTH), sample, behind, lambda domain, level: 0, 1e9))
    assert first.layer == 0
    costs[: DEPTH - 1] *= 5
    least = sum(behind(layer) for layer in range(1, 6)) * world.ground.documents(world.ground.first)[0]
    second = race.run(Round(range(1, DEPTH), sample, behind, lambda domain, level: 0, 1.5 * least))
    assert second.layer == DEPTH - 1
    assert second.scored < DEPTH - 1


def test_a_search_on_a_model_is_repeatable_nests_and_says_what_it_read():
    model = build(layers=16)
    first, again = (make_plan(source="made", model=model, domains=domains(), drop_fraction=0.25) for _ in range(2))
    assert first == again
    used = first.evaluations
    assert used["confidence"] == CONFIDENCE
    assert [len(used[name]) for name in ("documents", "candidates", "regret")] == [4, 4, 4]
    assert max(used["documents"]) <= 7
    # The plan's own figure is of all documents, whatever decided.
    assert first.scores["cost"] == Evaluator(model, domains()).score(first.keep).total
    nested = sweep(source="made", model=model, domains=domains(), depths=[15, 14, 12])
    orders = [plan.order for plan in nested]
    assert orders[0] == orders[2][:1]
    assert orders[1] == orders[2][:2]
    assert first.scores["cost"] <= nested[2].scores["cost"]  # one depth alone is worth exchanges


def test_a_killed_race_goes_on_to_the_same_plan(tmp_path):
    path, model, calls = tmp_path / "scores.sqlite", build(), 0
    whole = make_plan(source="made", evaluator=Evaluator(model, domains(), batch_size=1), num_layers=LAYERS - 2)

    def interrupt(*_):
        nonlocal calls
        calls += 1
        if calls == 20:
            raise KeyboardInterrupt

    hook = model.model.layers[7].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_plan(source="made", evaluator=Evaluator(model, domains(), cache=path, batch_size=1), num_layers=LAYERS - 2)
    hook.remove()
    resumed = make_plan(
        source="made", evaluator=Evaluator(model, domains(), cache=path, batch_size=1), num_layers=LAYERS - 2
    )
    assert resumed.model_dump(exclude={"evaluations"}) == whole.model_dump(exclude={"evaluations"})
    assert 0 < resumed.evaluations["layer_evaluations"] < whole.evaluations["layer_evaluations"]
