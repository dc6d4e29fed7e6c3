"""Saving a trained model in the clothes of the checkpoint it came from.

The template's files are copied as they are, shards, names, companions and, above all, `config.json`; then the tensors
that were trained, and only those, are written over their old bytes, each rounded once to the type in which it is
stored. So what was not trained is the template's to the bit, a float32 router in a bfloat16 checkpoint included.
Assumption: the model has the template's architecture and depth, and was loaded from it.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.checkpoint.depth_fields import depth_of
from prune.checkpoint.directory import CONFIG, INDEX, Checkpoint
from prune.checkpoint.source import Source, resolve
from prune.errors import PruneError
from prune.files import write_json
from prune.surgery.companions import write_companions
from prune.surgery.replacements import replace_tensors, stored_dtype

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

HEALING = "healing.json"
"""The record of healing beside a healed checkpoint; its content goes into the manifest on export."""


def save_like(model: PreTrainedModel, trained: Collection[str], template: str | Path | Source, directory: Path) -> None:
    """Write `model` into an existing empty directory as a checkpoint like `template`.

    Args:
        model: on any device, in any float dtype.
        trained: names of its parameters that differ from the template's; those tied to one of them follow.
        template: a checkpoint of the same architecture and depth.
        directory: exists and is empty.

    Raises:
        PruneError: the template has another depth, or a trained parameter has no plain tensor of its shape there.
    """
    checkpoint = resolve(template).checkpoint
    depth, own = depth_of(checkpoint.config), model.config.get_text_config().num_hidden_layers
    if depth != own:
        raise PruneError(
            f"{checkpoint.directory}: its config.json says {depth} layers, the model to be saved has {own}"
        )
    values = tensors_on_disk(model, trained, checkpoint)
    index = [INDEX] if (checkpoint.directory / INDEX).exists() else []
    for name in (*checkpoint.headers, *index, CONFIG):
        shutil.copyfile(checkpoint.directory / name, directory / name)
    write_companions(checkpoint.companions, directory)
    replace_tensors(directory, values, functools.partial(_bytes, values, checkpoint))


def tensors_on_disk(
    model: PreTrainedModel, trained: Collection[str], checkpoint: Checkpoint
) -> dict[str, torch.Tensor]:
    """The trained tensors of a model under the names, and in the shapes, that they have in a checkpoint.

    Families whose parameters in memory are made of several stored tensors (fused experts, split projections) go back
    through transformers' own conversion. Which stored tensors hold something trained is asked of the same conversion:
    ones stand for what was trained, zeros for the rest.

    Raises:
        PruneError: a trained parameter cannot be told among the stored tensors, or has another shape there.
    """
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    state = {name: tensor.detach() for name, tensor in model.state_dict().items() if isinstance(tensor, torch.Tensor)}
    if unknown := sorted(set(trained) - set(state)):
        raise PruneError(f"{checkpoint.directory}: the trained {unknown[0]!r} is no parameter of the model to be saved")
    places = {_place(state[name]) for name in trained}
    if not places:
        return {}
    zero, one = torch.zeros((), dtype=torch.uint8), torch.ones((), dtype=torch.uint8)
    marks = {name: (one if _place(t) in places else zero).expand(t.shape) for name, t in state.items()}
    marked = {name for name, mark in revert_weight_conversion(model, marks).items() if bool(mark.any())}
    found: dict[str, torch.Tensor] = {}
    lost: dict[str, torch.Tensor] = {}
    prefix = f"{model.base_model_prefix}."
    for name, tensor in revert_weight_conversion(model, state).items():
        if name in marked:  # checkpoints of a base model lack the prefix
            stored = next((n for n in (name, name.removeprefix(prefix)) if n in checkpoint.tensors), None)
            (found if stored else lost)[stored or name] = tensor
    written = {_place(tensor) for tensor in found.values()}
    for name, tensor in lost.items():
        if _place(tensor) not in written:  # else it is tied to one that is stored
            raise PruneError(f"{checkpoint.directory}: holds no tensor {name!r}, which was trained: stored otherwise?")
    for name, tensor in found.items():
        stored_dtype(checkpoint, name)
        if tuple(tensor.shape) != checkpoint.tensors[name].entry.shape:
            shape = list(checkpoint.tensors[name].entry.shape)
            raise PruneError(f"{checkpoint.directory}: {name!r} is stored as {shape}, trained as {list(tensor.shape)}")
    return found


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    """What tied parameters have in common."""
    return tensor.device, tensor.data_ptr(), tuple(tensor.shape)


def _bytes(values: Mapping[str, torch.Tensor], checkpoint: Checkpoint, name: str) -> bytes:
    """A trained tensor as it is to be stored: rounded once, to the type of the tensor that it replaces.

    Raises:
        PruneError: a value is too large for that type.
    """
    import torch

    kind = stored_dtype(checkpoint, name)
    cast = values[name].to("cpu", getattr(torch, kind)).contiguous()
    if not bool(torch.isfinite(cast).all()):
        raise PruneError(f"{name}: trained to values that {kind}, the type it is stored in, cannot hold")
    return cast.reshape(-1).view(torch.uint8).numpy().tobytes()


def save_healed(
    model: PreTrainedModel,
    trained: Collection[str],
    record: Mapping[str, Any],
    teacher: Source | str | None,
    template: str | Path | Source,
    directory: Path,
) -> None:
    """Write a healed model like the checkpoint it was cut to, with the record of its healing.

    Args:
        model, trained, template, directory: see `save_like`.
        record: what `HealResult.as_dict` gives.
        teacher: named in the record, which travels: of a directory the last part alone. A name where it was in memory.

    Raises:
        PruneError: see `save_like`.
    """
    save_like(model, trained, template, directory)
    name = teacher
    if teacher is not None and not isinstance(teacher, str):
        name = f"{teacher.label}@{teacher.revision}" if teacher.revision else teacher.label
    write_json(directory / HEALING, {**record, "teacher": name})
