"""Options of how a model is loaded."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from evals.settings import Pairs
from prune.settings import ADVANCED, Settings

SIZE = re.compile(r"\d+(\.\d+)?([KMG]i?B)?", re.IGNORECASE)
"""How much memory, as accelerate reads it."""


class TrustSettings(Settings):
    """What a checkpoint may do."""

    trust_remote_code: bool = Field(
        False, description="Run the repository's own modelling code.", json_schema_extra=ADVANCED
    )
    allow_links: bool = Field(
        False,
        description="A checkpoint's files may be links to outside its directory.",
        json_schema_extra=ADVANCED,
    )


class OriginSettings(TrustSettings):
    """Which version of a model."""

    revision: str | None = Field(
        None, description="Commit, branch or tag of a hub id; or write org/name@revision.", json_schema_extra=ADVANCED
    )


class ModelSettings(OriginSettings):
    """Which version of a model, in which numbers."""

    dtype: str = Field(
        "auto",
        description="Of the computation: auto (the checkpoint's own on a GPU, float32 on CPU), float32, bfloat16, "
        "float16.",
        json_schema_extra=ADVANCED,
    )
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] | None = (
        Field(
            None,
            description="How attention is computed, by transformers' names; its own choice if not given (sdpa where the"
            " family has it). flash_attention_2 and _3 need their packages, a GPU and half precision.",
            json_schema_extra=ADVANCED,
        )
    )


class PlacedSettings(ModelSettings):
    """Which version of a model, in which numbers, on which devices."""

    device_map: Literal["auto", "balanced", "sequential"] | None = Field(
        None,
        description="Spread layers over all GPUs, then host memory, then disk, as accelerate does it: for models larger"
        " than one device. Results are those of one device, to rounding.",
        json_schema_extra=ADVANCED,
    )
    max_memory: Pairs = Field(
        {},
        description="What device_map may take of each device, NAME=SIZE with commas: 0=70GiB,cpu=200GiB.",
        json_schema_extra=ADVANCED,
    )
    offload_folder: str | None = Field(
        None,
        description="Existing folder for weights on disk that cannot be read where the checkpoint has them; the "
        "system's temporary one if not given.",
        json_schema_extra=ADVANCED,
    )

    @field_validator("max_memory")
    @classmethod
    def _sizes(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name, size in value.items():
            if not (name == "cpu" or str(name).isdecimal()) or not SIZE.fullmatch(str(size)):
                raise ValueError(f"{name}={size}: give a GPU's number or cpu, and a size: 0=70GiB,cpu=200GiB")
        return value

    @model_validator(mode="after")
    def _together(self) -> PlacedSettings:
        for name in ("max_memory", "offload_folder"):
            if getattr(self, name) and self.device_map is None:
                raise ValueError(f"--{name} goes with --device_map auto")
        if self.offload_folder is not None and not Path(self.offload_folder).is_dir():
            raise ValueError(f"--offload_folder {self.offload_folder}: no such folder")
        return self
