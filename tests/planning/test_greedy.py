"""Greedy removal with prefix reuse equals greedy removal with a fresh, really shortened model for every candidate."""

from __future__ import annotations

import pytest

from prune.planning.evaluator import Evaluator
from prune.planning.planner import make_plan
from tests.planning.small import LAYERS, build, domains, naive_cost


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_greedy_chooses_what_naive_greedy_chooses(kind):
    model, weights, dropped = build(kind), {"text": 0.25, "sums": 0.75}, []
    for _ in range(2):
        costs = {s: naive_cost(model, [*dropped, s], weights) for s in range(LAYERS) if s not in dropped}
        dropped.append(min(costs, key=costs.get))
    plan = make_plan(
        source="made", model=model, domains=domains(), criterion="dnll", strategy="greedy_full", num_layers=LAYERS - 2,
        domain_weights=weights,
    )  # fmt: skip
    assert plan.order == dropped


def test_scores_equal_fresh_full_passes():
    model, weights = build("llama"), {"text": 0.5, "sums": 0.5}
    evaluator = Evaluator(model, domains(), weights, batch_size=3)
    keeps = [tuple(i for i in range(LAYERS) if i not in drop) for drop in ([0], [7], [3, 4], [1, 5, 6])]
    for keep, score in zip(keeps, evaluator.score_many(keeps), strict=True):
        drop = [i for i in range(LAYERS) if i not in keep]
        assert score.total == pytest.approx(naive_cost(model, drop, weights), abs=1e-5)


def test_a_quarter_removed_by_scoring_everything_takes_at_most_055_of_the_naive_layer_evaluations():
    plan = make_plan(
        source="made", model=build(layers=16), domains=domains(), drop_fraction=0.25, strategy="greedy_full"
    )
    used = plan.evaluations
    # Every candidate a pass of its own, and one for the full model: L + sum over steps of candidates x layers.
    documents = 7
    assert used["naive_layer_evaluations"] == documents * (16 + sum(n * (n - 1) for n in (16, 15, 14, 13)))
    assert used["layer_evaluations"] <= 0.55 * used["naive_layer_evaluations"]
    assert used["ratio"] == used["layer_evaluations"] / used["naive_layer_evaluations"]
    assert used["documents"] == [documents] * 4


def test_layer_evaluations_are_those_that_the_model_sees():
    model, rows = build(layers=16), 0

    def count(module, args, kwargs):
        nonlocal rows
        rows += (args[0] if args else kwargs["hidden_states"]).shape[0]

    for layer in model.model.layers:
        layer.register_forward_pre_hook(count, with_kwargs=True)
    plan = make_plan(source="made", model=model, domains=domains(), drop_fraction=0.25)
    assert plan.evaluations["layer_evaluations"] == rows
