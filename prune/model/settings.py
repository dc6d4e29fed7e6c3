"""Options of how a model is loaded."""

from __future__ import annotations

from pydantic import Field

from prune.settings import ADVANCED, Settings


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
        "float32",
        description="Of the computation: auto, float32, bfloat16, float16.",
        json_schema_extra=ADVANCED,
    )
