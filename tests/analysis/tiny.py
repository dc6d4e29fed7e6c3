"""Small models and documents that the tests of the analyzer share."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from prune.data.domains import Batch, Document, Domain, batches

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
BASE = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2}  # fmt: skip
FAMILIES = {
    "llama": {},
    "qwen3": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 2.0, "sliding_window": 5},
    "gpt_neox": {},
    "granite": {"residual_multiplier": 0.3, "logits_scaling": 4.0, "embedding_multiplier": 3.0},
}
MORE_FAMILIES = {
    "olmo2": {},
    "gpt_neo": {"num_layers": 6, "attention_types": [[["global", "local"], 3]], "num_heads": 4, "window_size": 4},
    "bloom": {"n_layer": 6, "n_head": 4},
    "mamba": {},
}
"""For spot checks only."""

LENGTHS = {"general": (9, 14, 5, 2, 11), "math": (7, 3, 12, 8)}


def tiny(family: str) -> torch.nn.Module:
    """A random model, its weights large enough that layers write as much as in trained ones."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, **{**BASE, **(FAMILIES | MORE_FAMILIES)[family]})
    ).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data *= 4
    return model


def domains(lengths_of: dict[str, tuple[int, ...]] = LENGTHS) -> dict[str, Domain]:
    """Random documents of these lengths; the first of each domain is a prompt of four tokens and its completion."""
    generator = torch.Generator().manual_seed(1)
    found = {}
    for name, lengths in lengths_of.items():
        documents = [Document(tuple(torch.randint(3, 97, (n,), generator=generator).tolist())) for n in lengths]
        documents[0] = Document(documents[0].input_ids, answer_start=4)
        found[name] = Domain(name, tuple(documents), "made here", f"hash of {name}")
    return found


def left_padded(documents: tuple[Document, ...], batch_size: int, pad_token_id: int = 0) -> list[Batch]:
    """`batches` with the padding in front."""
    rolled = []
    for batch in batches(documents, batch_size, pad_token_id):
        width, sizes = batch.input_ids.shape[1], batch.attention_mask.sum(1).tolist()
        fields = [torch.stack([row.roll(width - n) for row, n in zip(field, sizes, strict=True)])
                  for field in (batch.input_ids, batch.attention_mask, batch.loss_mask)]  # fmt: skip
        rolled.append(Batch(*fields, batch.index))
    return rolled


def stories(name: str) -> tuple[torch.nn.Module, dict[str, Domain]]:
    directory = SHARED / "models" / name
    if not directory.is_dir():
        pytest.skip("needs the shared models")
    from prune.model.loading import load_model, load_tokenizer

    tokenizer = load_tokenizer(str(directory))
    texts = ["Once upon a time, there was a little girl named Lily. She loved to play outside in the park.",
             "One day, Tom saw a big dog. The dog was sad. Tom gave the dog a ball and they played all day.",
             "The sun was warm. Mia and her mom went to the lake to swim. Mia saw a red fish and smiled."]  # fmt: skip
    documents = tuple(Document(tuple(tokenizer(text)["input_ids"])) for text in texts)
    return load_model(str(directory), dtype="float32"), {"stories": Domain("stories", documents, "made here", "hash")}
