"""The Plan: which layers stay, why, by which criterion, on which data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from prune.files import read_json_as, write_json


class Plan(BaseModel):
    """A decision about depth; `plan.json` on disk.

    Attributes:
        source: the model's directory or id.
        revision: commit hash of a hub id; None for a directory.
        num_layers: depth of the source.
        keep: sorted source indices that stay.
        drop: sorted source indices that go.
        order: the dropped indices in the order in which they were chosen, best first.
        criterion: name in the registry, or "explicit".
        strategy: name in the registry, or "explicit".
        scores: what decided, by name (per layer, or per step of a greedy search).
        data: provenance of the documents behind the scores.
        seed: of every random choice.
        evaluations: layer evaluations that scoring took, against one full pass for every subset.
        compensation: what replaces the gap; None for nothing.
    """

    model_config = ConfigDict(extra="forbid")

    source: str
    num_layers: int
    keep: list[int]
    drop: list[int]
    order: list[int]
    criterion: str
    strategy: str
    scores: dict[str, Any] = {}
    data: dict[str, Any] = {}
    seed: int = 0
    evaluations: dict[str, Any] = {}
    compensation: dict[str, Any] | None = None
    revision: str | None = None

    @model_validator(mode="after")
    def _is_a_partition(self) -> Plan:
        if sorted(self.keep + self.drop) != list(range(self.num_layers)):
            raise ValueError(f"keep and drop must share out the layers 0..{self.num_layers - 1}")
        if self.keep != sorted(self.keep) or self.drop != sorted(self.drop):
            raise ValueError("keep and drop must be sorted")
        if sorted(self.order) != self.drop:
            raise ValueError("order must hold exactly the dropped layers")
        if not self.keep:
            raise ValueError("a plan must keep at least one layer")
        return self

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
