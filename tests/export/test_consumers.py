"""Other runtimes read what we write: the same greedy tokens as transformers. Skipped where they are not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from prune.model.loading import load_model
from prune.surgery.cut import cut

NEW_TOKENS = 12


def llama(directory: Path, demo_model: Path) -> Path:
    """A six-layer Llama over the demo model's tokenizer."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(demo_model)
    first = tokenizer.convert_ids_to_tokens(0)
    for role in ("unk_token", "bos_token", "eos_token"):  # CTranslate2's Llama needs all three
        setattr(tokenizer, role, getattr(tokenizer, role) or first)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.2, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def greedy(directory: Path, ids: list[int]) -> list[int]:
    model = load_model(str(directory), device="cpu")
    batch: Any = torch.tensor([ids])  # [1, T]
    out = model.generate(
        batch,
        attention_mask=torch.ones_like(batch),
        max_new_tokens=NEW_TOKENS,
        min_new_tokens=NEW_TOKENS,
        do_sample=False,
    )
    return out[0, len(ids) :].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "demo"])
def test_ctranslate2_generates_the_same_tokens(name: str, tmp_path: Path, demo_model: Path) -> None:
    ctranslate2 = pytest.importorskip("ctranslate2")
    from ctranslate2.converters import TransformersConverter
    from transformers import AutoTokenizer

    source = llama(tmp_path / "source", demo_model) if name == "llama" else demo_model
    cut(str(source), tmp_path / "out", drop_layers=[3], verify=False)
    try:
        TransformersConverter(str(tmp_path / "out")).convert(str(tmp_path / "converted"))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        if name == "demo":
            pytest.skip(f"this CTranslate2 does not convert the demo model's family: {error}")
        raise
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = list(range(20, 30))
    runtime = ctranslate2.Generator(str(tmp_path / "converted"), compute_type="float32", intra_threads=1)
    found = runtime.generate_batch(
        [tokenizer.convert_ids_to_tokens(ids)], max_length=NEW_TOKENS, min_length=NEW_TOKENS, beam_size=1,
        include_prompt_in_result=False,
    )  # fmt: skip
    assert found[0].sequences_ids[0] == greedy(tmp_path / "out", ids)
