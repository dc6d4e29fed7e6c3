"""Every option of planning: its default, its unit, its meaning."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from prune.checkpoint.layer_lists import parse_layers
from prune.data.settings import WeightSettings
from prune.planning.registry import criterion_names, strategy_names
from prune.planning.tuning import SearchSettings, Tuning
from prune.planning.units import Unit
from prune.settings import METHOD, Settings, fields_of


def _layers(value: Any) -> Any:
    """Indices from text, or from the parts that a flag's text was split into; a list of numbers as it is."""
    if isinstance(value, list) and any(isinstance(part, str) for part in value):
        value = ",".join(map(str, value))
    return (parse_layers(value) if value else []) if isinstance(value, str) else value


LayerList = Annotated[list[int], BeforeValidator(_layers)]
"""`[20, 21, 24]` or `20,21,24-27`, both ends of a range included."""


class PlanSettings(WeightSettings, SearchSettings):
    """Which layers go, at whatever depth."""

    criterion: str = Field(
        "dnll",
        description=f"What a layer's worth is: {', '.join(criterion_names())}; see prune/planning/README.md.",
    )
    strategy: str = Field("greedy", description=f"How the set of layers is chosen: {', '.join(strategy_names())}.")
    protect: LayerList = Field([], description="Layers that always stay: 0,1,30-31 (both ends).")

    prediction_share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of each document's predictions that scoring reads, drawn at random, 64 at least; none "
        "given: all, and fewer where the output head costs more than the layers.",
        json_schema_extra=METHOD,
    )

    def tuning(self, seed: int) -> Tuning:
        """For the search."""
        return Tuning(**fields_of(SearchSettings, self), seed=seed)


class UnitSettings(Settings):
    """What goes."""

    unit: Unit = Field(
        "layer",
        description="What goes: whole layers, their attention alone, their mlp alone, or sublayer: either. num_layers "
        "is then so many attentions or MLPs; of sublayer twice as many stay.",
    )


class DecodeSettings(Settings):
    """What a decoded token reads."""

    decode_context: int = Field(
        0, ge=0, description="Tokens in the cache whose keys and values target_speedup counts as read for each token."
    )


class BudgetSettings(Settings):
    """How far the model is cut: one of these."""

    num_layers: int | None = Field(None, description="Layers that remain.")
    drop_fraction: float | None = Field(None, description="Share of the layers that goes.")
    target_params: int | None = Field(None, description="Parameters that remain at most.")
    target_bytes: int | None = Field(None, description="Bytes of the checkpoint that remain at most.")
    target_speedup: float | None = Field(
        None, description="1.5: decoding so many times as fast, predicted by bytes read a token."
    )
    target_kv_bytes: int | None = Field(
        None, description="Bytes that one more token adds to the key-value cache at most."
    )
    drop_layers: LayerList | None = Field(None, description="Explicit: 20,21,24-27 (both ends).")
    keep_layers: LayerList | None = Field(None, description="The layers that stay, same form.")
