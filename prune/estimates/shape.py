"""The numbers of a model that memory and time depend on, read off its configuration and its skeleton."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Shape:
    """A decoder of L layers.

    Attributes:
        layers: L.
        layer: parameters of a layer, in the mean.
        active: those of them that one token meets; fewer in a mixture of experts.
        linear: rows and columns of a layer's linear weights, summed: an adapter of rank r has r times as many.
        outside: parameters beside the layers; a head tied to the embedding counts once.
        head: parameters of the head, wherever they are kept.
        vocabulary: V, tokens that the model predicts.
        width: d, of the residual stream.
        wide: of the MLP's inner stream; of a mixture, of the experts that one token meets.
        heads: of attention.
        attention: heads times their width.
        cached: numbers that one token adds to the key-value cache in one layer, keys and values.
        item: bytes of a number computed with.
        stored: bytes of a number in the checkpoint.
    """

    layers: int
    layer: float
    active: float
    linear: float
    outside: int
    head: int
    vocabulary: int
    width: int
    wide: int
    heads: int
    attention: int
    cached: float
    item: int = 4
    stored: int = 2

    @property
    def parameters(self) -> int:
        """P, of the whole model."""
        return round(self.layers * self.layer) + self.outside

    @property
    def weights(self) -> int:
        """Bytes of the loaded model."""
        return self.parameters * self.item

    @property
    def file(self) -> int:
        """Bytes of the checkpoint's tensors."""
        return self.parameters * self.stored

    def cut(self, layers: int) -> Shape:
        """The same model with fewer layers."""
        return replace(self, layers=layers)


def shape_of(model: PreTrainedModel, *, item: int, stored: int) -> Shape:
    """The shape of a model, loaded or only built (`prune.surgery.signature.skeleton`).

    Args:
        model: causal language model; its weights are not read.
        item: bytes of a number that it will be computed with.
        stored: bytes of a number in its checkpoint.

    Raises:
        PruneError: no layers or no head can be found.
    """
    from torch import nn

    from evals.cost import kv_bytes_per_token
    from prune.model.anatomy import find_anatomy
    from prune.model.layer_list import text_config

    anatomy, config = find_anatomy(model), text_config(model)
    depth = anatomy.num_layers
    inside = sum(p.numel() for p in anatomy.layers.parameters())
    linears = [m for m in anatomy.layers.modules() if isinstance(m, nn.Linear)]
    share = _met(config)
    experts = sum(p.numel() for name, p in anatomy.layers.named_parameters() if ".experts." in name)
    heads = config.num_attention_heads
    of_head = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Shape(
        layers=depth,
        layer=inside / depth,
        active=(inside - experts * (1 - share)) / depth,
        linear=sum(m.in_features + m.out_features for m in linears) / depth,
        outside=sum(p.numel() for p in model.parameters()) - inside,
        head=anatomy.head.weight.numel(),
        vocabulary=int(anatomy.head.weight.shape[0]),
        width=int(anatomy.embedding.weight.shape[-1]),
        wide=_wide(config),
        heads=heads,
        attention=heads * of_head,
        cached=kv_bytes_per_token(config, 1) / depth,
        item=item,
        stored=stored,
    )


def _met(config: Any) -> float:
    """Which share of the experts one token meets."""
    count = next((getattr(config, n, None) for n in ("num_local_experts", "num_experts", "n_routed_experts")), None)
    met = getattr(config, "num_experts_per_tok", None)
    return met / count if met and count else 1.0


def _wide(config: Any) -> int:
    of_expert = getattr(config, "moe_intermediate_size", None)
    wide = of_expert or getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    wide = max(wide) if isinstance(wide, list | tuple) else wide
    met = getattr(config, "num_experts_per_tok", None) if _met(config) < 1 else None
    return int(wide * (met or 1))
