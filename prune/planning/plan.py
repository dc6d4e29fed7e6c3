"""The Plan: which layers stay, why, by which criterion, on which data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from prune.files import read_json_as, write_json
from prune.planning.units import Unit


class Plan(BaseModel):
    """A decision about depth; `plan.json` on disk.

    Attributes:
        source: the model's directory or id.
        revision: commit hash of a hub id; None for a directory.
        num_layers: depth of the source.
        keep: sorted source indices that stay.
        drop: sorted source indices that go.
        order: the dropped indices in the order in which they were chosen, best first; with unit `sublayer` they read
            `attention.3` and `mlp.7`.
        criterion: name in the registry, or "explicit".
        strategy: name in the registry, or "explicit".
        scores: what decided, by name (per layer, or per step of a greedy search).
        data: provenance of the documents behind the scores.
        seed: of every random choice.
        evaluations: layer evaluations that scoring took, against one full pass for every subset.
        compensation: what replaces the gap; None for nothing.
        unit: what goes: `layer`, or `attention`, `mlp` or `sublayer` (either); then no whole layer goes: `keep` holds
            all, and a layer that loses both parts stands in both of the following lists.
        drop_attention: sorted layers whose attention goes.
        drop_mlp: sorted layers whose MLP goes.
    """

    model_config = ConfigDict(extra="forbid")

    source: str
    num_layers: int
    keep: list[int]
    drop: list[int]
    order: list[int | str]
    criterion: str
    strategy: str
    scores: dict[str, Any] = {}
    data: dict[str, Any] = {}
    seed: int = 0
    evaluations: dict[str, Any] = {}
    compensation: dict[str, Any] | None = None
    revision: str | None = None
    unit: Unit = "layer"
    drop_attention: list[int] = []
    drop_mlp: list[int] = []

    @property
    def removed(self) -> int:
        """How many units go."""
        return len(self.order)

    @model_validator(mode="after")
    def _is_a_partition(self) -> Plan:
        if sorted(self.keep + self.drop) != list(range(self.num_layers)):
            raise ValueError(f"keep and drop must share out the layers 0..{self.num_layers - 1}")
        if self.keep != sorted(self.keep) or self.drop != sorted(self.drop):
            raise ValueError("keep and drop must be sorted")
        if not self.keep:
            raise ValueError("a plan must keep at least one layer")
        if self.unit == "layer":
            if self.drop_attention or self.drop_mlp:
                raise ValueError("drop_attention and drop_mlp need unit attention, mlp or sublayer")
            if sorted(map(str, self.order)) != sorted(map(str, self.drop)):
                raise ValueError("order must hold exactly the dropped layers")
            return self
        self._check_parts()
        return self

    def _check_parts(self) -> None:
        """That the lists of sub-layers are sorted, within the depth, of the unit, and what `order` holds."""
        if self.drop:
            raise ValueError(f"drop must be empty with unit {self.unit}: whole layers go with unit layer")
        lists = {"attention": self.drop_attention, "mlp": self.drop_mlp}
        for name, layers in lists.items():
            if layers != sorted(set(layers)) or any(not 0 <= layer < self.num_layers for layer in layers):
                raise ValueError(f"drop_{name} must be sorted layers of 0..{self.num_layers - 1}")
            if layers and self.unit not in (name, "sublayer"):
                raise ValueError(f"drop_{name} must be empty with unit {self.unit}")
        if len(self.drop_attention) == len(self.drop_mlp) == self.num_layers:
            raise ValueError("a plan must keep at least one sub-layer")
        parted = self.unit == "sublayer"
        going = [f"{name}.{i}" if parted else str(i) for name, layers in lists.items() for i in layers]
        if sorted(map(str, self.order)) != sorted(going):
            raise ValueError("order must hold exactly the sub-layers that go")

    def save(self, path: Path) -> None:
        """Write `plan.json` atomically."""
        write_json(path, self.model_dump())

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read and check a plan.

        Raises:
            UsageError: missing file, not JSON, or a field that is wrong (named).
        """
        return read_json_as(cls, path, name="plan", writer="`prune plan` writes one")
