"""What the tests compare with: transformers alone, nothing of ours."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

STORY_ROWS = "data/calibration/stories.jsonl"


def load(directory, dtype=torch.float32):
    """The model in float32, with nothing missing and nothing left over."""
    model, info = AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def without(model, drop):
    """A copy that lacks some layers."""
    model = copy.deepcopy(model)
    kept = [layer for layer in range(model.config.num_hidden_layers) if layer not in drop]
    model.model.layers = torch.nn.ModuleList(model.model.layers[layer] for layer in kept)
    model.config.num_hidden_layers = len(kept)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[layer] for layer in kept]
    return model


def token_ids(directory, texts, length):
    """[documents] of [1, T]."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    return [torch.tensor([tokenizer(text)["input_ids"][:length]]) for text in texts]


@torch.no_grad()
def nll(model, documents):
    """Nats per predicted token over all documents."""
    sums, count = 0.0, 0
    for ids in documents:
        log_p = model(input_ids=ids, use_cache=False).logits[0, :-1].double().log_softmax(-1)  # [T-1, V]
        sums -= log_p.gather(1, ids[0, 1:, None]).sum().item()
        count += ids.shape[1] - 1
    return sums / count


def command(monkeypatch, *arguments):
    """Run `prune ARGUMENTS` in this process; its exit code."""
    from prune.cli import main

    monkeypatch.setattr("sys.argv", ["prune", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0
