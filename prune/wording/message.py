"""A sentence before it has a language: its code in the catalogue, and the values that it names.

Whatever finds something out (a warning, a reason, what was not measured) says it as a `Message`; a page, a card or the
command line writes it down with `Text`. Assumption: values are plain data, so that a message survives JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator

Words = dict[str, str]
"""A person's own words by language code, such as the title of a suite. `en` stands in for a language without any."""


class Message(BaseModel):
    """One sentence, or a part of one.

    Attributes:
        code: key of the catalogue (`en.yaml`, `ja.yaml`).
        values: what its placeholders stand for: numbers as they are (the sentence says how they are written), words by
            language, other messages, and lists of these.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")  # a report's JSON carries the finished sentence as well

    code: str
    values: dict[str, Any] = {}

    @field_validator("values")
    @classmethod
    def _messages_inside(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {name: _restored(value) for name, value in values.items()}


def _restored(value: Any) -> Any:
    """A value as it was before JSON: what has a code is a message."""
    if isinstance(value, list | tuple):
        return [_restored(item) for item in value]
    return Message.model_validate(value) if isinstance(value, dict) and "code" in value else value


def message(code: str, /, **values: Any) -> Message:
    """`message("warn_short", domain="math", count=3)`."""
    return Message(code=code, values=values)


def ends(lo: float | None, hi: float | None) -> Message:
    """An interval of shares; a missing end is one that the data do not bound."""
    known = ("low" if lo is not None else "") + ("high" if hi is not None else "")
    return message(f"ends_{known or 'none'}", lo=lo, hi=hi)


def measured_setting(speed: Mapping[str, Any]) -> Message:
    """How a speed was measured, from the fields of `evals.throughput.Throughput`."""
    keys = ("batch_size", "prompt_tokens", "new_tokens", "device", "dtype")
    values = {key: speed[key] for key in keys}
    if threads := speed.get("threads"):
        return message("setting_measured_threads", **values, threads=threads)
    return message("setting_measured", **values)
