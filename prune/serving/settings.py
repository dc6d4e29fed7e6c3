"""Which runtimes a result is made for."""

from __future__ import annotations

from pydantic import Field, field_validator

from prune.errors import nearest
from prune.serving.names import NAMES
from prune.settings import OUTPUT, Settings


class RuntimeSettings(Settings):
    """Programs that must read the result as transformers does."""

    runtime: list[str] = Field(
        [],
        description=f"Refuse a result that this runtime would read wrongly: {', '.join(NAMES)}; may be repeated.",
        json_schema_extra={**OUTPUT, "repeat": True},
    )

    @field_validator("runtime", mode="before")
    @classmethod
    def _known(cls, value: object) -> object:
        names = [value] if isinstance(value, str) else value
        for name in names if isinstance(names, list | tuple) else ():
            if name not in NAMES:
                raise ValueError(f"unknown {nearest(str(name), list(NAMES))}")
        return names
