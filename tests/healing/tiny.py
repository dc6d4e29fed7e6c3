"""A teacher of six layers, a student of four of them, and documents with something to learn."""

from __future__ import annotations

import copy
import random

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from prune.data.domains import Document, Domain
from prune.files import sha256_json
from prune.healing.settings import HealSettings
from prune.surgery.loaded import drop_layers

VOCABULARY = 64
KEPT = [0, 1, 3, 5]


def teacher(seed: int = 0, vocabulary: int = VOCABULARY, spread: float = 0.2) -> Qwen3ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, initializer_range=spread,
    )  # fmt: skip
    return Qwen3ForCausalLM(config).eval()


def student(original: Qwen3ForCausalLM) -> Qwen3ForCausalLM:
    return drop_layers(copy.deepcopy(original), [2, 4])


def domain(name: str = "general", count: int = 24, seed: int = 0, length: int = 12) -> Domain:
    """Counting documents: start, start + 1, ...; lengths vary."""
    draw = random.Random(f"{name}/{seed}")
    documents = tuple(
        Document(tuple(range(start, start + draw.randrange(5, length + 1))))
        for start in (draw.randrange(2, 40) for _ in range(count))
    )
    return Domain(name, documents, "made here", sha256_json([d.input_ids for d in documents]))


def settings(**changes) -> HealSettings:
    return HealSettings(
        **{
            "max_steps": 8, "per_device_train_batch_size": 4, "learning_rate": 0.01, "lora_r": 4, "lora_alpha": 8,
            "max_length": 32, "eval_steps": 4, "warmup_ratio": 0.0, "eval_fraction": 0.2,
        }
        | changes
    )  # fmt: skip
