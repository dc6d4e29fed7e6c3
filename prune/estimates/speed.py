"""How fast a layer and the head are here, measured on one or two layers without the model's weights.

The values do not matter to the time, so nothing is read: layers are made where they will run and filled with one
number. Assumption: layers take alike; the head's time grows with the vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prune.estimates.memory import Batch
from prune.estimates.work import Work

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

LAYERS = 2
REPEATS = 3
HEAD_ROWS = 8192  # of the vocabulary, timed
SHARE = 0.25  # of the free memory that the trial may take
MOST_TOKENS = {"cpu": 512}
"""By kind of device, in the trial; elsewhere as many as the batch has."""
SECONDS = 5.0
"""Longest that a repeat may take for there to be another."""


@dataclass(frozen=True)
class Speed:
    """Seconds of one layer over one token, and of one prediction."""

    layer: float
    head: float

    def seconds(self, work: Work) -> float:
        """What the work takes."""
        return work.layers * self.layer + work.heads * self.head


def measure_speed(model: PreTrainedModel, batch: Batch, dtype: torch.dtype, device: torch.device) -> Speed | None:
    """Time a few layers of a skeleton on its device; None where they do not fit or do not run alone.

    Args:
        model: on the meta device; its first layers have weights afterwards.
        batch: rows and tokens, of which a CPU takes `MOST_TOKENS` at most.
        dtype: of the computation.
    """
    import torch

    from evals.fitted import free_memory
    from prune.model.anatomy import find_anatomy

    anatomy = find_anatomy(model)
    width, vocabulary = anatomy.embedding.weight.shape[-1], anatomy.head.weight.shape[0]
    one = sum(p.numel() for p in anatomy.layers[0].parameters()) * dtype.itemsize
    count = min(LAYERS, len(anatomy.layers), int(SHARE * free_memory(device) // max(1, one)))
    if count < 1:
        return None
    rows = max(1, min(batch.tokens, MOST_TOKENS.get(device.type, batch.tokens)) // batch.length)
    length = min(batch.length, MOST_TOKENS.get(device.type, batch.length))
    try:
        body = _few_layers(model, anatomy.layers_path, count, dtype, device)
        inputs = torch.full((rows, length, width), 0.01, dtype=dtype, device=device)  # [B, T, d]
        layer = _timed(lambda: body(inputs_embeds=inputs, use_cache=False), device)
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError):
        return None  # families whose layers take more than the stream
    few = min(vocabulary, HEAD_ROWS)
    weight = torch.full((few, width), 0.01, dtype=dtype, device=device)  # [v, d]
    head = _timed(lambda: (inputs.flatten(0, 1) @ weight.T).float().log_softmax(-1), device)
    tokens = rows * length
    return Speed(layer / (count * tokens), head / tokens * vocabulary / few)


def _few_layers(model: PreTrainedModel, path: str, count: int, dtype: torch.dtype, device: torch.device) -> Any:
    """The decoder with its first layers only, everything but the embedding made and filled."""
    import torch
    from torch import nn

    parent, _, name = path.rpartition(".")
    layers = model.get_submodule(path)
    setattr(model.get_submodule(parent), name, nn.ModuleList(list(layers)[:count]))
    body = model.get_decoder()
    body.config.num_hidden_layers = count
    embedding = {id(p) for p in model.get_input_embeddings().parameters()}
    for module in body.modules():
        for key, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in embedding:
                filled = torch.full(parameter.shape, 0.01, dtype=dtype, device=device)
                setattr(module, key, nn.Parameter(filled, requires_grad=False))
        for key, buffer in module.named_buffers(recurse=False):
            setattr(module, key, buffer.to(device))
    return body.eval()


def _timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of the quickest of a few runs, the first of which warms up."""
    import torch

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    taken: list[float] = []
    with torch.inference_mode():
        for _ in range(1 + REPEATS):
            wait()
            began = time.perf_counter()
            run()
            wait()
            taken.append(time.perf_counter() - began)
            if taken[-1] > SECONDS:
                break
    return min(taken[1:] or taken)
