"""Every option of a cut: its default, its unit, its meaning."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from prune.planning.settings import LayerList
from prune.settings import ADVANCED, OUTPUT, Settings


class CutSettings(Settings):
    """Which layers go, and what is written."""

    drop_layers: LayerList | None = Field(None, description="Layers to remove: 20,21,24-27; both ends included.")
    keep_layers: LayerList | None = Field(None, description="The layers that stay, same form.")
    drop_attn: LayerList = Field(
        [],
        description="Layers whose attention goes: in memory a module takes its place that returns zeros; on disk with "
        "--runtime mlx or llama.cpp, which read such models, or with drop_mlp, where both amount to whole layers.",
    )
    drop_mlp: LayerList = Field([], description="Layers whose MLP goes, likewise.")
    max_shard_size: str = Field("5GB", description="Largest weight file.", json_schema_extra=OUTPUT)
    link: bool = Field(
        False, description="Share unchanged weight files: reflink, else hard link.", json_schema_extra=OUTPUT
    )
    adapters: list[Path] = Field(
        [],
        description="LoRA directories to cut along, into adapters/NAME of the output.",
        json_schema_extra={**OUTPUT, "flag": "adapter", "repeat": True},
    )
    verify: bool = Field(
        True,
        description="Prove the result before it gets its name; without, it may not load.",
        json_schema_extra=ADVANCED,
    )
