"""Weights as a GGUF file in blocks will hold them, so that a draft is trained as what will be served.

The formats of llama.cpp (`quantize_row_q4_0_ref`, `quantize_row_q8_0_ref` in ggml-quants.c): 32 weights of a row share
a scale in half precision. What a runtime rounds besides, the activations, is left out.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

DraftType = Literal["q4_0", "q8_0"]
BLOCK = 32
"""Weights that share a scale; a row whose length is no multiple stays as it is."""


def rounded(weight: torch.Tensor, kind: DraftType) -> torch.Tensor:
    """A matrix [rows, columns] as the format gives it back, in its own dtype."""
    if weight.shape[-1] % BLOCK:
        return weight
    blocks = weight.detach().float().reshape(-1, BLOCK)  # [blocks, 32]
    if kind == "q4_0":  # 16 steps, the largest value (with its sign) at -8
        largest = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))  # [blocks, 1]
        scale, low, high = largest / -8, -8, 7
        steps = torch.floor(blocks * _inverse(scale) + 8.5) - 8
    else:
        scale, low, high = blocks.abs().amax(1, keepdim=True) / 127, -127, 127
        steps = torch.round(blocks * _inverse(scale))
    return (steps.clamp(low, high) * scale.half().float()).reshape(weight.shape).to(weight.dtype)


def _inverse(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale == 0, torch.zeros_like(scale), 1 / scale)


def matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """What the file holds in blocks, by name: weights of linear maps and embeddings, tied ones once."""
    found = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            found[f"{path}.weight"] = module.weight
    return {name: p for name, p in model.named_parameters() if name in found}
