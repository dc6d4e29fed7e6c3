"""Budgets: what each removes, and which requests are refused, by the flag's name."""

from __future__ import annotations

import pytest

from prune.errors import UsageError
from prune.planning.plan import Plan
from prune.planning.planner import make_plan
from prune.planning.settings import PlanSettings
from prune.planning.sizes import measure_sizes
from prune.planning.units import Units
from tests.planning.small import LAYERS, build


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model on disk with a fat layer: layer 5 has another width, so sizes differ."""
    from torch import nn

    directory = tmp_path_factory.mktemp("saved")
    model = build()
    fat = model.model.layers[5].mlp
    fat.up_proj, fat.gate_proj, fat.down_proj = nn.Linear(32, 400, False), nn.Linear(32, 400, False), nn.Linear(400, 32)
    model.save_pretrained(directory)
    return directory, model


def last_n(source, **budget):
    return make_plan(source=str(source), criterion="last_n", strategy="one_shot", **budget)


@pytest.mark.parametrize(
    ("budget", "removed"),
    [({"num_layers": 5}, 3), ({"drop_fraction": 0.25}, 2), ({"drop_fraction": 0.3}, 2), ({"drop_fraction": 0.32}, 3)],
)
def test_depths_and_fractions_round_to_the_nearest_layer(saved, budget, removed):
    assert len(last_n(saved[0], **budget).drop) == removed


@pytest.mark.parametrize(("unit", "flag"), [("params", "target_params"), ("bytes", "target_bytes")])
def test_a_size_is_met_by_the_first_plan_that_fits_it(saved, unit, flag):
    directory, model = saved
    each = 1 if unit == "params" else 4
    total = sum(p.numel() for p in model.parameters()) * each
    layers = [sum(p.numel() for p in layer.parameters()) * each for layer in model.model.layers]
    sizes = measure_sizes(str(directory), Units(LAYERS), unit, None)
    assert sizes.layers == tuple(layers)
    assert sizes.of(()) == total
    target = total - layers[7] - layers[6] - 1
    plan = last_n(directory, **{flag: target})
    assert plan.drop == [5, 6, 7]  # two would leave one unit too many
    assert last_n(directory, **{flag: target + 1}).drop == [6, 7]
    with pytest.raises(UsageError, match=f"{flag}.*already"):
        last_n(directory, **{flag: total})
    with pytest.raises(UsageError, match=f"{flag} 10: out of reach"):
        last_n(directory, **{flag: 10})


def test_a_speed_up_is_predicted_from_the_bytes_read_per_token(saved):
    directory, model = saved
    layers = [sum(p.numel() for p in layer.parameters()) for layer in model.model.layers]
    head = model.lm_head.weight.numel() + model.model.norm.weight.numel()  # untied: one row of the embedding is read
    read = sum(layers) + head
    plan = last_n(directory, target_speedup=1.4)
    left = read - sum(layers[layer] for layer in plan.drop)
    one_fewer = left + layers[min(plan.drop)]
    assert read / left >= 1.4 > read / one_fewer
    most = read / (read - sum(sorted(layers)[1:]))
    with pytest.raises(UsageError, match=f"target_speedup 1000.*{int(100 * most) / 100:.2f} at the most"):
        last_n(directory, target_speedup=1000)
    with pytest.raises(UsageError, match="above 1"):
        last_n(directory, target_speedup=0.9)


def test_lists_are_taken_as_they_are():
    options = {"source": "made", "model": build()}
    plan = make_plan(drop_layers=[6, 2], **options)
    assert (plan.drop, plan.order, plan.criterion, plan.strategy) == ([2, 6], [6, 2], "explicit", "explicit")
    assert make_plan(keep_layers=[0, 3, 7], **options).keep == [0, 3, 7]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({}, "give one budget: num_layers, .*target_bytes, target_speedup, target_kv_bytes, drop_layers, keep_layers"),
        ({"num_layers": 4, "drop_fraction": 0.5}, "give one budget, not 2: num_layers, drop_fraction"),
        ({"drop_layers": [1], "keep_layers": [0]}, "not 2: drop_layers, keep_layers"),
        ({"num_layers": 0}, "num_layers 0: a model must keep at least one layer"),
        ({"num_layers": -3}, "num_layers -3"),
        ({"num_layers": 8}, "already has 8 layers"),
        ({"num_layers": 9}, "has only 8 layers"),
        ({"drop_fraction": 1.0}, "drop_fraction 1.0"),
        ({"drop_fraction": 0.99}, r"at least one layer; 0\.875 removes the 7 that may go"),
        ({"drop_fraction": 0.9, "protect": [0, 1, 2]}, r"protect keeps 3 layers; 0\.625 removes the 5 that may go"),
        ({"drop_fraction": 0.01}, r"removes none of 8 layers; 0\.13 removes one"),
        ({"drop_layers": list(range(8))}, "all 8 layers would go"),
        ({"drop_layers": []}, "name at least one"),
        ({"drop_layers": [3, 3]}, "3 is listed twice"),
        ({"drop_layers": [8]}, r"drop_layers 8: the model has layers 0\.\.7"),
        ({"drop_layers": [1, 2], "protect": [2]}, "drop_layers and protect both name layer 2"),
        ({"keep_layers": []}, "a model must keep one"),
        ({"keep_layers": list(range(8))}, "all 8 layers would stay"),
        ({"keep_layers": [0, 1], "protect": [1, 5]}, "keep_layers leaves out layer 5, which protect names"),
        ({"keep_layers": [0, 9]}, "keep_layers 9"),
        ({"num_layers": 2, "protect": [0, 1, 7]}, "protect keeps 3 layers"),
        ({"num_layers": 4, "protect": [11]}, "protect 11"),
        ({"num_layers": 4, "strategy": "gredy"}, "did you mean 'greedy'"),
        ({"num_layers": 4, "criterion": "last"}, "unknown criterion 'last'"),
    ],
)
def test_requests_that_cannot_be_met_name_the_flag(request_, message):
    options = {"source": "made", "model": build(), "criterion": "last_n", "strategy": "one_shot", **request_}
    with pytest.raises(UsageError, match=message):
        make_plan(**options)


def test_protected_layers_stay_and_minus_one_is_the_last():
    plan = make_plan(
        source="made", model=build(), criterion="last_n", strategy="one_shot", num_layers=5, protect=[-1, 5]
    )
    assert plan.order == [6, 4, 3]


def test_another_json_file_is_no_plan_and_the_message_says_what_writes_one(tmp_path):
    other = tmp_path / "analysis.json"
    other.write_text('{"model": "org/model", "num_layers": 16}')
    with pytest.raises(UsageError, match=r"no valid plan \(source: Field required\); `prune plan` writes one"):
        Plan.load(other)


@pytest.mark.parametrize("layers", ["0-2,5", ["0-2", "5"], [0, 1, 2, 5]])
def test_layers_may_be_text_the_parts_that_a_flag_was_split_into_or_numbers(layers):
    assert PlanSettings(protect=layers).protect == [0, 1, 2, 5]
