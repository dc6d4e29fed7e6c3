"""A random Llama on disk, small enough for any test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM


def save_llama(path: Path, **config: Any) -> Path:
    """Write a checkpoint of seed 0 and four layers; `config` overrides any field. Returns the path."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    LlamaForCausalLM(LlamaConfig(**{**sizes, **heads, **config})).save_pretrained(path)
    return path
