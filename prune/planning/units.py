"""What a search removes: whole layers, or the attention and the MLP of layers.

Searches know units by number only. With whole layers unit l is layer l; apart, unit 2l is the attention of layer l and
unit 2l + 1 its MLP, whether one kind of them may go or both, so that a unit's number says what it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Unit = Literal["layer", "attention", "mlp", "sublayer"]
UNITS: tuple[Unit, ...] = ("layer", "attention", "mlp", "sublayer")
NAMES = ("attention", "mlp")


@dataclass(frozen=True)
class Units:
    """The units of a model.

    Attributes:
        num_layers: depth L.
        unit: which may go.
    """

    num_layers: int
    unit: Unit = "layer"

    @property
    def apart(self) -> bool:
        """Whether attention and MLP are units of their own."""
        return self.unit != "layer"

    @property
    def size(self) -> int:
        """How many units there are: L, or 2L."""
        return self.num_layers * (2 if self.apart else 1)

    @property
    def fixed(self) -> frozenset[int]:
        """Units of the kind that never goes."""
        if self.unit in ("layer", "sublayer"):
            return frozenset()
        kept = 1 if self.unit == "attention" else 0
        return frozenset(range(kept, self.size, 2))

    @property
    def words(self) -> str:
        """What goes, for messages."""
        return {"layer": "layers", "attention": "attention", "mlp": "MLPs", "sublayer": "sub-layers"}[self.unit]

    def of_layers(self, layers: Iterable[int]) -> frozenset[int]:
        """Every unit in some layers."""
        if not self.apart:
            return frozenset(layers)
        return frozenset(unit for layer in layers for unit in (2 * layer, 2 * layer + 1))

    def going(self, layers: Sequence[int]) -> tuple[int, ...]:
        """The units that a list of layers means, in its order: their attention, say; for `sublayer` both."""
        if not self.apart:
            return tuple(layers)
        return tuple(unit for layer in layers for unit in (2 * layer, 2 * layer + 1) if unit not in self.fixed)

    def attention(self, units: Iterable[int]) -> list[int]:
        """Layers whose attention is among some units, sorted."""
        return sorted(unit // 2 for unit in units if self.apart and unit % 2 == 0)

    def mlp(self, units: Iterable[int]) -> list[int]:
        """Layers whose MLP is among some units, sorted."""
        return sorted(unit // 2 for unit in units if self.apart and unit % 2 == 1)

    def label(self, unit: int) -> int | str:
        """How a plan names a unit: the layer's number, with `attention.` or `mlp.` before it where both may go."""
        if not self.apart:
            return unit
        return f"{NAMES[unit % 2]}.{unit // 2}" if self.unit == "sublayer" else unit // 2
