"""Races decide on as few documents as it takes: what they choose, what they say of it, and what they cost."""

from __future__ import annotations

import numpy as np
import pytest

from prune.planning.evaluator import Evaluator
from prune.planning.planner import make_plan, sweep
from prune.planning.race import CONFIDENCE, Documents, Ground, Race, Round, estimate, nested_shares
from prune.planning.registry import Problem, get_strategy
from prune.planning.tuning import Tuning
from tests.planning.small import LAYERS, build, domains

DEPTH, DOCUMENTS = 16, 128


class World:
    """Made-up documents: a layer's cost on a document, with interactions, and the document's own difficulty."""

    def __init__(self, seed: int, noise: float = 0.02) -> None:
        draw = np.random.default_rng(seed)
        self.tokens = draw.integers(20, 60, DOCUMENTS).astype(float)  # [documents]
        hard = draw.lognormal(0, 0.5, DOCUMENTS)  # [documents]: shared by all layers, so it cancels in pairs
        alone = draw.lognormal(-2, 0.6, DEPTH)  # [L]
        self.alone = self.tokens * hard * (alone[:, None] + noise * draw.standard_normal((DEPTH, DOCUMENTS)))
        self.pair = 0.02 * np.abs(draw.standard_normal((DEPTH, DEPTH)))[:, :, None] * self.tokens * hard
        self.ground = Ground([self.tokens], [1.0], [nested_shares(DOCUMENTS)])
        self.evaluations = 0.0  # one layer over one document, a candidate's prefix free

    def of(self, drop) -> np.ndarray:
        """[documents]"""
        drop = sorted(drop)
        pairs = [self.pair[a, b] for i, a in enumerate(drop) for b in drop[i + 1 :]]
        return sum((self.alone[layer] for layer in drop), np.zeros(DOCUMENTS)) + sum(pairs, np.zeros(DOCUMENTS))

    def cost(self, drop) -> float:
        return self.of(drop).sum() / self.tokens.sum()

    def scores(self, keeps, look):
        return [[self.of(set(range(DEPTH)) - set(keep))[: self.ground.documents(look)[0]]] for keep in keeps]

    def search(self, strategy: str, **tuning):
        problem = Problem(
            DEPTH, frozenset(), (4,), lambda n: [0.0] * DEPTH,
            lambda keeps: [self.cost(set(range(DEPTH)) - set(keep)) for keep in keeps], Tuning(**tuning),
            documents=lambda: Documents(self.ground, self.scores),
        )  # fmt: skip
        return list(get_strategy(strategy).search(problem))[-1]


def test_shares_double_and_end_with_all_documents():
    assert nested_shares(96) == [12, 24, 48, 96]
    assert nested_shares(9) == [2, 3, 5, 9]
    assert nested_shares(3) == [2, 3]


def test_the_error_of_an_estimate_is_that_of_repeated_draws():
    """Ratio estimator, without replacement: its standard error against the spread of 4,000 draws."""
    world, random = World(0), np.random.default_rng(1)
    size, values, errors = 32, [], []
    for _ in range(4000):
        order = random.permutation(DOCUMENTS)
        ground = Ground([world.tokens[order]], [1.0], world.ground.shares)
        found = estimate([world.alone[3][order][:size]], ground)
        values.append(found.value)
        errors.append(np.linalg.norm(found.influence))
    assert np.mean(values) == pytest.approx(world.cost([3]), rel=0.01)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(values), rel=0.05)
    assert np.linalg.norm(estimate([world.alone[3]], world.ground).influence) == 0


def test_races_lose_little_for_a_tenth_of_the_work():
    """Over thirty worlds, what the raced plan costs above the one that scores everything."""
    regrets, promised = [], 0
    for seed in range(30):
        world = World(seed)
        full, raced = world.search("greedy_full"), world.search("greedy")
        regrets.append(world.cost(raced.order) / world.cost(full.order) - 1)
        promised += world.cost(raced.order) - world.cost(full.order) <= sum(raced.estimated["regret"])
    assert np.mean(regrets) < 0.002
    assert max(regrets) < 0.01
    assert promised >= 30 * CONFIDENCE, "the regret that plans state is too small"


def test_layers_chosen_from_a_few_documents_alone_are_worse():
    """What the purse buys: without it, the first look decides every round."""
    regrets = {effort: [] for effort in (0.001, 0.11, 1.0)}
    for seed in range(12):
        world = World(seed, noise=0.2)
        full = world.cost(world.search("greedy_full").order)
        for effort, found in regrets.items():
            found.append(world.cost(world.search("greedy", search_effort=effort).order) / full - 1)
    assert np.mean(regrets[0.11]) >= np.mean(regrets[1.0])
    assert np.mean(regrets[1.0]) == pytest.approx(0, abs=1e-3)


def test_a_clear_leader_wins_on_the_first_look_and_a_tie_is_read_to_the_end():
    world = World(3, noise=0.0)
    clear = np.arange(1, DEPTH + 1)[:, None] * world.tokens
    tied = np.ones(DEPTH)[:, None] * world.tokens

    def raced(costs):
        def sample(candidates, look):
            (size,) = world.ground.documents(look)
            return [np.zeros(size)], [[costs[layer][:size]] for layer in candidates]

        return Race(world.ground).run(Round(range(DEPTH), sample, lambda layer: 1, lambda domain, level: 0, 1e9))

    assert (raced(clear).layer, raced(clear).documents, raced(clear).regret) == (0, 16, 0)
    assert (raced(tied).layer, raced(tied).documents) == (DEPTH - 1, DOCUMENTS)  # of equal ones the deepest


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
    assert [plan.order for plan in nested] == [first.order[:1], first.order[:2], first.order]


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
