"""Adapters: switched off they are not there, taken off they leave no trace, merged they change nothing."""

from __future__ import annotations

import pytest
import torch
from transformers import Gemma3Config, Gemma3ForConditionalGeneration, Qwen3Config, Qwen3ForCausalLM

from prune.healing.methods import attach, detach, merge, trained_parameters, whole
from prune.healing.settings import HealSettings

IDS = torch.arange(2, 26).reshape(2, 12)


def tiny() -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
    )  # fmt: skip
    return Qwen3ForCausalLM(config).eval()


def trained(method: str):
    """A student with adapters that differ from zero, its settings, and its logits from before."""
    student = tiny()
    with torch.no_grad():
        before = student(IDS).logits
    settings = HealSettings(method=method, lora_r=4, lora_alpha=8, distill_weight=0, next_token_weight=1)
    model = attach(student, settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return student, model.eval(), settings, before


@pytest.mark.parametrize("method", ["lora", "dora"])
@torch.no_grad()
def test_adapters_switched_off_give_the_pruned_model_to_the_bit(method):
    _, model, _, before = trained(method)
    assert (model(IDS).logits - before).abs().max() > 1e-2
    with model.disable_adapter():
        assert torch.equal(model(IDS).logits, before)


@pytest.mark.parametrize("method", ["lora", "dora"])
@torch.no_grad()
def test_merging_changes_no_logit_by_more_than_1e_4(method):
    student, model, settings, _ = trained(method)
    adapted = model(IDS).logits
    weights = {name: whole(p) for name, p in trained_parameters(model).items()}
    merged = merge(model, student, weights, settings).eval()
    assert not any("lora" in name for name, _ in merged.named_parameters())
    assert (merged(IDS).logits - adapted).abs().max().item() < 1e-4


@torch.no_grad()
def test_taking_adapters_off_without_merging_restores_the_student_to_the_bit():
    student, model, settings, before = trained("lora")
    assert torch.equal(detach(model, student, settings).eval()(IDS).logits, before)


def test_a_vision_tower_gets_no_adapters_which_text_could_not_train():
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = sizes | {"num_key_value_heads": 1, "head_dim": 8, "vocab_size": 64}
    config = Gemma3Config(text_config=text, vision_config=sizes | {"image_size": 8, "patch_size": 4})
    model = attach(Gemma3ForConditionalGeneration(config), HealSettings(distill_weight=0, next_token_weight=1))
    names = trained_parameters(model)
    assert {name.split(".lora_")[0].split(".language_model.")[0] for name in names} == {"base_model.model.model"}
    model(IDS, labels=IDS).loss.backward()
    assert [name for name, parameter in names.items() if parameter.grad is None] == []
