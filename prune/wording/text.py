"""The sentences of one language: the catalogue, and how values are written into it.

All sentences live in `en.yaml` and `ja.yaml`, so a page has one language throughout. A placeholder may say how its
value is written: `{share:percent}`, `{tokens:count}`, `{suites:and}`. Assumption: every language has every key with
the same placeholders (a test checks it).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any

from prune.errors import UsageError, nearest
from prune.layer_runs import runs
from prune.wording import numbers
from prune.wording.message import Message, Words, ends
from prune.wording.numbers import UNKNOWN

LANGUAGES = ("en", "ja")


@functools.cache
def catalogue(lang: str) -> dict[str, str]:
    """Key -> sentence with `{placeholders}`."""
    import yaml

    return yaml.safe_load((Path(__file__).parent / f"{lang}.yaml").read_text(encoding="utf8"))


class Text(Formatter):
    """What the tool says in one language: `text("save_value", share=0.4)`, `text.say(message)`."""

    def __init__(self, lang: str = "en", names: Mapping[str, str] | None = None) -> None:
        """
        Args:
            lang: `en` or `ja`.
            names: what domains and tasks are called in it; their own names if absent.

        Raises:
            UsageError: no sentences in that language.
        """
        if lang not in LANGUAGES:
            raise UsageError(f"--lang: unknown language {nearest(lang, LANGUAGES)}")
        self.lang = lang
        self._sentences = catalogue(lang)
        self._names = dict(names or {})
        self.formats: dict[str, Callable[[Any], str]] = {
            "percent": self.percent, "whole_percent": lambda share: self.percent(share, 0),
            "points": numbers.points, "quantity": numbers.quantity, "count": self.count, "bytes": numbers.size,
            "duration": self.duration, "times": self.times, "ranges": self.ranges, "list": self.listed,
            "and": self.joined, "name": self.name, "sentences": lambda parts: self("sentence_space").join(parts),
        }  # fmt: skip

    def __call__(self, key: str, /, **values: Any) -> str:
        return self.vformat(self._sentences[key], (), values)

    def format_field(self, value: Any, format_spec: str) -> Any:
        """One value as its placeholder asks for it."""
        written = self._resolved(value)
        own = self.formats.get(format_spec)
        if written is None:
            return UNKNOWN
        return own(written) if own else super().format_field(written, format_spec)

    def _resolved(self, value: Any) -> Any:
        """Messages and words by language as text, also inside lists; anything else as it is."""
        if isinstance(value, Message):
            return self.say(value)
        if isinstance(value, Mapping):
            return self.words(dict(value))
        return [self._resolved(item) for item in value] if isinstance(value, list) else value

    def say(self, message: Message) -> str:
        """The sentence of a message."""
        return self(message.code, **message.values)

    def spelled(self, value: Any) -> Any:
        """A value dumped for JSON in which every message has its sentence beside it as `text`."""
        if isinstance(value, list):
            return [self.spelled(item) for item in value]
        if not isinstance(value, dict):
            return value
        if value.keys() == {"code", "values"}:
            return {**value, "text": self.say(Message.model_validate(value))}
        return {key: self.spelled(item) for key, item in value.items()}

    def words(self, own: Words) -> str:
        """A person's own words in this language, else in English."""
        return own.get(self.lang) or own.get("en", "")

    def name(self, own: str) -> str:
        """What a domain or task is called: as the user said for this language, else by its own name."""
        return self._names.get(own, own)

    def has(self, key: str) -> bool:
        """Whether the catalogue has such a key."""
        return key in self._sentences

    def known(self, prefix: str, word: str) -> str:
        """The translation of a word from a closed list, or the word itself when it is the user's own."""
        return self._sentences.get(f"{prefix}_{word.lower().replace(' ', '_')}", word)

    def listed(self, words: Iterable[Any]) -> str:
        """'a, b, c'."""
        return self("list_comma").join(map(str, words))

    def joined(self, words: Sequence[Any]) -> str:
        """'a, b and c'."""
        return self("list_and").join([part for part in (self.listed(words[:-1]), *map(str, words[-1:])) if part])

    def ranges(self, layers: Iterable[int]) -> str:
        """Layer indices as short ranges: [3, 8, 9, 10] -> '3, 8–10'."""
        return self.listed(str(first) if first == last else f"{first}–{last}" for first, last in runs(layers))

    def percent(self, share: float | None, digits: int = 1) -> str:
        """0.9434 -> '94.3 %'."""
        return UNKNOWN if share is None else self("number_percent", value=numbers.points(share, digits))

    def interval(self, lo: float | None, hi: float | None) -> str:
        """(0.91, 0.97) -> '91.0–97.0 %'; (0.91, None) -> 'at least 91.0 %'; empty without any end."""
        return "" if lo is None and hi is None else self.say(ends(lo, hi))

    def with_interval(self, value: float | None, lo: float | None, hi: float | None) -> str:
        """'94.3 % (92.0–96.6 %)', or the value alone."""
        said = self.interval(lo, hi)
        return self("number_with_interval", value=self.percent(value), interval=said) if said else self.percent(value)

    def times(self, ratio: float | None) -> str:
        """1.284 -> '1.28×', '1.28倍'."""
        return UNKNOWN if ratio is None else self("number_times", ratio=f"{ratio:.2f}")

    def count(self, value: float | None) -> str:
        """4_730_000 -> '4.73 M'."""
        return numbers.count(value, self.lang)

    def duration(self, seconds: float | None) -> str:
        """74.2 -> '1 min 14 s'."""
        if seconds is None:
            return UNKNOWN
        if seconds < 60:
            return self("number_seconds", seconds=f"{seconds:.1f}" if seconds < 10 else f"{seconds:.0f}")
        minutes, rest = divmod(round(seconds), 60)
        if minutes < 60:
            return self("number_minutes", minutes=minutes, seconds=rest)
        return self("number_hours", hours=minutes // 60, minutes=minutes % 60)


@functools.cache
def _english() -> Text:
    return Text("en")


def english(message: Message) -> str:
    """A message for the command line, logs, manifests and cards, which are in English."""
    return _english().say(message)
