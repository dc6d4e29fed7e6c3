"""The cache with room answers as transformers' own, to the bit, whatever is done with it in between."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)
from transformers.cache_utils import DynamicCache

from evals.growing_cache import SPARE, growing_cache

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": 0,
    "eos_token_id": None,
}


def llama() -> Any:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


def sliding() -> Any:
    torch.manual_seed(0)
    types = ["sliding_attention", "full_attention", "sliding_attention"]
    return Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, sliding_window=9, layer_types=types)).eval()


def prompts() -> dict[str, torch.Tensor]:
    """Three left-padded prompts [3, 12]."""
    ids = torch.arange(36).reshape(3, 12) % 90 + 1
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("model", [llama(), sliding()], ids=["full", "sliding"])
def test_scores_of_every_step_are_those_of_the_plain_cache(model: Any) -> None:
    new = 2 * SPARE + 20  # past several buffers, and past the window in the prompt
    options = {"max_new_tokens": new, "do_sample": False, "output_scores": True, "return_dict_in_generate": True}
    plain = model.generate(**prompts(), **options)
    cache = growing_cache(model)
    grown = model.generate(**prompts(), **options, past_key_values=cache)
    assert torch.equal(plain.sequences, grown.sequences)
    assert all(torch.equal(a, b) for a, b in zip(plain.scores, grown.scores, strict=True))
    assert cache is not None
    assert cache.get_seq_length() == plain.past_key_values.get_seq_length() == 12 + new - 1


@pytest.mark.parametrize("model", [llama(), sliding()], ids=["full", "sliding"])
def test_beams_select_rows_without_mixing_them(model: Any) -> None:
    options = {"max_new_tokens": 30, "num_beams": 3, "do_sample": False}
    plain = model.generate(**prompts(), **options)
    assert torch.equal(plain, model.generate(**prompts(), **options, past_key_values=growing_cache(model)))


def test_a_cropped_cache_goes_on_from_where_it_was_cropped() -> None:
    model, ids = llama(), prompts()["input_ids"]
    logits = []
    for cache in (DynamicCache(config=model.config), growing_cache(model)):
        with torch.no_grad():
            model(ids, past_key_values=cache)
            assert cache is not None
            cache.crop(-4)
            logits.append(model(ids[:, 2:5], past_key_values=cache).logits)
    assert torch.equal(*logits)


def test_a_copy_and_its_source_go_different_ways() -> None:
    model, ids = llama(), prompts()["input_ids"]
    cache = growing_cache(model)
    with torch.no_grad():
        model(ids, past_key_values=cache)
        other = copy.deepcopy(cache)
        expected = model(ids[:, :2], past_key_values=copy.deepcopy(cache)).logits
        model(ids[:, 5:9], past_key_values=other)
        assert torch.equal(model(ids[:, :2], past_key_values=cache).logits, expected)


def test_buffers_are_few_and_hold_little_more_than_what_is_in_them() -> None:
    model, ids = llama(), prompts()["input_ids"]
    cache = growing_cache(model)
    assert cache is not None
    places = set()
    with torch.no_grad():
        for step in range(40):
            model(ids[:, :1] + step, past_key_values=cache)
            places.add(cache.layers[0].keys.data_ptr())
    assert len(places) == 1
    assert cache.layers[0].keys.untyped_storage().nbytes() == 3 * 2 * (1 + SPARE) * 8 * 4


def test_other_kinds_of_cache_stay_with_transformers() -> None:
    assert growing_cache(MambaForCausalLM(MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=1))) is None
    model = llama()
    model.generation_config.cache_implementation = "static"
    assert growing_cache(model) is None
