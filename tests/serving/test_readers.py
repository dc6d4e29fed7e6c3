"""What each runtime derives from a cut's config, and that the truth it is held against is transformers' own."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import CONFIG_MAPPING

from prune.checkpoint.dialects import in_both_dialects
from prune.serving.layers import true_layers, true_rope
from prune.serving.readers import readings
from prune.serving.runtimes import RUNTIMES
from prune.surgery.config_fields import edit_config

DEPTH = 12


def config_of(family: str, **more: Any) -> dict[str, Any]:
    """A small config of a family as transformers 5 writes it."""
    values = {"num_hidden_layers": DEPTH, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    if family in ("gemma2", "gemma3_text"):
        values["query_pre_attn_scalar"] = 16  # what the released models have: the size of a head
    config = CONFIG_MAPPING[family](**{**values, "head_dim": 16, **more}).to_dict()
    return {k: v for k, v in config.items() if v is not None} | {"model_type": family}


def cut(config: dict[str, Any], *drop: int) -> dict[str, Any]:
    return edit_config(config, [i for i in range(DEPTH) if i not in drop])


def status(config: dict[str, Any]) -> dict[tuple[str, str], str]:
    return {(r.runtime, r.version): r.status for r in readings(config)}


@pytest.mark.parametrize(
    "family", ["llama", "qwen3", "gemma2", "gemma3_text", "cohere2", "gpt_oss", "olmo3", "smollm3"]
)
def test_the_truth_is_what_the_config_class_says(family: str) -> None:
    config = config_of(family)
    built = CONFIG_MAPPING[family](**config)
    types = getattr(built, "layer_types", None) or ["full_attention"] * DEPTH
    rope = getattr(built, "no_rope_layers", None) or [1] * DEPTH
    assert [f.windowed for f in true_layers(config)] == [t == "sliding_attention" for t in types]
    assert [f.rotary for f in true_layers(config)] == [bool(r) for r in rope]


@pytest.mark.parametrize(("family", "period"), [("gemma2", 2), ("gemma3_text", 6), ("cohere2", 4)])
def test_a_runtime_that_recomputes_a_period_reads_whole_periods_only(family: str, period: int) -> None:
    in_step = status(cut(config_of(family), *range(1, 1 + period)))
    out_of_step = status(cut(config_of(family), 1))
    name = ("llama.cpp", RUNTIMES["llama.cpp"][0].version)
    assert in_step[name] == "right"
    assert out_of_step[name] == "wrong"
    assert out_of_step["vllm", RUNTIMES["vllm"][0].version] == "right"  # it takes the list


def test_a_runtime_that_takes_the_list_reads_any_cut() -> None:
    found = status(in_both_dialects(cut(config_of("smollm3"), 1))[0])
    assert found["mlx", "mlx-lm 0.32.2"] == "right"
    assert found["llama.cpp", RUNTIMES["llama.cpp"][0].version] == "wrong"  # every fourth layer without rotary


def test_old_transformers_recomputes_gemma_2_and_new_takes_its_list() -> None:
    found = status(in_both_dialects(cut(config_of("gemma2"), 0))[0])
    assert (found["transformers4", "4.57.6"], found["transformers4", "4.51.3"]) == ("right", "wrong")


def test_a_depth_that_llama_cpp_takes_for_another_model_is_told() -> None:
    """A Gemma 2 cut to 46 layers is taken for the 27B, whose attention is scaled by width over heads."""
    config = config_of("gemma2", num_hidden_layers=48, query_pre_attn_scalar=16, hidden_size=128)
    found = {r.runtime: r for r in readings(edit_config(config, range(46)), ["llama.cpp"])}
    assert found["llama.cpp"].status == "wrong"
    assert "query_pre_attn_scalar is 16" in found["llama.cpp"].reason
    assert readings(edit_config(config, range(44)), ["llama.cpp"])[0].status == "right"


def test_rope_that_only_the_new_dialect_states_is_told_and_mended() -> None:
    config = config_of("llama", rope_parameters={"rope_type": "default", "rope_theta": 500_000.0})
    before = {r.runtime: r for r in readings(config)}
    assert before["transformers4"].status == "wrong"
    assert "rope_theta 10000" in before["transformers4"].reason
    both, added = in_both_dialects(config)
    assert "rope_theta" in added
    assert {r.status for r in readings(both)} == {"right"}
    assert {k: v for k, v in both.items() if k in config} == config  # nothing that stood there changed


def test_scaled_rope_is_written_in_both_dialects() -> None:
    rope = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # fmt: skip
    both, _ = in_both_dialects(config_of("llama", rope_parameters=rope))
    assert both["rope_scaling"] == {k: v for k, v in rope.items() if k != "rope_theta"}
    assert {r.status for r in readings(both)} == {"right"}


def test_gemma_3_states_both_of_its_bases() -> None:
    rope = {
        "full_attention": {"rope_type": "default", "rope_theta": 2e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
    }
    config = config_of("gemma3_text", rope_parameters=rope)
    assert {k: f.theta for k, f in true_rope(config).items()} == {"full_attention": 2e6, "sliding_attention": 5e3}
    assert status(config)["mlx", "mlx-lm 0.32.2"] == "wrong"
    both, _ = in_both_dialects(config)
    assert (both["rope_theta"], both["rope_local_base_freq"]) == (2e6, 5e3)
    refusing = {"openvino", "onnxruntime"}
    assert {r.status for r in readings(both) if r.runtime not in refusing} == {"right"}
    assert {r.status for r in readings(both) if r.runtime in refusing} == {"refused"}


def test_a_scaling_that_the_older_class_brings_itself_is_read_right() -> None:
    """Seen by running it: gpt-oss without `rope_scaling` gave 4.57.6 the tokens of transformers 5."""
    config = config_of("gpt_oss")
    assert "rope_scaling" not in config
    assert status(config)["transformers4", "4.57.6"] == "right"
    config["rope_parameters"] = config["rope_parameters"] | {"factor": 16.0}
    assert status(config)["transformers4", "4.57.6"] == "wrong"


def test_a_family_without_a_rule_is_unknown_not_right() -> None:
    assert status(config_of("granite_swa"))["mlx", "mlx-lm 0.32.2"] == "unknown"


def test_vllm_recomputes_the_windows_of_gpt_oss() -> None:
    """Seen by running it: without layer 4 no prompt of five came out the same, without 4 and 5 all did."""
    name = ("vllm", RUNTIMES["vllm"][0].version)
    assert status(cut(config_of("gpt_oss"), 4))[name] == "wrong"
    assert status(cut(config_of("gpt_oss"), 4, 5))[name] == "right"


@pytest.mark.parametrize(("family", "base"), [("smollm3", 2e6), ("gpt_oss", 150_000.0), ("llama", 10_000.0)])
def test_a_base_that_transformers_4_takes_by_default_is_no_error(family: str, base: float) -> None:
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": base}}
    config = config_of(family, **({} if family == "gpt_oss" else rope))  # its class brings a scaling, in both versions
    assert config["rope_parameters"]["rope_theta"] == base
    assert {r.version: r.status for r in readings(config, ["transformers4"])}["4.57.6"] == "right"


def test_quantised_weights_are_right_only_for_those_who_read_them() -> None:
    config = in_both_dialects(config_of("llama"))[0]
    four_bits = status(config | {"quantization_config": {"quant_method": "bitsandbytes"}})
    assert {name for name, found in four_bits.items() if found == "right"} == {("transformers4", "4.57.6")}
    assert set(four_bits.values()) == {"right", "refused"}
    eight_bits = {r.runtime: r.status for r in readings(config | {"quantization_config": {"quant_method": "fp8"}})}
    assert {name for name, found in eight_bits.items() if found == "right"} == {"transformers4", "vllm"}


def test_llama_cpp_recomputes_the_windows_of_gpt_oss_and_rounds_its_yarn_as_the_originals() -> None:
    """Seen by running both: with `truncate: true` llama.cpp's tokens without layers 4 and 5 are transformers', with
    `false` those of ONNX Runtime."""
    found = {drop: readings(cut(config_of("gpt_oss"), *drop), ["llama.cpp"])[0] for drop in ((4,), (4, 5))}
    assert found[4,].status == "wrong"
    assert "takes layer 4 for one with sliding window" in found[4,].reason
    assert (found[4, 5].status, "truncate" in found[4, 5].reason) == ("right", True)
    rope = config_of("gpt_oss")["rope_parameters"] | {"truncate": True}
    assert readings(cut(config_of("gpt_oss", rope_parameters=rope), 4, 5), ["llama.cpp"])[0].reason == ""
    assert readings(cut(config_of("gpt_oss"), 4, 5), ["onnxruntime"])[0].reason == ""
    assert (
        "does not round" in readings(cut(config_of("gpt_oss", rope_parameters=rope), 4, 5), ["onnxruntime"])[0].reason
    )


@pytest.mark.parametrize(("number", "found"), [(4, "refused"), (128, "right")])
def test_experts_that_only_the_new_dialect_counts_are_refused_and_mended(number: int, found: str) -> None:
    config = config_of("qwen3_moe", num_local_experts=number)
    config.pop("num_experts", None)
    assert status(config)["transformers4", "4.57.6"] == found  # 128 is what it takes by default
    assert status(config)["mlx", "mlx-lm 0.32.2"] == "refused"
    both, added = in_both_dialects(config)
    assert both["num_experts"] == number
    assert "num_experts" in added
    assert {both_status for name, both_status in status(both).items() if name[0] in ("mlx", "transformers4")} == {
        "right"
    }


@pytest.mark.parametrize(
    ("runtime", "family"), [("ctranslate2", "smollm3"), ("openvino", "gemma2"), ("onnxruntime", "gemma3_text")]
)
def test_what_a_runtime_refuses_is_said_with_the_reason(runtime: str, family: str) -> None:
    (reading,) = readings(config_of(family), [runtime])
    assert reading.status == "refused"
    assert reading.reason


def test_what_4_51_does_at_the_end_of_a_full_cache_is_said_of_cut_and_original_alike() -> None:
    for drop in ((), range(1, 7)):
        reading = readings(in_both_dialects(cut(config_of("gemma3_text"), *drop))[0], ["transformers4"])[1]
        assert (reading.status, "last token" in reading.reason) == ("right", True)


def test_the_released_form_of_gpt_oss_is_not_what_mlx_refuses() -> None:
    config = config_of("gpt_oss")
    assert readings(config, ["mlx"])[0].status == "refused"
    packed = config | {"quantization_config": {"quant_method": "mxfp4"}}
    assert readings(packed, ["mlx"])[0].status == "unknown"
