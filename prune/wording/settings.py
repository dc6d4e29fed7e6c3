"""Options of how a page speaks."""

from __future__ import annotations

from pydantic import Field, field_validator

from prune.settings import OUTPUT, Settings
from prune.wording.text import Text


class PageSettings(Settings):
    """How a page is written."""

    lang: str = Field("en", description="Language of the page, en or ja.", json_schema_extra=OUTPUT)

    @field_validator("lang")
    @classmethod
    def _spoken(cls, value: str) -> str:
        return Text(value).lang
