"""What llama.cpp derives from a layer's number, per architecture: what a GGUF cut must state, or cannot.

Read in the source of llama.cpp (`src/models/*.cpp`, as shipped in llama-cpp-python 0.3.36) and tried in it where a test
says so. An architecture that stands in no table here is refused: nobody looked whether its layers may change places.
Assumption: the arrays of `PER_LAYER` are read by position, and everything else of a layer is in its tensors.
"""

from __future__ import annotations

ALIKE = frozenset(
    (
        "apertus arcee bailingmoe bailingmoe2 bitnet bloom chatglm codeshell command-r dbrx deci deepseek dots1 "
        "dream ernie4_5 ernie4_5-moe exaone exaone4 falcon falcon-h1 gemma glm4 glm4moe gpt2 gptneox granite "
        "granitemoe grok hunyuan-dense hunyuan-moe internlm2 jais jais2 jamba lfm2 llama maincoder mamba mamba2 "
        "minimax-m2 mistral3 mpt nemotron olmo olmoe openelm orion pangu-embedded phi2 phi3 phimoe plm qwen qwen2 "
        "qwen2moe qwen3 qwen3moe refact rnd1 seed_oss stablelm starcoder starcoder2 xverse"
    ).split()
)
"""No layer's number enters a computation, but through a key that `layers` edits."""

WINDOWS = {"cohere2": 4, "exaone-moe": 4, "gemma2": 2, "gemma3": 6, "gpt-oss": 2, "olmo2": 4, "plamo3": 8}
"""Sliding windows by period: layer i slides unless i % period == period - 1, where the file gives no array."""
WINDOW_IF_STATED = ("gemma3", "olmo2", "plamo3")
"""Only where `attention.sliding_window` is above 0."""
RECURRENT = {"qwen35": 4, "qwen35moe": 4, "qwen3next": 4}
"""Recurrent layers by `full_attention_interval`: layer i has attention if (i + 1) % interval == 0, likewise."""
NO_ROPE = {"smollm3": 4}
"""Layer i has no rotary positions if (i + 1) % step == 0, and no key says otherwise."""
BY_DEPTH = {
    "exaone4": (64, "sliding windows"),
    "gemma2": (46, "attention's scale"),
    "gemma3": (62, "attention's scale"),
}
"""llama.cpp knows one size by its number of layers, and computes something else for it."""

WINDOW_KEY = "attention.sliding_window_pattern"
RECURRENT_KEY = "attention.recurrent_layers"
PER_LAYER = (
    "attention.head_count", "attention.head_count_kv", "feed_forward_length", "expert_feed_forward_length",
    "expert_used_count", WINDOW_KEY, RECURRENT_KEY, "attention.rope_pattern", "swiglu_clamp_exp", "swiglu_clamp_shexp",
    "xielu.alpha_n", "xielu.alpha_p", "xielu.beta", "xielu.eps",
)  # fmt: skip
"""Arrays with one entry a layer."""
NOT_PER_LAYER = ("rope.dimension_sections", "classifier.output_labels")
"""Arrays of another meaning, which may happen to be as long."""
EDITED = ("block_count", "leading_dense_block_count", "nextn_predict_layers", "interleave_moe_layer_step",
          "full_attention_interval")  # fmt: skip
"""Numbers about layers whose meaning is known; any other one whose name speaks of layers or blocks is refused."""
HARMLESS = ("attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon")
