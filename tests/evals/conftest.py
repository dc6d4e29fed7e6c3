"""A tiny random model with a byte-level tokenizer, and four local tasks, one of each kind that lm-eval knows."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<s>", "</s>", *alphabet])}
    fast = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=fast, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def _model(seed: int, layers: int = 2) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=1,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return _tokenizer()


@pytest.fixture(scope="session")
def model() -> Any:
    return _model(0)


@pytest.fixture(scope="session")
def other_model() -> Any:
    return _model(1)


COMMON = {"dataset_path": "json", "test_split": "test", "metadata": {"version": 1.0}}
TAKE_FIRST = {"function": "take_first"}
TASKS: dict[str, dict[str, Any]] = {
    "tiny_choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "Q: {{question}}\nA:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "tiny_loglikelihood": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "perplexity"}],
    },
    "tiny_rolling": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "tiny_generate": {
        "output_type": "generate_until",
        "doc_to_text": "Q: {{question}}\nA:",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match"}],
        "filter_list": [
            {"name": "any-letter", "filter": [{"function": "regex", "regex_pattern": "([A-Za-z])"}, TAKE_FIRST]},
            {"name": "raw", "filter": [TAKE_FIRST]},
        ],
    },
}


@pytest.fixture(scope="session")
def task_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of lm-eval YAML tasks over one local JSONL file."""
    directory = tmp_path_factory.mktemp("tasks")
    rng = random.Random(0)
    words = "ant bee cat dog elk fox gnu hen".split()
    rows = [
        {
            "question": f"{index} " + " ".join(rng.choices(words, k=4)),
            "choices": rng.sample(words, 4),
            "label": rng.randrange(4),
            "answer": " " + rng.choice(words)[0],
            "text": " ".join(rng.choices(words, k=rng.randrange(10, 90))),
        }
        for index in range(24)
    ]
    data = directory / "items.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, task in TASKS.items():
        content = {"task": name, **COMMON, "dataset_kwargs": {"data_files": {"test": str(data)}}, **task}
        (directory / f"{name}.yaml").write_text(yaml.safe_dump(content))
    return directory


@pytest.fixture(autouse=True)
def _datasets_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
