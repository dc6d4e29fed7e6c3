"""Tiny models and documents, and what removing layers costs by a naive reading: fresh full passes in float64."""

from __future__ import annotations

import copy

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from prune.data.domains import Document, Domain
from prune.surgery.loaded import drop_layers

LAYERS = 8
SHAPE = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": LAYERS,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2,
}  # fmt: skip


def build(kind: str = "llama", layers: int = LAYERS):
    torch.manual_seed(1)
    shape = {**SHAPE, "num_hidden_layers": layers}
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**shape)).eval()
    return Qwen3ForCausalLM(Qwen3Config(head_dim=8, **shape)).eval()


def domains() -> dict[str, Domain]:
    """Plain documents, and documents of which only the last two tokens are an answer."""
    generator = torch.Generator().manual_seed(2)

    def documents(lengths, answer):
        rows = [torch.randint(0, 96, (n,), generator=generator).tolist() for n in lengths]
        return tuple(Document(tuple(r), answer_start=len(r) - 2 if answer else 1) for r in rows)

    return {
        "text": Domain("text", documents([9, 17, 12, 5], False), "made", "t"),
        "sums": Domain("sums", documents([8, 11, 6], True), "made", "s"),
    }


@torch.no_grad()
def log_probabilities(model, document: Document) -> torch.Tensor:
    """[T, V] float64, one document at a time, by the model's own forward pass."""
    return model(torch.tensor([document.input_ids])).logits[0].double().log_softmax(-1)


def naive_nll(model, domain: Domain) -> float:
    """Nats per counted token."""
    total, count = 0.0, 0
    for document in domain.documents:
        logp = log_probabilities(model, document)
        for position in range(document.answer_start, len(document.input_ids)):
            total -= logp[position - 1, document.input_ids[position]].item()
            count += 1
    return total / count


def shortened(model, drop):
    return drop_layers(copy.deepcopy(model), list(drop)) if drop else model


def naive_cost(model, drop, weights, data=None) -> float:
    """Weighted ΔNLL of a really shortened model."""
    cut, data = shortened(model, drop), data or domains()
    return sum(w * (naive_nll(cut, data[n]) - naive_nll(model, data[n])) for n, w in weights.items())
