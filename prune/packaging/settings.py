"""Every option of packaging: its default, its unit, its meaning."""

from __future__ import annotations

from pydantic import Field

from prune.settings import OUTPUT, Settings


class ExportSettings(Settings):
    """What is written, and in spite of what."""

    override: str | None = Field(None, description="Export without a PASS; the reason, which is recorded.")
    max_shard_size: str = Field("5GB", description="Largest weight file.", json_schema_extra=OUTPUT)


class HubSettings(Settings):
    """Where the finished directory goes beyond this machine."""

    push_to_hub: bool = Field(False, description="Upload the finished directory.", json_schema_extra=OUTPUT)
    hub_model_id: str | None = Field(None, description="org/name to upload to.", json_schema_extra=OUTPUT)
    private: bool = Field(False, description="Make a new repository private.", json_schema_extra=OUTPUT)
    token: str | None = Field(
        None,
        description="Hub token; the one you logged in with if absent. Written nowhere.",
        json_schema_extra=OUTPUT,
    )
