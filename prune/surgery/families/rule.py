"""What a family may say about removing its layers, and what it is told of a removal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prune.errors import PruneError

Lists = dict[str, list[Any]]
Resolver = Callable[[dict[str, Any], int], Lists]
"""(text config, depth) -> the per-layer lists that the family's config class derives."""


@dataclass(frozen=True)
class Removal:
    """One removal from one config.

    Attributes:
        text: the text part of config.json, which `Family.edit` changes in place.
        kind: its model_type.
        n: depth before.
        keep: sorted source indices that stay.
        types: the kind of token mixer of every layer, empty if all are alike.
    """

    text: dict[str, Any]
    kind: str
    n: int
    keep: Sequence[int]
    types: Sequence[str] = ()

    @property
    def new_index(self) -> dict[int, int]:
        """Old -> new index of the layers that stay."""
        return {old: new for new, old in enumerate(self.keep)}

    def renumber_from_one(self, layers: Sequence[int]) -> list[int]:
        """New numbers of the kept ones among layers that are counted from 1, as they are."""
        new_index = self.new_index
        return [new_index[i - 1] + 1 for i in layers if i - 1 in new_index]


@dataclass(frozen=True)
class Family:
    """What is true of one family only; fields that mean the same everywhere stand in `prune.checkpoint.depth_fields`.

    Attributes:
        derives: the per-layer lists that its config class computes; None: the class itself must be asked.
        never: why no removal at all has a stock representation.
        only_last: why only layers at the end can go (the others would change their number).
        first_stays: what is special about layer 0.
        last_stays: what is special about the last layer.
        refuse: raises for a removal that cannot be expressed.
        edit: changes fields of its own for a removal, or raises.
        per_layer: fields that are per layer in this family when their list is as long as the depth.
        computed: name of a list that the class only computes -> what of it (list, types) must stay the same.
        shared_block: the block that several layers share, and a tensor that each of them has for itself.
        sublayers: part (`attn`, `mlp`) -> the kinds of layer that are this part, where layers are one sub-layer each.
    """

    derives: Resolver | None = None
    never: str = ""
    only_last: str = ""
    first_stays: str = ""
    last_stays: str = ""
    refuse: Callable[[Removal], None] | None = None
    edit: Callable[[Removal], None] | None = None
    per_layer: frozenset[str] = frozenset()
    computed: Mapping[str, Callable[[Sequence[Any], Sequence[str]], list[Any]]] = field(default_factory=dict)
    shared_block: tuple[str, str] | None = None
    sublayers: Mapping[str, tuple[str, ...]] | None = None

    def check(self, removal: Removal) -> None:
        """Refuse a removal that the family cannot express.

        Raises:
            PruneError: with the field and the reason.
        """
        kind, n, keep = removal.kind, removal.n, removal.keep
        if self.never:
            raise PruneError(f"config.json: {kind} cannot be cut: {self.never}")
        if self.only_last and any(old != new for new, old in enumerate(keep)):
            raise PruneError(f"config.json: {kind}: {self.only_last}; only layers at the end can go")
        if self.first_stays and 0 not in keep:
            raise PruneError(f"config.json: {kind}: {self.first_stays}; keep layer 0 (layer_idx 0 is special)")
        if self.last_stays and n - 1 not in keep:
            raise PruneError(f"config.json: {kind}: {self.last_stays}; keep layer {n - 1}")
        if self.refuse is not None:
            self.refuse(removal)
