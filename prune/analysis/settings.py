"""Every option of the measurements: its default, its unit, its meaning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from prune.analysis.registry import GROUPS, MEASURES, STREAMED, select
from prune.settings import ADVANCED, METHOD, Names, Numbers, Settings


class AnalyzeSettings(Settings):
    """What is measured, and how."""

    measure: Names | None = Field(
        None,
        description=f"Names or groups of measurements, with commas. Names: {', '.join(MEASURES)}. Groups: "
        + "; ".join(f"{name} = {', '.join(names)}" for name, names in GROUPS.items() if name != "all")
        + "; all. Absent: default, which costs half a pass a layer; see prune/analysis/README.md.",
    )
    batch_size: int = Field(8, ge=1, description="Documents per forward pass; halved where memory is short.")
    bootstrap: int = Field(1000, ge=10, description="Resamples behind each interval.", json_schema_extra=METHOD)
    first_token: Literal["drop", "keep"] = Field(
        "drop",
        description="drop: remove a layer everywhere; keep: never at position 0 (the paper).",
        json_schema_extra=METHOD,
    )
    swap_distances: Numbers = Field(
        [1], description="For each k, swap exchanges layers l and l + k; with commas.", json_schema_extra=METHOD
    )
    cuts: int = Field(
        3, ge=1, description="Positions per document at which future effects are measured.", json_schema_extra=METHOD
    )

    @field_validator("measure")
    @classmethod
    def _known_measures(cls, value: list[str] | None) -> list[str] | None:
        if value is not None:
            select(value)
        return value

    @field_validator("swap_distances")
    @classmethod
    def _some_distance(cls, value: list[int]) -> list[int]:
        if not value or min(value) < 1:
            raise ValueError("give one or more whole distances of 1 or more, with commas")
        return value


class StreamSettings(Settings):
    """How a model larger than memory is walked."""

    stream: bool = Field(
        False,
        description="Walk a model larger than memory layer by layer: every weight is read once for all documents, and "
        "one layer, the embeddings and the activations are in memory. Same figures as without it. analyze: "
        f"{', '.join(STREAMED)}; other measures would read the weights many times and are refused. plan: weights are "
        "read once for all subsets that a search asks for at a time. teach: once for every file of targets.",
        json_schema_extra=ADVANCED,
    )
    stream_memory: float = Field(
        4.0,
        ge=0,
        description="GiB of activations that stream holds in memory; those beyond it lie in a hidden directory beside "
        "the output until the end (8 x layers x width bytes a token in float32, half as much again with dnll).",
        json_schema_extra=ADVANCED,
    )
