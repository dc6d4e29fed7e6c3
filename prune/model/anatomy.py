"""Where a decoder keeps its layers, their attention and MLP, its embedding and head.

Found from the model object alone (no table of architectures): hints that transformers gives about each class decide,
names only break ties. Assumptions: the layers are one `nn.ModuleList`, each element is one step of the residual
stream, and attention and MLP are direct children of a layer. A sub-layer that cannot be found is None, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from prune.errors import PruneError
from prune.model.layer_list import find_layer_list

ATTENTION_NAME = re.compile(r"attn|attention|mixer|mamba|temporal_block|conv|mlstm")
MLP_NAME = re.compile(r"mlp|ffn|feed_forward|moe|mlp_block|^ff$")
MLP_ENTRY_NAME = re.compile(r"^fc1$|^fc_in$")


@dataclass(frozen=True)
class Anatomy:
    """The parts of a causal language model; references into the model, not copies.

    Attributes:
        layers_path: dotted name of the layer list, for example `model.layers`.
        layers: the layer list, length L.
        attention: for each layer the module that mixes tokens (attention, state space, convolution), or None.
        mlp: for each layer the module that receives the MLP's input, or None.
        embedding: the token embedding.
        head: the output projection.
    """

    layers_path: str
    layers: nn.ModuleList
    attention: list[nn.Module | None]
    mlp: list[nn.Module | None]
    embedding: nn.Module
    head: nn.Module

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    @property
    def device(self) -> torch.device:
        """Where the model takes token ids: where the embedding computes, which accelerate may keep elsewhere."""
        computes = getattr(getattr(self.embedding, "_hf_hook", None), "execution_device", None)
        place: torch.device = self.embedding.weight.device if computes is None else torch.device(computes)
        return place


def find_anatomy(model: nn.Module) -> Anatomy:
    """Locate the parts of `model`.

    Raises:
        PruneError: no layer list, or no output head.
    """
    path, layers = find_layer_list(model)
    head = model.get_output_embeddings()
    if head is None:
        raise PruneError(f"{type(model).__name__} has no output head: give a causal language model")
    recorded = getattr(model, "_can_record_outputs", None) or {}
    attention_class = _recorded_class(recorded.get("attentions"))
    return Anatomy(
        layers_path=path,
        layers=layers,
        attention=[_find_attention(layer, attention_class) for layer in layers],
        mlp=[_find_mlp(layer) for layer in layers],
        embedding=model.get_input_embeddings(),
        head=head,
    )


def is_norm(name: str, module: nn.Module) -> bool:
    """Whether a child is a normalisation, also one that is switched off (`Identity` named as a norm)."""
    kind = type(module).__name__
    return "norm" in kind.lower() or (isinstance(module, nn.Identity) and "norm" in name.lower())


def _recorded_class(entry: object) -> type | None:
    """The module class of one `_can_record_outputs` entry, which may be a class, a recorder or a list of either."""
    if isinstance(entry, list | tuple):
        entry = entry[0] if entry else None
    entry = getattr(entry, "target_class", entry)
    return entry if isinstance(entry, type) else None


def _candidates(layer: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """Children that hold parameters and are no norms."""
    for name, child in layer.named_children():
        if not is_norm(name, child) and next(child.parameters(), None) is not None:
            yield name, child


def _find_attention(layer: nn.Module, attention_class: type | None) -> nn.Module | None:
    if attention_class is not None:
        for _, child in _candidates(layer):
            if isinstance(child, attention_class):
                return child
    return next((child for name, child in _candidates(layer) if ATTENTION_NAME.search(name)), None)


def _find_mlp(layer: nn.Module) -> nn.Module | None:
    children = [(name, child) for name, child in _candidates(layer) if not isinstance(child, nn.ModuleList)]
    named = next((child for name, child in children if MLP_NAME.search(name)), None)
    return named or next((child for name, child in children if MLP_ENTRY_NAME.search(name)), None)
