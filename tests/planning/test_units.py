"""Attention and MLP as units: scores are those of models that really lack them, and plans say which go."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

import prune
from prune.errors import PruneError, UsageError
from prune.planning.evaluator import Evaluator
from prune.planning.plan import Plan
from prune.planning.planner import make_plan
from prune.planning.sizes import measure_sizes
from prune.planning.units import Units
from tests.planning.small import LAYERS, build, domains, naive_nll

WEIGHTS = {"text": 0.5, "sums": 0.5}


def zeroed(model: Any, attention: Any, mlp: Any) -> Any:
    """The oracle: projections of zeros in a copy."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for layer in attention:
            other.model.layers[layer].self_attn.o_proj.weight.zero_()
        for layer in mlp:
            other.model.layers[layer].mlp.down_proj.weight.zero_()
    return other


def plan(model: Any, **request: Any) -> Plan:
    return make_plan(source="made", model=model, domains=domains(), in_memory=True, **request)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_a_subset_of_sublayers_costs_what_a_model_without_them_costs(kind: str) -> None:
    model = build(kind)
    evaluator = Evaluator(model, domains(), batch_size=3, unit="sublayer")
    gone = [[0], [1], [2 * 3, 2 * 3 + 1], [1, 4, 10, 15], [14]]
    scores = evaluator.score_many([keep(units) for units in gone])
    for units, score in zip(gone, scores, strict=True):
        bare = zeroed(model, [u // 2 for u in units if u % 2 == 0], [u // 2 for u in units if u % 2])
        naive = sum(w * (naive_nll(bare, domains()[n]) - naive_nll(model, domains()[n])) for n, w in WEIGHTS.items())
        assert score.total == pytest.approx(naive, abs=2e-6)


def keep(gone: list[int]) -> list[int]:
    return [unit for unit in range(2 * LAYERS) if unit not in gone]


def test_whole_layers_share_their_scores_with_sublayers(tmp_path: Path) -> None:
    model, cache = build(), tmp_path / "scores.sqlite"
    whole = Evaluator(model, domains(), cache=cache).score([0, 1, 2, 4, 5, 6, 7])
    apart = Evaluator(model, domains(), cache=cache, unit="sublayer")
    assert apart.score(keep([6, 7])).total == whole.total
    assert not apart.work.evaluated


@pytest.mark.parametrize("unit", ["attention", "mlp", "sublayer"])
@pytest.mark.parametrize("strategy", ["greedy", "greedy_full", "one_shot", "beam"])
def test_a_plan_names_both_lists_and_only_what_its_unit_allows(unit: str, strategy: str) -> None:
    model = build()
    found = plan(model, unit=unit, strategy=strategy, num_layers=6, protect=[7])
    assert (found.unit, found.keep, found.drop) == (unit, list(range(LAYERS)), [])
    assert len(found.drop_attention) == (
        0 if unit == "mlp" else 2 if unit == "attention" else len(found.drop_attention)
    )
    assert len(found.drop_attention) + len(found.drop_mlp) == (4 if unit == "sublayer" else 2) == found.removed
    assert 7 not in [*found.drop_attention, *found.drop_mlp]
    bare = zeroed(model, found.drop_attention, found.drop_mlp)
    naive = sum(w * (naive_nll(bare, domains()[n]) - naive_nll(model, domains()[n])) for n, w in WEIGHTS.items())
    assert found.scores["dnll"]["total"]["value"] == pytest.approx(naive, abs=2e-6)


def test_full_greedy_over_sublayers_takes_the_cheapest_each_time() -> None:
    model = build()
    found = plan(model, unit="sublayer", strategy="greedy_full", drop_fraction=0.125)  # one layer's worth: two
    evaluator = Evaluator(model, domains(), unit="sublayer")
    gone: list[int] = []
    for _ in range(2):
        costs = {u: evaluator.score(keep([*gone, u])).total for u in range(2 * LAYERS) if u not in gone}
        gone.append(min(costs, key=lambda unit: (costs[unit], -unit)))
    assert found.order == [Units(LAYERS, "sublayer").label(unit) for unit in gone]
    assert 0 < found.evaluations["ratio"] < 0.7


@pytest.mark.parametrize(
    "criterion", ["kl", "answer_nll", "answer_accuracy", "taylor", "magnitude", "last_n", "random"]
)
def test_criteria_know_sublayers(criterion: str) -> None:
    found = plan(build(), unit="sublayer", criterion=criterion, strategy="one_shot", num_layers=7)
    assert found.removed == 2


def test_measured_criteria_read_attention_and_mlp_from_the_analysis() -> None:
    model = build()
    ids = {"text": [{"input_ids": list(d.input_ids)} for d in domains()["text"].documents]}
    analysis = prune.analyze(model, ids, measure=["contributions", "sublayer_dnll"])
    for criterion, key in (("relative_contribution", "relative_contribution/{}"), ("dnll", "output_effect/{}/dnll")):
        found = prune.plan(analysis, unit="attention", criterion=criterion, strategy="one_shot", num_layers=6)
        cost = analysis.array(key.format("attn")).values
        assert found.drop_attention == sorted(sorted(range(LAYERS), key=lambda layer: (cost[layer], -layer))[:2])
        assert found.scores["mlp"] == pytest.approx(analysis.array(key.format("mlp")).values.tolist())


def test_the_model_without_its_sublayers_computes_and_generates_as_one_with_zeros() -> None:
    model = build("qwen3")
    found = Plan(
        source="made", num_layers=LAYERS, keep=list(range(LAYERS)), drop=[], criterion="explicit", strategy="explicit",
        unit="sublayer", drop_attention=[0, 3, 5], drop_mlp=[5, 7],
        order=["attention.0", "attention.3", "mlp.5", "attention.5", "mlp.7"],
    )  # fmt: skip
    cut, zeros = prune.cut(model, plan=found, copy=True), zeroed(model, [0, 3, 5], [5, 7])
    ids = torch.randint(0, 96, (2, 9), generator=torch.Generator().manual_seed(3))
    assert torch.equal(cut(ids).logits, zeros(ids).logits)
    said = [
        m.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0)
        for m in (cut, zeros)
    ]
    assert torch.equal(*said)
    gone = sum(p.numel() for i in (0, 3, 5) for p in model.model.layers[i].self_attn.parameters())
    gone += sum(p.numel() for i in (5, 7) for p in model.model.layers[i].mlp.parameters())
    assert cut.num_parameters() == model.num_parameters() - gone
    assert not torch.equal(model(ids).logits, cut(ids).logits)
    again = prune.cut(cut, drop_mlp=[0], copy=True)
    assert torch.equal(again(ids).logits, zeroed(zeros, [], [0])(ids).logits)


@pytest.mark.parametrize(
    ("budget", "unit", "goes"),
    [
        ({"target_kv_bytes": 2 * 2 * 8 * 4 * 5}, "attention", 3),  # 2 KV heads of 8, keys and values, float32
        ({"target_kv_bytes": 2 * 2 * 8 * 4 * 5}, "sublayer", 3),  # no MLP goes: it holds no cache
        ({"target_kv_bytes": 2 * 2 * 8 * 4 * 5}, "layer", 3),
        ({"num_layers": 5}, "mlp", 3),
        ({"num_layers": 5}, "sublayer", 6),
    ],
)
def test_budgets_count_in_the_unit(budget: dict[str, int], unit: str, goes: int) -> None:
    found = plan(build(), criterion="last_n", strategy="one_shot", unit=unit, **budget)
    assert len(found.drop) + found.removed * (unit != "layer") == goes
    if "target_kv_bytes" in budget and unit != "layer":
        assert (found.drop_attention, found.drop_mlp) == ([5, 6, 7], [])


def test_long_contexts_make_attention_the_faster_cut() -> None:
    model = build()
    near, far = (
        plan(model, criterion="last_n", unit="attention", target_speedup=1.3, decode_context=n) for n in (0, 400)
    )
    assert near.removed > far.removed


def test_sizes_of_sublayers_are_those_of_their_tensors(tmp_path: Path) -> None:
    model = build("qwen3")
    model.save_pretrained(tmp_path)
    sizes = measure_sizes(str(tmp_path), Units(LAYERS, "sublayer"), "params", None)
    layer = model.model.layers[0]
    attention = sum(p.numel() for m in (layer.self_attn, layer.input_layernorm) for p in m.parameters())
    mlp = sum(p.numel() for m in (layer.mlp, layer.post_attention_layernorm) for p in m.parameters())
    assert sizes.layers == (attention, mlp) * LAYERS
    assert sizes.of(()) == model.num_parameters()


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"unit": "attention", "criterion": "block_influence"}, "of whole layers; with unit attention use .*dnll"),
        ({"unit": "mlp", "strategy": "contiguous"}, "consecutive whole layers; with unit mlp use greedy"),
        ({"unit": "sublayer", "num_layers": None, "drop_layers": [1]}, "names no part.*unit attention"),
        ({"unit": "heads"}, "unit heads: give one of layer, attention, mlp, sublayer"),
        ({"unit": "mlp", "num_layers": None, "target_kv_bytes": 64}, "an MLP holds no cache; use unit attention"),
        ({"unit": "attention", "num_layers": None, "target_kv_bytes": 64, "protect": [0]}, "attention; 128 remain at"),
        ({"unit": "mlp", "num_layers": None, "target_speedup": 9.0}, r"out of reach by removing MLPs; \d\.\d\d at the"),
    ],
)
def test_what_no_plan_can_do_is_refused_with_what_can(request_: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan(build(), **{"num_layers": 6, **request_})


def test_a_plan_of_sublayers_is_refused_where_whole_layers_are_cut(tmp_path: Path) -> None:
    build().save_pretrained(tmp_path / "model")
    found = plan(build(), unit="attention", num_layers=None, drop_layers=[2, 1])
    assert (found.order, found.drop_attention) == ([2, 1], [1, 2])
    found.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == found
    with pytest.raises(UsageError, match=r"removes sub-layers.*prune.cut\(loaded_model"):
        prune.cut(str(tmp_path / "model"), tmp_path / "out", plan=tmp_path / "plan.json")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop_attention": [2, 1]}, "sorted"),
        ({"drop_mlp": [1]}, "empty with unit attention"),
        ({"drop": [1], "keep": [0, *range(2, LAYERS)]}, "drop must be empty"),
        ({"order": [1, 1]}, "order must hold"),
        ({"unit": "layer"}, "need unit"),
    ],
)
def test_a_plan_that_contradicts_itself_is_refused(change: dict[str, Any], message: str) -> None:
    good = json.loads(plan(build(), unit="attention", num_layers=None, drop_layers=[1, 2]).model_dump_json())
    with pytest.raises(ValidationError, match=message):
        Plan(**{**good, **change})


def test_layers_whose_halves_cannot_be_told_apart_are_refused_before_any_document_is_read() -> None:
    model = build()
    model.model.layers[3].mlp.register_forward_hook(lambda module, given, output: output + 1)
    model.model.layers[3].register_forward_hook(lambda module, given, output: output + 1)
    evaluator = Evaluator(model, domains(), unit="attention")
    with pytest.raises(PruneError, match=r"layer 3 would still add.*cannot be told apart.*use whole layers"):
        make_plan(source="made", evaluator=evaluator, unit="attention", num_layers=6)
    assert evaluator.work.layers == 0
    found = make_plan(source="made", evaluator=evaluator, unit="attention", num_layers=6, protect=[3])
    assert 3 not in found.drop_attention
