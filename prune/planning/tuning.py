"""Widths and limits of the searches."""

from __future__ import annotations

from pydantic import Field

from prune.settings import METHOD, Settings


class SearchSettings(Settings):
    """What searches may be told; each reads what concerns it."""

    search_effort: float = Field(
        0.115,
        gt=0,
        le=1,
        description="Share of the layer evaluations of a naive search, every candidate run in full on all documents, "
        "that greedy may take for a quarter of the layers; greedy_full scores all of them on all documents.",
        json_schema_extra=METHOD,
    )
    beam_width: int = Field(4, ge=1, description="Subsets that a beam search keeps.", json_schema_extra=METHOD)
    block_size: int = Field(2, ge=1, description="Layers in a block of strategy blocks.", json_schema_extra=METHOD)
    max_subsets: int = Field(
        600,
        ge=1,
        description="Subsets that evolutionary and greedy_swap score at most, per depth.",
        json_schema_extra=METHOD,
    )


class Tuning(SearchSettings):
    """What a search is handed: its options, and the seed of every random choice."""

    seed: int = 0
