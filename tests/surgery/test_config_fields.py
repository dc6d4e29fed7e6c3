"""The config transform agrees with the installed config classes and edits nothing that depth does not require."""

from __future__ import annotations

from typing import Any

import pytest

from prune.checkpoint.depth_fields import depth_of
from prune.checkpoint.layer_lists import parse_layers
from prune.errors import PruneError
from prune.surgery.config_fields import edit_config
from prune.surgery.derived import follows_depth, from_class
from prune.surgery.families import KNOWN

KEEP = [0, 1, 2, 5, 6, 7]


@pytest.mark.parametrize("kind", sorted(KNOWN))
def test_every_known_rule_agrees_with_its_config_class(kind: str) -> None:
    from transformers import CONFIG_MAPPING

    depth = CONFIG_MAPPING[kind].attribute_map.get("num_hidden_layers", "num_hidden_layers")
    for n in (7, 13):
        config = {"model_type": kind, depth: n}
        derived = {k: v for k, v in from_class(config, n).items() if k in ("layer_types", "no_rope_layers")}
        assert KNOWN[kind](config, n) == derived


def test_lists_are_filtered_by_index_and_only_where_needed() -> None:
    gemma = {"model_type": "gemma3_text", "num_hidden_layers": 8, "sliding_window_pattern": 3}
    s, f = "sliding_attention", "full_attention"
    assert edit_config(gemma, KEEP)["layer_types"] == [s, s, f, f, s, s]
    assert edit_config({"model_type": "qwen3", "num_hidden_layers": 8}, KEEP) == {
        "model_type": "qwen3", "num_hidden_layers": 6,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["sliding_window_pattern", "_sliding_window_pattern"])
def test_a_period_that_the_layers_no_longer_have_does_not_stay(name: str) -> None:
    kinds = ["full_attention" if i in (2, 5) else "sliding_attention" for i in range(8)]
    config = {"model_type": "gemma3_text", "num_hidden_layers": 8, "layer_types": kinds, name: 3}
    assert name not in edit_config(config, [0, 1, 3, 4, 5, 6])
    assert edit_config(config, [3, 4, 5, 6, 7])[name] == 3  # whole periods left


def test_prefix_counts_index_lists_and_mtp() -> None:
    config = {"model_type": "deepseek_v3", "num_hidden_layers": 8, "first_k_dense_replace": 4,
              "num_nextn_predict_layers": 1}  # fmt: skip
    edited = edit_config(config, KEEP)
    assert (edited["first_k_dense_replace"], edited["num_nextn_predict_layers"]) == (3, 0)


def test_a_nested_text_config_is_edited_in_place() -> None:
    config = {"model_type": "llava", "text_config": {"model_type": "llama", "num_hidden_layers": 8},
              "vision_config": {"num_hidden_layers": 8}}  # fmt: skip
    edited = edit_config(config, KEEP)
    assert edited["text_config"]["num_hidden_layers"] == 6
    assert edited["vision_config"]["num_hidden_layers"] == 8
    assert config["text_config"]["num_hidden_layers"] == 8


def test_quantised_layer_names_are_renumbered_and_patterns_written_out() -> None:
    listed = ["lm_head", "model.layers.3.mlp", "model.layers.5"]
    quantization = {"quant_method": "fp8", "modules_to_not_convert": listed}
    config = {"model_type": "llama", "num_hidden_layers": 8, "quantization_config": quantization}
    names = edit_config(config, KEEP)["quantization_config"]["modules_to_not_convert"]
    assert names == ["lm_head", "model.layers.3"]
    quantization["modules_to_not_convert"] = [r"model\.layers\.(0|3)\.mlp\.up_proj"]
    names = edit_config(config, KEEP)["quantization_config"]["modules_to_not_convert"]
    assert names == [f"model.layers.{KEEP.index(i)}.mlp.up_proj" for i in (0, 3) if i in KEEP]
    quantization["modules_to_not_convert"] = ["model.layers.3*"]
    with pytest.raises(PruneError, match="modules_to_not_convert"):
        edit_config(config, KEEP)


def test_layer_lists_include_both_ends() -> None:
    assert parse_layers("20,21,24-27") == [20, 21, 24, 25, 26, 27]


def test_an_explicit_list_wins_over_the_familys_pattern() -> None:
    s, f = "sliding_attention", "full_attention"
    own = [f, f, s, s, f, s, s, f]
    config = {"model_type": "gemma2", "num_hidden_layers": 8, "layer_types": own}
    assert edit_config(config, KEEP)["layer_types"] == [own[i] for i in KEEP]


def test_keys_of_older_transformers_stay_as_they_are() -> None:
    old = {"model_type": "llama", "num_hidden_layers": 8, "torch_dtype": "bfloat16", "rope_theta": 500000.0,
           "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                            "original_max_position_embeddings": 8192}}  # fmt: skip
    assert edit_config(old, KEEP) == old | {"num_hidden_layers": 6}
    assert list(edit_config(old, KEEP)) == list(old)


def test_a_list_of_unknown_name_is_put_to_the_class_and_refused_when_that_knows_nothing() -> None:
    config = {"model_type": "llama", "num_hidden_layers": 8, "mystery": [1, 2, 3, 4, 5, 6, 7, 8]}
    with pytest.raises(PruneError, match="mystery"):
        edit_config(config, KEEP)
    assert not follows_depth(config, "mystery", 8)
    assert follows_depth({"model_type": "gemma3_text", "num_hidden_layers": 8}, "layer_types", 8)


def test_a_depth_that_only_a_list_states() -> None:
    config = {"model_type": "nemotron_h", "hybrid_override_pattern": "M-M*M-M*"}
    assert depth_of(config) == 8
    assert edit_config(config, KEEP)["hybrid_override_pattern"] == "M-M-M*"


REFUSALS = [
    ({"model_type": "gpt2", "n_layer": 8, "scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
    ({"model_type": "jamba", "num_hidden_layers": 8}, "layer_types|expert_layer_period"),
    (
        {"model_type": "qwen4_exp_text", "num_hidden_layers": 8, "ple_layer_ids": [5], "eos_token_id": 2},
        "ple_layer_ids",
    ),
    ({"model_type": "qwen3_next", "num_hidden_layers": 5}, "no attention layer"),
]


@pytest.mark.parametrize(("config", "field"), REFUSALS)
def test_what_cannot_be_expressed_is_refused_by_the_fields_name(config: dict[str, Any], field: str) -> None:
    depth = config.get("num_hidden_layers", 8)
    with pytest.raises(PruneError, match=field):
        edit_config(config, [i for i in range(depth) if i not in (3, 4)])
