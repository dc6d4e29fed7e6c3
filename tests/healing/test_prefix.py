"""The layers below the first gap run once for teacher and student, and nothing but the time changes."""

from __future__ import annotations

import copy

import pytest
import torch

from prune.healing.data import Collator
from prune.healing.heal import heal
from prune.healing.methods import adapted_layers, attach
from prune.healing.objective import batch_losses, matched_states
from prune.healing.prefix import find_prefix
from prune.healing.sharing import SharedWeights
from prune.surgery.sublayers import drop_sublayers

from . import tiny


def pair(settings):
    """A teacher and a student with adapters that share their weights, and what `find_prefix` says of them."""
    original = tiny.teacher()
    pruned = tiny.student(original)
    SharedWeights(pruned, original, tiny.KEPT)
    model = attach(pruned, settings, tiny.KEPT)
    return original, model, find_prefix(model, original, tiny.KEPT)


@pytest.mark.parametrize("changes", [{}, {"residual_weight": 0.5}, {"lora_layers": [2, 3], "packing": False}])
def test_losses_and_gradients_are_the_same_to_the_bit(changes):
    settings = tiny.settings(next_token_weight=0.5, **changes)
    original, model, prefix = pair(settings)
    assert prefix.depth == (2 if "lora_layers" in changes else 1)
    inputs = Collator(0, settings.packing)([[d] for d in tiny.domain().documents[:4]])
    seen, calls = [], []
    for layer in original.model.layers[: prefix.depth]:
        layer.mlp.register_forward_hook(lambda *_: calls.append("teacher"))
    for layer in model.get_base_model().model.layers[: prefix.depth]:
        layer.mlp.register_forward_hook(lambda *_: calls.append("student"))
    for shared in (prefix, None):
        options = {"head": model.get_output_embeddings(), "teacher": original, "matches": matched_states(tiny.KEPT, 6)}
        losses = batch_losses(model.train(), inputs, settings, prefix=shared, **options)
        losses.total.backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        assert len(gradients) == sum(p.requires_grad for p in model.parameters())
        seen.append([losses.total, *losses.parts.values(), *gradients])
        model.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(*seen, strict=True))
    assert calls == ["teacher"] * prefix.depth * 2 + ["student"] * prefix.depth


def test_a_healed_model_is_the_same_to_the_bit(tmp_path, monkeypatch):
    results = []
    for folder in ("shared", "apart"):
        original = tiny.teacher()
        results.append(
            heal(
                tiny.student(original),
                original,
                {"general": tiny.domain()},
                tiny.settings(),
                output_dir=tmp_path / folder,
            )
        )
        monkeypatch.setattr("prune.healing.heal.find_prefix", lambda *_: None)
    assert [r.shared_layers for r in results] == [1, 0]
    assert results[0].held_out_after < results[0].held_out_before
    for ours, theirs in zip(*(r.model.parameters() for r in results), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "changes", [{"lora_layers": "all"}, {"method": "full", "train_layers": [0]}, {"method": "qlora"}]
)
def test_layers_that_are_trained_or_differ_are_not_shared(changes):
    assert pair(tiny.settings(**changes))[2] is None


def test_full_tuning_of_late_layers_shares_the_layers_below_the_gap():
    assert pair(tiny.settings(method="full", train_layers=[3]))[2].depth == 2


def test_layers_that_hand_on_more_than_they_return_are_not_shared():
    original = tiny.teacher()
    pruned = tiny.student(original)
    SharedWeights(pruned, original, tiny.KEPT)
    handed = []
    pruned.model.layers[0].mlp.register_forward_hook(lambda *_: handed.append(1.0))
    pruned.model.layers[3].register_forward_hook(lambda _, __, output: output + (handed.pop() if handed else 0.0))
    model = attach(pruned, tiny.settings(), tiny.KEPT)
    assert find_prefix(model, original, tiny.KEPT) is None


def test_adapters_begin_one_layer_below_the_first_gap():
    assert adapted_layers("from_gap", [0, 1, 2, 3, 6, 7, 8], 7) == [3, 4, 5, 6]
    assert adapted_layers("from_gap", [1, 2, 3, 4], 4) == [0, 1, 2, 3]
    assert adapted_layers("from_gap", [0, 1, 2, 3, 4], 5) == [2, 3, 4]  # the original's last layers are gone
    assert adapted_layers("from_gap", None, 3) == adapted_layers("all", [0, 2, 3], 3) == [0, 1, 2]
    assert adapted_layers([2, 1], [0, 2, 3], 3) == [1, 2]
    model = pair(tiny.settings())[1]
    assert {n.split("layers.")[1][0] for n, p in model.named_parameters() if p.requires_grad} == {"1", "2", "3"}


def test_adapters_begin_one_layer_below_the_first_layer_that_lacks_a_part(tmp_path):
    assert adapted_layers("from_gap", range(8), 8, 4) == [3, 4, 5, 6, 7]
    assert adapted_layers("from_gap", [0, 1, 4, 5], 4, 3) == [1, 2, 3]
    original = tiny.teacher()
    pruned = drop_sublayers(copy.deepcopy(original), attn=[3], mlp=[4])
    before = held_out(pruned)
    result = heal(
        pruned, original, {"general": tiny.domain()}, tiny.settings(), kept_layers=range(6), output_dir=tmp_path
    )
    assert result.shared_layers == 2
    assert {int(name.split("layers.")[1][0]) for name in result.trained} == {2, 3, 4, 5}
    assert held_out(result.model) < before
    assert [type(layer.self_attn).__name__ for layer in result.model.model.layers][3] == "Silent"


def held_out(model) -> float:
    """Mean loss on the documents, by the model itself."""
    with torch.no_grad():
        rows = [torch.tensor([document.input_ids]) for document in tiny.domain().documents]
        return sum(model(input_ids=row, labels=row).loss.item() for row in rows) / len(rows)


def test_training_does_not_wake_a_part_that_was_silenced_by_zeros(tmp_path):
    original = tiny.teacher()
    pruned = copy.deepcopy(original)
    pruned.model.layers[3].mlp.down_proj.weight.data.zero_()
    result = heal(
        pruned, original, {"general": tiny.domain()}, tiny.settings(lora_layers="all"), kept_layers=range(6),
        output_dir=tmp_path,
    )  # fmt: skip
    assert not result.model.model.layers[3].mlp.down_proj.weight.any()
    assert result.trained
