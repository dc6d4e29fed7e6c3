"""Sizes are counted as the checkpoint has them, and money follows from speed and price by hand."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest

from evals.cost import (
    break_even_sensitivity,
    break_even_tokens,
    cost_per_million_tokens,
    footprint,
    healing_cost,
    kv_bytes_per_token,
)
from evals.errors import EvalUsageError


def test_parameters_and_bytes_equal_a_count_by_hand(model: Any) -> None:
    width, inner, kv, vocabulary, layers = 32, 48, 16, 258, 2
    layer = 2 * width * width + 2 * width * kv + 3 * width * inner + 2 * width
    by_hand = 2 * vocabulary * width + layers * layer + width
    found = footprint(model)
    assert found.parameters == by_hand
    assert found.bytes == 4 * by_hand
    assert found.layers == layers
    assert found.to_dict()["bytes"] == found.bytes


def test_the_cache_really_grows_by_that_many_bytes_a_token(model: Any) -> None:
    import torch

    with torch.no_grad():
        cache = [model(torch.zeros(1, n, dtype=torch.long), use_cache=True).past_key_values for n in (5, 6)]
    sizes = [sum(layer.keys.nbytes + layer.values.nbytes for layer in c.layers) for c in cache]
    assert footprint(model).kv_bytes_per_token == sizes[1] - sizes[0]


def test_weights_are_priced_in_the_checkpoints_dtype(model: Any) -> None:
    import torch

    stored = copy.deepcopy(model)
    stored.config.dtype = torch.bfloat16
    assert footprint(stored).bytes * 2 == footprint(model).bytes
    assert footprint(stored).kv_bytes_per_token * 2 == footprint(model).kv_bytes_per_token


def test_a_tied_head_counts_once(model: Any) -> None:
    tied = copy.deepcopy(model)
    tied.lm_head.weight = tied.model.embed_tokens.weight
    assert footprint(model).parameters - footprint(tied).parameters == 258 * 32


def config_of(**values: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"num_hidden_layers": 4, "num_attention_heads": 8, "hidden_size": 64, **values})


@pytest.mark.parametrize(
    ("config", "numbers"),
    [
        (config_of(), 4 * 2 * 64),
        (config_of(num_key_value_heads=2), 4 * 2 * 2 * 8),
        (config_of(num_key_value_heads=2, head_dim=32), 4 * 2 * 2 * 32),
        (config_of(layer_types=["full_attention", "linear_attention", "sliding_attention", "conv"]), 2 * 2 * 64),
        (config_of(num_kv_shared_layers=1), 3 * 2 * 64),
        (config_of(kv_lora_rank=16, qk_rope_head_dim=4), 4 * 20),
    ],
    ids=["multi-head", "grouped", "wide heads", "hybrid", "shared", "latent"],
)
def test_kv_bytes_of_every_kind_of_attention(config: Any, numbers: int) -> None:
    assert kv_bytes_per_token(config, 2) == 2 * numbers


def test_money_by_hand() -> None:
    # 3600 tokens a second at 2 an hour: 12.96 million tokens an hour.
    assert cost_per_million_tokens(2.0, 3600.0) == pytest.approx(2 / 12.96)
    assert healing_cost(25_920_000, 3600.0, 2.0) == pytest.approx(4.0)
    assert break_even_tokens(10.0, 0.5, 0.3) == pytest.approx(50e6)
    assert break_even_tokens(0.0, 0.5, 0.3) == 0.0
    assert break_even_tokens(10.0, 0.3, 0.3) is None


@pytest.mark.parametrize(("price", "speed"), [(-1.0, 10.0), (1.0, 0.0)])
def test_impossible_prices_and_speeds_are_refused(price: float, speed: float) -> None:
    with pytest.raises(EvalUsageError, match="must be positive"):
        cost_per_million_tokens(price, speed)


def test_break_even_moves_with_each_assumption_as_by_hand() -> None:
    # 10 to heal; a million tokens cost 0.5 and then 0.5 / 1.25 = 0.4: 100 million tokens pay it back.
    rows = {row.name: row for row in break_even_sensitivity(10.0, 0.5, 1.25, (1.0, 2.0), 2.0)}
    assert rows["healing_tokens"].at_low == pytest.approx(50e6)
    assert rows["training_price"].at_high == pytest.approx(200e6)
    assert rows["speedup"].at_low is None  # as slow as the original: never
    assert rows["speedup"].at_high == pytest.approx(40e6)
    assert "speedup" not in {row.name for row in break_even_sensitivity(10.0, 0.5, 1.25, None, 2.0)}


@pytest.mark.parametrize(("speedup", "ends", "factor"), [(1.2, None, 1.0), (0.0, None, 2.0), (1.2, (0.0, 1.3), 2.0)])
def test_impossible_assumptions_are_refused(speedup: float, ends: Any, factor: float) -> None:
    with pytest.raises(EvalUsageError, match="must be above"):
        break_even_sensitivity(10.0, 0.5, speedup, ends, factor)
