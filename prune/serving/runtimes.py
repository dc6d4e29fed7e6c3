"""The rules of each runtime, from the source of the version that is named with it.

scripts/runtime_matrix.py compares them with what the runtimes do, and ends with an error where they disagree. A family
that stands in no rule of a runtime is not known here, which is said, and is no promise.
"""

from __future__ import annotations

from prune.model.deci import KIND as PARTED
from prune.serving.rules import (
    Runtime,
    Status,
    alike,
    all_experts,
    always,
    experts_unnamed,
    explicit,
    gemma_scale,
    no_rope_every,
    of_families,
    old_rope,
    rope_unless_qwen,
    unless_packed,
    windows_every,
    yarn_rounded,
)

PLAIN = ("llama", "mistral", "phi3", "gemma", "olmo", "olmo2", "granite", "starcoder2", "stablelm", "gpt2", "gpt_neox")
"""Families whose layers are all alike, in every runtime here that knows them."""
MODERN = (*PLAIN, "qwen2", "qwen3", "qwen3_moe", "gemma2", "gemma3_text", "cohere2", "gpt_oss", "olmo3", "smollm3")
"""Families of which a runtime that takes every list from the config was read."""
EARLIER = {"gemma3_text": 1_000_000.0, "gpt_oss": 150_000.0, "smollm3": 2_000_000.0}
YARN = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
STANDING = {"gpt_oss": {**YARN, "original_max_position_embeddings": 4096}}
"""What transformers 4.57 has for families whose config class brings a scaling of its own."""

LONG_PROMPTS = "reads a prompt longer than its window otherwise and gives it no likelihood, as with the original"
EARLY_SHIFT = "shifts a full cache one token too early, as with the original: an answer's last token may be another"
"""`HybridCache`: cache_position >= max_cache_len - 1; seen in Gemma 3 270M without six layers."""

RUNTIMES: dict[str, tuple[Runtime, ...]] = {
    "vllm": (
        # gpt_oss: a window in every layer of even number, whatever layer_types says (found by running it).
        Runtime(
            "0.32.0",
            dict.fromkeys(MODERN, explicit) | {"gpt_oss": windows_every(2)},
            quantised={"bitsandbytes": "does not know bitsandbytes in its build for CPUs; no GPU was tried"},
        ),
    ),
    "llama.cpp": (
        Runtime(
            "of llama-cpp-python 0.3.36",
            {
                **dict.fromkeys((*PLAIN, "qwen2", "qwen3"), alike),
                "qwen3_moe": all_experts,
                "gemma2": windows_every(2),
                "gemma3_text": windows_every(6),
                "cohere2": windows_every(4),
                "olmo3": windows_every(4),
                "gpt_oss": windows_every(2),
                "exaone4": explicit,
                "smollm3": no_rope_every(4),
            },
            scale=gemma_scale({"gemma2": 46, "gemma3_text": 62}),
            note=yarn_rounded(True),
            quantised={"bitsandbytes": "cannot convert bitsandbytes"},
        ),
    ),
    "mlx": (
        Runtime(
            "mlx-lm 0.32.2",
            {
                **dict.fromkeys((*PLAIN, "gpt_oss", "olmo3", "smollm3"), explicit),
                **dict.fromkeys(("qwen2", "qwen3", "gemma2"), alike),
                "qwen3_moe": explicit,
                "gemma3_text": windows_every("sliding_window_pattern", 6),
                "cohere2": windows_every("sliding_window_pattern", 4),
            },
            rope=rope_unless_qwen(
                old_rope({"gemma3_text": 1e6, "cohere2": 50_000.0, "qwen2": 1e6, "gpt_oss": 150_000.0})
            ),
            windowless=frozenset({"gemma2"}),
            refuses={
                "gpt_oss": unless_packed("takes experts in the released MXFP4 form only"),
                "qwen3_moe": experts_unnamed(),
            },
            quantised={"bitsandbytes": "finds parameters that it does not know"},
        ),
    ),
    "ctranslate2": (
        Runtime(
            "4.8.5",
            {
                **dict.fromkeys(("llama", "mistral", "gemma", "gpt2", "gpt_neox", "qwen2", "qwen3"), alike),
                "gemma2": alike,
                "gemma3_text": explicit,
            },
            windowless=frozenset({"gemma2"}),
            note=of_families(LONG_PROMPTS, "gemma3_text"),
            refuses={
                **dict.fromkeys(("gpt_oss", "qwen3_moe", "smollm3"), always("has no conversion for this family")),
                "phi3": always("asks rope_scaling for its type, which transformers 5 leaves out"),
            },
            quantised={"bitsandbytes": "asks for bitsandbytes, which its environment has not"},
        ),
    ),
    "transformers4": (
        Runtime(
            "4.57.6",
            dict.fromkeys(MODERN, explicit),
            rope=old_rope(EARLIER, scalings=STANDING),
            refuses={"qwen3_moe": experts_unnamed(128)},
            quantised={"bitsandbytes": ""},
        ),
        Runtime(
            "4.51.3",
            {
                **dict.fromkeys(PLAIN, alike),
                # Windows from max_window_layers on: a count that a cut recounts, so that it stays true.
                **dict.fromkeys(("qwen2", "qwen3"), explicit),
                "qwen3_moe": explicit,
                "gemma2": windows_every(2),
                "gemma3_text": windows_every("sliding_window_pattern", 6),
                "cohere2": windows_every("sliding_window_pattern", 4),
            },
            rope=old_rope(EARLIER),
            refuses={
                **dict.fromkeys(("gpt_oss", "smollm3"), always("does not know this family yet")),
                "qwen3_moe": experts_unnamed(128),
            },
            note=of_families(EARLY_SHIFT, "gemma2", "gemma3_text", "cohere2"),
            quantised={"bitsandbytes": "asks for a GPU, or for Intel's extension on a CPU"},
        ),
    ),
    # Traces transformers' own model, so that it has the layers as they are.
    "openvino": (
        Runtime(
            "2026.4.1, optimum-intel 2.2.0",
            dict.fromkeys((*PLAIN, "qwen2", "qwen3", "qwen3_moe", "smollm3", "gpt_oss"), explicit),
            refuses=dict.fromkeys(
                ("gemma2", "gemma3_text"),
                always("exports this family from transformers 5.0 at most, and 5.5 is installed"),
            ),
            quantised={"bitsandbytes": "asks for bitsandbytes, which its environment has not"},
        ),
    ),
    "onnxruntime": (
        Runtime(
            "genai 0.18.0",
            {
                **dict.fromkeys(("llama", "mistral", "phi3", "gemma", "granite", "qwen2", "qwen3"), alike),
                "gemma2": explicit,
                "gpt_oss": windows_every(2),
            },
            refuses={
                "gemma3_text": always("takes one rotary embedding for all layers, and this has one for each kind"),
                "qwen3_moe": always("does not support this family"),
                "smollm3": always("fails on layers without rotary embeddings (KeyError: position_ids)"),
            },
            quantised={"bitsandbytes": "does not support bitsandbytes"},
            note=yarn_rounded(False),
        ),
    ),
}
"""Name of `--runtime` -> the versions whose source was read, newest first."""


UNKNOWN_CLASS = f"has no {PARTED} in its transformers"
PARTED_READERS: dict[str, tuple[Status, str]] = {
    "mlx": ("right", ""),
    "vllm": ("refused", "reads it with the original's configuration class only, which is custom code"),
    "llama.cpp": ("unknown", "reads such models as GGUF files, which `prune cut THIS_CHECKPOINT -o model.gguf` makes"),
    **dict.fromkeys(("ctranslate2", "transformers4", "openvino", "onnxruntime"), ("refused", UNKNOWN_CLASS)),
}
"""Who reads models that lack sub-layers."""
