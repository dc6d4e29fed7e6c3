"""A checkpoint that the first process reads and the others receive: N processes cost one reading of the files.

Assumption: every process asks for the same checkpoint at the same time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from prune.analysis.processes import Processes
from prune.checkpoint.source import Source
from prune.errors import PruneError
from prune.model.loading import load_config, load_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_once(source: Source, processes: Processes) -> PreTrainedModel:
    """The model of a checkpoint, in evaluation mode, in every process; bit for bit that of the first.

    Raises:
        PruneError: as for `load_model`, in every process; or a process builds another model from the same files.
    """
    if processes.count == 1:
        return load_model(source)
    model = processes.together(
        lambda: load_model(source, device=processes.device) if processes.first else _empty(source)
    )
    told = [(name, tuple(tensor.shape), tensor.dtype) for name, tensor in _tensors(model)]
    asked = processes.from_first(told)
    processes.together(lambda: None if processes.first else _make_room(model, asked, processes.device or "cpu"))
    for _, tensor in _tensors(model):
        torch.distributed.broadcast(tensor, 0)
    model.generation_config = processes.from_first(model.generation_config)
    return model.eval()


def _empty(source: Source) -> PreTrainedModel:
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    from prune.model.deci import KIND, build_deci
    from prune.surgery.signature import skeleton

    if source.checkpoint.config.get("model_type") == KIND:
        with init_empty_weights(include_buffers=False):
            model = build_deci(source, source.attn_implementation)
    else:
        model = skeleton(AutoModelForCausalLM, load_config(source), source.trust_remote_code)
        if source.attn_implementation is not None:
            model.set_attn_implementation(source.attn_implementation)
    model.tie_weights()  # without memory every parameter came to stand alone
    return model


def _tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Parameters and saved buffers by name, tied ones once."""
    saved = model.state_dict()
    buffers = [(name, buffer) for name, buffer in model.named_buffers() if name in saved]
    return [*((name, parameter.data) for name, parameter in model.named_parameters()), *buffers]


def _make_room(model: PreTrainedModel, asked: list[tuple[str, tuple[int, ...], Any]], device: str) -> None:
    """Memory for the parameters, of the types and sizes that the first process has.

    Raises:
        PruneError: names or sizes are others here.
    """
    ours = {name: tuple(tensor.shape) for name, tensor in _tensors(model)}
    if ours != {name: shape for name, shape, _ in asked}:
        other = sorted(set(ours.items()) ^ {(name, shape) for name, shape, _ in asked})[0][0]
        raise PruneError(f"{other}: is not the same in all processes: give every machine the same files and versions")
    parameters = dict(model.named_parameters())
    for name, shape, dtype in asked:
        if name in parameters:
            path, _, leaf = name.rpartition(".")
            room = nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=True)
            setattr(model.get_submodule(path), leaf, room)
    model.tie_weights()
    model.to(device)
