"""Options of how documents are read."""

from __future__ import annotations

from pydantic import Field

from prune.settings import DATA, Settings, Weights


class DocumentSettings(Settings):
    """How many documents, and how much of each."""

    seq_length: int = Field(
        512, ge=2, description="Longer documents are cut on the right, in tokens.", json_schema_extra=DATA
    )
    calib_num_samples: int | None = Field(
        None, ge=1, description="Documents per domain; all if absent.", json_schema_extra=DATA
    )


class WeightSettings(Settings):
    """How domains count against each other."""

    domain_weights: Weights = Field(
        {},
        description="Weight of each domain, as general=0.5,math=0.5; all weigh the same if absent.",
        json_schema_extra=DATA,
    )
