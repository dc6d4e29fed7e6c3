"""What vLLM's loaders read of config.json means the same after a cut.

vLLM itself is not run. READ was made from the source of vLLM 0.33.0: every attribute of a config that a model file
takes, as `attributes_read` finds them. Where vLLM is installed, or `VLLM_SOURCE` names its package directory, the slow
test compares the list with that source.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import os
from pathlib import Path

import pytest
from transformers import AutoConfig

from prune.surgery.config_fields import edit_config

SHAPES = frozenset(
    "hidden_size intermediate_size num_attention_heads num_key_value_heads rms_norm_eps vocab_size".split()
)
LLAMA = SHAPES | frozenset(
    "attention_bias bias head_dim hidden_act is_causal layer_types logit_scale max_position_embeddings mlp_bias"
    " num_hidden_layers qkv_bias rope_parameters sliding_window target_layer_count tie_word_embeddings".split()
)
GEMMA2 = SHAPES | frozenset(
    "attention_bias final_logit_softcapping head_dim hidden_activation layer_types max_position_embeddings"
    " num_hidden_layers query_pre_attn_scalar rope_parameters sliding_window attn_logit_softcapping".split()
)
QWEN2 = SHAPES | frozenset(
    "dual_chunk_attention_config hidden_act is_causal layer_types max_position_embeddings max_window_layers"
    " num_hidden_layers qk_norm rope_parameters tie_word_embeddings".split()
)
READ = {
    "llama": LLAMA,
    "mistral": LLAMA | {"ada_rms_norm_t_cond", "ada_rms_norm_t_cond_dim", "llama_4_scaling"},
    "mixtral": SHAPES
    | frozenset(
        "head_dim max_position_embeddings num_experts_per_tok num_hidden_layers num_local_experts rope_parameters"
        " tie_word_embeddings".split()
    ),
    "qwen2": QWEN2,
    "qwen3": QWEN2 | {"attention_bias", "head_dim"},
    "gemma2": GEMMA2,
    "gemma3": (GEMMA2 - {"attn_logit_softcapping"}) | {"is_causal", "tie_word_embeddings"},
}
BUILT_ON = {"mistral": "llama", "qwen3": "qwen2"}
"""Families whose file subclasses another family's."""
TYPES = {"gemma3": "gemma3_text"}
KEEP = [0, 1, 2, 4, 5, 7]


def both(kind: str, tmp_path: Path, **fields: object) -> tuple[AutoConfig, AutoConfig]:
    """A config of eight layers before and after the cut, as the stock loader reads the written files."""
    config = AutoConfig.for_model(TYPES.get(kind, kind), num_hidden_layers=8, **fields).to_dict()
    parsed = []
    for name, content in (("before", config), ("after", edit_config(config, KEEP))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(content))
        parsed.append(AutoConfig.from_pretrained(tmp_path / name))
    return parsed[0], parsed[1]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("llama", {}), ("mistral", {}), ("mixtral", {}), ("qwen2", {}), ("qwen3", {}), ("gemma2", {}), ("gemma3", {}),
        ("qwen2", {"use_sliding_window": True, "max_window_layers": 4}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}}),
    ],
)  # fmt: skip
def test_every_field_that_a_loader_reads_means_the_same(kind: str, fields: dict[str, object], tmp_path: Path) -> None:
    before, after = both(kind, tmp_path, **fields)
    by_depth = {"num_hidden_layers": len(KEEP)}
    if getattr(before, "layer_types", None):
        by_depth["layer_types"] = [before.layer_types[i] for i in KEEP]
    if "max_window_layers" in READ[kind] and before.max_window_layers < 8:
        by_depth["max_window_layers"] = sum(i < before.max_window_layers for i in KEEP)
    for name in READ[kind]:
        if name == "max_window_layers" and name not in by_depth:
            assert after.max_window_layers >= len(KEEP)  # beyond the depth: no layer has a window
            continue
        expected = by_depth.get(name, getattr(before, name, None))
        assert getattr(after, name, None) == expected, name


def attributes_read(file: Path) -> set[str]:
    """Names taken from a model's config, as `config.NAME` or `getattr(config, "NAME")`."""

    def is_config(node: ast.expr) -> bool:
        name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
        return name in ("config", "hf_config")

    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and is_config(node.value):
            found.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            name = node.args[1]
            if is_config(node.args[0]) and isinstance(name, ast.Constant):
                found.add(str(name.value))
    return found - {"get_text_config"}


def vllm_source() -> Path | None:
    """vLLM's package directory, without importing it."""
    if given := os.environ.get("VLLM_SOURCE"):
        return Path(given)
    spec = importlib.util.find_spec("vllm")
    return Path(spec.origin).parent if spec and spec.origin else None


@pytest.mark.slow
@pytest.mark.skipif(vllm_source() is None, reason="vLLM is not installed and VLLM_SOURCE names no package directory")
@pytest.mark.parametrize("kind", READ)
def test_the_list_is_what_the_source_reads(kind: str) -> None:
    source = vllm_source()
    assert source is not None
    files = [source / f"model_executor/models/{name}.py" for name in (kind, BUILT_ON.get(kind)) if name]
    assert set().union(*map(attributes_read, files)) == READ[kind]
