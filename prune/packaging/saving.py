"""Saving a trained model in the clothes of the checkpoint it came from.

Assumption: the model has the architecture of the template directory. Tensor names, dtype, tokenizer, licence and,
above all, `config.json` stay the template's own: a config rewritten by today's transformers would lose keys that
older runtimes read.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.checkpoint.directory import CUT_RECORD, is_weight_file
from prune.errors import PruneError
from prune.files import write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prune.checkpoint.source import Source

HEALING = "healing.json"
"""The record of healing beside a healed checkpoint; its content goes into the manifest on export."""


def save_like(model: PreTrainedModel, template: Path, directory: Path, max_shard_size: str = "5GB") -> None:
    """Write `model` into an existing empty directory as a checkpoint like `template`.

    Args:
        model: on any device, in any float dtype; cast to the dtype of the template's weights.
        template: a checkpoint directory of the same architecture and depth.
        directory: exists and is empty.

    Raises:
        PruneError: the template's config has another depth.
    """
    import torch

    config = json.loads((template / "config.json").read_text(encoding="utf8"))
    text = config.get("text_config", config)
    depth = text.get("num_hidden_layers", model.config.get_text_config().num_hidden_layers)
    if depth != model.config.get_text_config().num_hidden_layers:
        raise PruneError(f"{template}: its config.json says {depth} layers, the model to be saved has another depth")
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    model.to(getattr(torch, name)).save_pretrained(directory, max_shard_size=max_shard_size)
    for path in sorted(template.iterdir()):
        if path.is_file() and not is_weight_file(path.name) and path.name != CUT_RECORD:
            shutil.copyfile(path, directory / path.name)
    for path in directory.iterdir():
        path.chmod(0o644)


def save_healed(
    model: PreTrainedModel, record: Mapping[str, Any], teacher: Source | None, template: Path, directory: Path
) -> None:
    """Write a healed model like the checkpoint it was cut to, with the record of its healing.

    Args:
        model, template, directory: see `save_like`.
        record: what `HealResult.as_dict` gives.
        teacher: named in the record, which travels: of a directory the last part alone.

    Raises:
        PruneError: see `save_like`.
    """
    save_like(model, template, directory)
    name = teacher and (f"{teacher.label}@{teacher.revision}" if teacher.revision else teacher.label)
    write_json(directory / HEALING, {**record, "teacher": name})
