"""How large a model's layers are, in parameters and checkpoint bytes, and how deep it is; without loading it.

A local safetensors checkpoint is measured by its headers (exact for quantised files, too); a hub id or another format
by the loaded model. Tied heads are counted once.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prune.checkpoint.depth_fields import depth_of
from prune.checkpoint.directory import CONFIG, read_config
from prune.checkpoint.headers import read_header
from prune.errors import PruneError, UsageError

if TYPE_CHECKING:
    from torch import nn

EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings)\.weight$")
NUMBERED = re.compile(r"^(.*?)\.([0-9]{1,6})\.")


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model.

    Attributes:
        layers: of each layer [L].
        rest: embeddings, final norm and head: what stays at any depth.
    """

    layers: tuple[int, ...]
    rest: int

    def of(self, removed: tuple[int, ...] | list[int]) -> int:
        """Size of the model without some layers."""
        return self.rest + sum(self.layers) - sum(self.layers[layer] for layer in removed)


def config_depth(source: str) -> int:
    """Depth of a model according to its config.json.

    Raises:
        UsageError: not a local directory with a config.
        PruneError: a config that does not state it, or that is not well formed.
    """
    if (Path(source) / CONFIG).is_file():
        return depth_of(read_config(Path(source)))
    raise UsageError(f"{source}: no local config.json states its depth; give an analysis or a local directory")


def measure_sizes(source: str, num_layers: int, unit: str, model: nn.Module | None) -> Sizes:
    """Sizes by layer.

    Args:
        source: the model's directory or id.
        num_layers: its depth.
        unit: `params`; `bytes` of the checkpoint; or `read`, bytes read to decode one token: an embedding that is not
            also the head is left out, of which one row is read. All experts of a mixture count.
        model: the loaded model, used where the source holds no safetensors file.

    Raises:
        UsageError: neither a local safetensors checkpoint nor a model.
        PruneError: the layers cannot be told from the tensor names.
    """
    files = sorted(Path(source).glob("*.safetensors")) if Path(source).is_dir() else []
    if files:
        return _from_checkpoint(source, files, num_layers, unit)
    if model is None:
        raise UsageError(f"{source}: sizes are read from a local safetensors checkpoint; use --num_layers, or give one")
    return loaded_sizes(model, unit)


def loaded_sizes(model: nn.Module, unit: str) -> Sizes:
    """Sizes of a loaded model by layer; `unit` as for `measure_sizes`, bytes in the dtype in which it is loaded."""
    from prune.model.anatomy import find_anatomy

    def size(module: nn.Module) -> int:
        return sum(p.numel() * (1 if unit == "params" else p.element_size()) for p in module.parameters())

    anatomy = find_anatomy(model)
    layers = tuple(size(layer) for layer in anatomy.layers)
    untied = anatomy.embedding.weight is not anatomy.head.weight
    unread = size(anatomy.embedding) if unit == "read" and untied else 0
    return Sizes(layers, size(model) - sum(layers) - unread)


def _from_checkpoint(source: str, files: list[Path], num_layers: int, unit: str) -> Sizes:
    groups: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    total = 0
    tied = _is_tied(source)
    for entry in (entry for file in files for entry in read_header(file).entries):
        name = entry.name
        amount = math.prod(entry.shape) if unit == "params" else entry.bytes
        if unit != "bytes" and tied and name == "lm_head.weight":
            continue
        if unit == "read" and not tied and EMBEDDING.search(name):
            continue
        total += amount
        if match := NUMBERED.match(name):
            groups[match[1]][int(match[2])] += amount
    # The decoder's list is the heaviest of those that hold exactly the layers 0..L-1 (others: extra prediction heads).
    lists = [g for g in groups.values() if set(range(num_layers)) <= g.keys()]
    if not lists:
        raise PruneError(f"{source}: no tensors are numbered 0..{num_layers - 1}, so use --num_layers")
    heaviest = max(lists, key=lambda group: sum(group.values()))
    layers = tuple(heaviest[index] for index in range(num_layers))
    return Sizes(layers, total - sum(layers))


def _is_tied(source: str) -> bool:
    return (Path(source) / CONFIG).is_file() and bool(read_config(Path(source)).get("tie_word_embeddings"))
