"""Estimates against what is counted on models that run: parameters, adapters, saved tensors, caches, layer calls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

import prune
from prune.estimates import memory, work
from prune.estimates.memory import Batch, Training
from prune.estimates.shape import Shape, shape_of
from prune.estimates.speed import Speed, measure_speed
from prune.estimates.stage import Cure, StageEstimate, too_large
from prune.estimates.work import Work
from prune.surgery.signature import skeleton

CONFIG = LlamaConfig(
    vocab_size=300, hidden_size=64, intermediate_size=160, num_hidden_layers=6, num_attention_heads=4,
    num_key_value_heads=2, tie_word_embeddings=False,
)  # fmt: skip
ONE = Batch(3, 20)


def llama() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(CONFIG).eval()


def shape() -> Shape:
    return shape_of(skeleton(LlamaForCausalLM, CONFIG), item=4, stored=2)


def test_a_skeleton_tells_what_the_loaded_model_has() -> None:
    model, found = llama(), shape()
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.weights == sum(p.nbytes for p in model.parameters())
    assert found.cut(4).parameters == found.parameters - 2 * sum(p.numel() for p in model.model.layers[0].parameters())
    assert found.head == 300 * 64
    output = model(torch.ones(1, 7, dtype=torch.long), use_cache=True)
    cache = sum(layer.keys.numel() + layer.values.numel() for layer in output.past_key_values.layers)
    assert found.layers * found.cached * 7 == cache


def test_a_mixture_counts_the_experts_that_a_token_meets() -> None:
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=64, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2,
    )  # fmt: skip
    found = shape_of(skeleton(MixtralForCausalLM, config), item=2, stored=2)
    experts = 8 * 3 * 16 * 24
    assert found.active == found.layer - experts * 6 / 8
    assert found.wide == 2 * 24


def adapted(layers: int) -> Any:
    unadapted = [rf".*layers\.{i}\..*" for i in range(6 - layers)]
    config = LoraConfig(r=5, target_modules="all-linear", exclude_modules="|".join(unadapted) or None)
    return get_peft_model(llama(), config)


@pytest.mark.parametrize("layers", [6, 4])
def test_adapters_are_as_many_as_peft_makes(layers: int) -> None:
    trained = sum(p.numel() for p in adapted(layers).parameters() if p.requires_grad)
    assert memory.adapters(shape(), layers, 5) == trained


def saved_bytes(model: Any, ids: torch.Tensor) -> int:
    """Of the distinct storages that autograd keeps, weights apart."""
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        held.append(tensor)
        return tensor

    held: list[torch.Tensor] = []  # or a freed storage's place is another's
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.base_model.model.model(input_ids=ids, use_cache=False)
    return sum(kept.values())


def test_activations_are_what_autograd_keeps() -> None:
    ids = torch.ones(ONE.rows, ONE.length, dtype=torch.long)
    one_layer = (saved_bytes(adapted(6), ids) - saved_bytes(adapted(4), ids)) / 2
    assert memory.activations(shape(), ONE, 4) == pytest.approx(one_layer, rel=0.25)


def test_a_step_holds_weights_adapters_activations_and_logits() -> None:
    found = shape()
    training = Training(student=4, adapted=3, trained=1000)
    held = memory.healing(found, ONE, training)["a step of training"]
    logits = 3 * 20 * 300 * 4
    assert held == found.weights + 20 * 1000 + 3 * memory.activations(found, ONE, 4) + 3 * logits + 7 * logits
    without = memory.healing(found, ONE, replace(training, teacher=False))["a step of training"]
    assert held - without == found.weights - found.cut(4).weights + logits
    again = memory.healing(found, ONE, replace(training, checkpointing=True))["a step of training"]
    assert held - again == 2 * memory.activations(found, ONE, 4) - 3 * memory.stream(found, ONE)


def calls(model: Any, run: Any) -> int:
    """Layer evaluations, in rows of tokens."""
    count = 0

    def seen(_: Any, args: tuple[torch.Tensor, ...], kwargs: dict[str, Any]) -> None:
        nonlocal count
        hidden = args[0] if args else kwargs["hidden_states"]
        count += hidden.shape[0] * hidden.shape[1]

    hooks = [layer.register_forward_pre_hook(seen, with_kwargs=True) for layer in model.model.layers]
    run()
    for hook in hooks:
        hook.remove()
    return count


def rows(count: int) -> dict[str, list[dict[str, list[int]]]]:
    draw = torch.Generator().manual_seed(1)
    return {"a": [{"input_ids": torch.randint(1, 300, (20,), generator=draw).tolist()} for _ in range(count)]}


def test_an_analysis_evaluates_as_many_layers_as_reckoned() -> None:
    model = llama()
    options = {"measure": ["angular", "lens", "dnll"], "batch_size": 2, "bootstrap": 10}
    found = calls(model, lambda: prune.analyze(model, rows(4), **options))
    assert work.analysis(6, 80, 4).layers == found


def test_greedy_evaluates_as_many_layers_as_reckoned() -> None:
    model = llama()
    plan = prune.plan(model, rows(4), num_layers=3, strategy="greedy_full")
    made = plan.evaluations["layer_evaluations"] * 20  # counted by documents
    assert work.greedy(6, 80, 3).layers == pytest.approx(made, rel=0.25)


def test_training_counts_backward_passes_and_the_teacher() -> None:
    lora = Training(student=4, adapted=3, trained=1)
    assert work.healing(6, 10, lora).layers == 10 * (3 * 2 + 6)  # the shared layer below runs in the teacher
    assert work.healing(6, 10, replace(lora, teacher=False)).layers == 10 * (1 + 3 * 2)
    assert work.healing(6, 10, replace(lora, checkpointing=True)).layers == 10 * (3 * 3 + 6)
    assert work.healing(6, 10, replace(lora, method="full")).layers == 10 * (3 * 3 + 6)


def test_speed_is_measured_without_weights() -> None:
    found = measure_speed(skeleton(LlamaForCausalLM, CONFIG), ONE, torch.float32, torch.device("cpu"))
    assert found is not None
    assert 0 < found.layer < 1e-2
    assert 0 < found.head < 1e-2
    assert Speed(2.0, 3.0).seconds(Work(5, 10.0, 1.0)) == 23.0


def test_layers_that_do_not_fit_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evals.fitted.free_memory", lambda device: 1000)
    assert measure_speed(skeleton(LlamaForCausalLM, CONFIG), ONE, torch.float32, torch.device("cpu")) is None


def test_the_first_setting_that_fits_is_named() -> None:
    cures = [Cure("a: 1", {"a step": 90}), Cure("b: 1", {"a step": 60}), Cure("more")]
    stage = StageEstimate("heal 4", {"loading": 50, "a step": 100}, cures=cures)
    assert too_large(stage, 100) is None
    assert "heal 4 needs about 0 kB (a step)" in str(too_large(stage, 70))
    assert str(too_large(stage, 95)).endswith("a: 1 would take 0 kB")
    assert str(too_large(stage, 70)).endswith("b: 1 would take 0 kB")
    assert str(too_large(stage, 10)).endswith("more")
