"""How large a model's layers are, in parameters and checkpoint bytes, and how deep it is; without loading it.

A local safetensors checkpoint is measured by its headers (exact for quantised files, too); a hub id or another format
by the loaded model. Tied heads are counted once. Attention and MLP are told apart by the names of their tensors.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.checkpoint.depth_fields import depth_of
from prune.checkpoint.directory import CONFIG, read_config
from prune.checkpoint.headers import read_header
from prune.errors import PruneError, UsageError
from prune.planning.units import Units

if TYPE_CHECKING:
    from torch import nn

ATTENTION = re.compile(r"attn|attention|mixer|mamba|temporal_block|conv|mlstm")
MLP = re.compile(r"mlp|ffn|feed_forward|moe|^ff$")
ATTENTION_NORMS = frozenset(("input_layernorm", "ln_1", "input_norm", "norm1", "operator_norm"))
EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings)\.weight$")
NUMBERED = re.compile(r"^(.*?)\.([0-9]{1,6})\.")


@dataclass(frozen=True)
class Sizes:
    """Sizes of a model.

    Attributes:
        layers: of each layer [L], or of each sub-layer [2L].
        rest: embeddings, final norm and head: what stays at any depth.
    """

    layers: tuple[int, ...]
    rest: int

    def of(self, removed: tuple[int, ...] | list[int]) -> int:
        """Size of the model without some layers, or sub-layers."""
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


def measure_sizes(source: str, units: Units, unit: str, model: nn.Module | None) -> Sizes:
    """Sizes by layer or sub-layer.

    Args:
        source: the model's directory or id.
        units: what a size is wanted of.
        unit: `params`; `bytes` of the checkpoint; or `read`, bytes read to decode one token: an embedding that is not
            also the head is left out, of which one row is read. All experts of a mixture count.
        model: the loaded model, used where the source holds no safetensors file.

    Raises:
        UsageError: neither a local safetensors checkpoint nor a model.
        PruneError: the layers cannot be told from the tensor names.
    """
    files = sorted(Path(source).glob("*.safetensors")) if Path(source).is_dir() else []
    if files:
        return _from_checkpoint(source, files, units, unit)
    if model is None:
        raise UsageError(f"{source}: sizes are read from a local safetensors checkpoint; use --num_layers, or give one")
    return loaded_sizes(model, units, unit)


def loaded_sizes(model: nn.Module, units: Units, unit: str) -> Sizes:
    """Sizes of a loaded model by layer or sub-layer; `unit` as for `measure_sizes`, bytes in the dtype it is in."""
    from prune.model.anatomy import find_anatomy

    def size_of(weight: nn.Parameter) -> int:
        return weight.numel() * (1 if unit == "params" else weight.element_size())

    def size(module: nn.Module) -> int:
        return sum(map(size_of, module.parameters()))

    anatomy = find_anatomy(model)
    layers = tuple(size(layer) for layer in anatomy.layers)
    found = layers
    if units.apart:
        named = [[(name, size_of(p)) for name, p in layer.named_parameters()] for layer in anatomy.layers]
        found = _apart(named)
    untied = anatomy.embedding.weight is not anatomy.head.weight
    unread = size(anatomy.embedding) if unit == "read" and untied else 0
    return Sizes(found, size(model) - sum(layers) - unread)


def part_of(name: str, neighbours: frozenset[str]) -> str:
    """Whether a tensor of a layer is its attention's (`attn`) or its MLP's (`mlp`), norms with what they serve.

    Args:
        name: the tensor's name within the layer, such as `self_attn.q_proj.weight`.
        neighbours: first parts of the names of all tensors of the layer.
    """
    first = name.partition(".")[0]
    if "norm" in first or first.startswith("ln"):
        after = first.startswith("post_attention") and any("pre_feedforward" in other for other in neighbours)
        before = first in ATTENTION_NORMS or "attn" in first
        return "attn" if after or before else "mlp"
    return "attn" if ATTENTION.search(first) and not MLP.search(first) else "mlp"


def _apart(named: Sequence[Sequence[tuple[str, int]]]) -> tuple[int, ...]:
    """Sizes [2L] of attention and MLP, in turn, from the names and sizes of every layer's tensors."""
    found: list[int] = []
    for layer in named:
        neighbours = frozenset(name.partition(".")[0] for name, _ in layer)
        parts = {"attn": 0, "mlp": 0}
        for name, amount in layer:
            parts[part_of(name, neighbours)] += amount
        found += parts.values()
    return tuple(found)


def kv_sizes(source: str, units: Units, model: nn.Module | None) -> Sizes:
    """Bytes that one more token adds to the key-value cache, by layer or sub-layer; an MLP's are none.

    Args:
        source: a directory with a config.json, read where there is no model.
        units: what a size is wanted of.
        model: the loaded model.

    Raises:
        UsageError: neither.
        PruneError: a config that transformers does not know.
    """
    from evals.cost import CACHELESS, kv_bytes_per_token

    config, itemsize = _text_config(source, model)
    whole = units.num_layers - (getattr(config, "num_kv_shared_layers", 0) or 0)
    kinds = getattr(config, "layer_types", None) or [None] * units.num_layers
    caching = [layer < whole and kinds[layer] not in CACHELESS for layer in range(units.num_layers)]
    each = kv_bytes_per_token(config, itemsize) // max(1, sum(caching))
    layers = [each * one for one in caching]
    return Sizes(tuple(size for layer in layers for size in (layer, 0)) if units.apart else tuple(layers), 0)


def _text_config(source: str, model: nn.Module | None) -> tuple[Any, int]:
    """The text config, as transformers reads it, and the bytes of a number in the cache."""
    import torch
    from transformers import AutoConfig

    if model is not None:
        from prune.model.layer_list import text_config

        return text_config(model), next(p for p in model.parameters() if p.is_floating_point()).element_size()
    if not (Path(source) / CONFIG).is_file():
        raise UsageError(f"{source}: no local config.json; give a local directory")
    raw = read_config(Path(source))
    try:
        config: Any = AutoConfig.for_model(**raw).get_text_config(decoder=True)
    except (KeyError, ValueError, TypeError) as error:
        raise PruneError(f"{Path(source) / CONFIG}: transformers cannot read it: {error}") from None
    dtype = getattr(torch, str(raw.get("dtype") or raw.get("torch_dtype")), torch.bfloat16)
    return config, dtype.itemsize


def _from_checkpoint(source: str, files: list[Path], units: Units, unit: str) -> Sizes:
    groups: dict[str, dict[int, list[tuple[str, int]]]] = defaultdict(lambda: defaultdict(list))
    num_layers = units.num_layers
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
            groups[match[1]][int(match[2])].append((name[match.end() :], amount))
    # The decoder's list is the heaviest of those that hold exactly the layers 0..L-1 (others: extra prediction heads).
    lists = [g for g in groups.values() if set(range(num_layers)) <= g.keys()]
    if not lists:
        raise PruneError(f"{source}: no tensors are numbered 0..{num_layers - 1}, so use --num_layers")
    heaviest = max(lists, key=lambda group: sum(amount for layer in group.values() for _, amount in layer))
    named = [heaviest[index] for index in range(num_layers)]
    layers = tuple(sum(amount for _, amount in layer) for layer in named)
    return Sizes(_apart(named) if units.apart else layers, total - sum(layers))


def _is_tied(source: str) -> bool:
    return (Path(source) / CONFIG).is_file() and bool(read_config(Path(source)).get("tie_word_embeddings"))
