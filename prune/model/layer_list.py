"""Finding the stack of decoder layers in any causal language model, without a table of names.

Every `nn.ModuleList` is scored by independent hints (length, what transformers records as hidden states, what it never
splits, checkpointing, the decoder it lives in). Assumptions: the layers of one stack sit in one ModuleList; its length
is the depth that the text config states; the true stack beats every other list (real scores 5-14, runners-up <= 1 in
single-stack models).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prune.checkpoint.depth_fields import DEPTH
from prune.errors import PruneError

if TYPE_CHECKING:
    from torch import nn


def text_config(model: nn.Module) -> Any:
    """The config object that describes the text decoder (the model's own, or the nested one of a multimodal model)."""
    config: Any = model.config
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def find_layer_list(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The dotted path and the ModuleList of the decoder layers.

    Raises:
        PruneError: no list looks like a stack of decoder layers.
    """
    from torch import nn

    # vars(), since heterogeneous configs raise on getattr of per-layer fields
    depths = {vars(text_config(model)).get(name) for name in DEPTH} - {None}
    recorded = _recorded_classes(model)
    unsplit = _unsplit_names(model)
    decoder = _decoder_prefix(model)
    best: tuple[tuple[int, int, int], str, nn.ModuleList] | None = None
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) == 0:
            continue
        first = module[0]
        hints = (
            4 * (len(module) in depths)
            + 4 * any(isinstance(first, kind) for kind in recorded)
            + 3 * (type(first).__name__ in unsplit)
            + 2 * any(kind.__name__ == "GradientCheckpointingLayer" for kind in type(first).__mro__)
        )
        score = hints + (1 if hints and decoder and path.startswith(decoder) else 0)
        key = (score, -path.count("."), sum(p.numel() for p in module.parameters()))
        if best is None or key > best[0]:
            best = (key, path, module)
    if best is None or best[0][0] < 3:
        raise PruneError(f"{type(model).__name__}: no stack of decoder layers found; is it a causal language model?")
    return best[1], best[2]


def _recorded_classes(model: nn.Module) -> list[type]:
    """Classes whose outputs transformers records as hidden states, over all sub-models."""
    found: list[type] = []
    for module in model.modules():
        record = getattr(type(module), "_can_record_outputs", None)
        entry = record.get("hidden_states") if isinstance(record, dict) else None
        for item in entry if isinstance(entry, list | tuple) else [entry]:
            kind = getattr(item, "target_class", item)
            if isinstance(kind, type) and kind not in found:
                found.append(kind)
    return found


def _unsplit_names(model: nn.Module) -> set[str]:
    """Class names that transformers never splits over devices, over all sub-models."""
    names: set[str] = set()
    for module in model.modules():
        names |= set(getattr(type(module), "_no_split_modules", None) or ())
    return names


def _decoder_prefix(model: Any) -> str:
    """Dotted path of what `get_decoder()` returns; empty where there is none below the model."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    return next((path + "." for path, module in model.named_modules() if module is decoder and path), "")
