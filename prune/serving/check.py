"""Refuse what a named runtime would read wrongly, and say in words how each runtime reads a config."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prune.checkpoint.depth_fields import depth_of
from prune.checkpoint.dialects import in_both_dialects
from prune.errors import PruneError
from prune.serving.readers import Reading, readings
from prune.surgery.config_fields import edit_config

Config = dict[str, Any]


class ConfigReader:
    """The last word on a new config.json: written for the named runtimes, refused where one reads it wrongly.

    Called with the config that would be written, it returns the one to write: with named runtimes both dialects of
    transformers stand in it, else the original's own keys stay alone.

    Attributes:
        runtimes: names that must read it rightly.
        found: how every runtime reads what was written last.
    """

    def __init__(self, runtimes: Sequence[str]) -> None:
        self.runtimes = list(runtimes)
        self.found: list[Reading] = []

    def __call__(self, config: Config) -> Config:
        if self.runtimes:
            config, _ = in_both_dialects(config)
            require_readable(config, self.runtimes)
        self.found = readings(config)
        return config


def require_readable(config: Config, runtimes: Sequence[str]) -> None:
    """Refuse a config that one of the runtimes would read wrongly, or of which nothing is known.

    Raises:
        PruneError: names the runtime, the version and what it gets wrong.
    """
    for reading in readings(config, list(runtimes)):
        if reading.status != "right":
            verb = "would read this wrongly: it" if reading.status == "wrong" else "is not known to read this:"
            raise PruneError(
                f"--runtime {reading.runtime}: {reading.version} {verb} {reading.reason}; choose layers with "
                f"`prune plan --runtime {reading.runtime}`, or leave the flag out"
            )


def can_read(config: Config, runtimes: Sequence[str]) -> Callable[[Sequence[int]], bool]:
    """Whether the runtimes would read the model that is left when these layers of a config's model are kept.

    Args:
        config: of the whole model.
        runtimes: names; the answer is true where all read it rightly.

    Returns:
        A function of the kept layers, sorted.
    """
    depth_of(config)

    def readable(keep: Sequence[int]) -> bool:
        try:
            left = in_both_dialects(edit_config(config, keep))[0]
        except PruneError:
            return False
        return all(reading.status == "right" for reading in readings(left, list(runtimes)))

    return readable


def in_words(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each answer: who reads it rightly, who wrongly and why, of whom nothing is known.

    Args:
        rows: `Reading.as_dict` of each.
    """
    found, lines = [Reading(**row) for row in rows], []
    for status, text in (("right", "read rightly by"), ("unknown", "not known of")):
        names = [_name(r) for r in found if r.status == status]
        if names:
            lines.append(f"{text}: {', '.join(names)}")
    for reading in found:
        if reading.status == "wrong":
            lines.append(f"READ WRONGLY, without an error, by {_name(reading)}: {reading.reason}")
        elif reading.status == "right" and reading.reason:
            lines.append(f"{_name(reading)}: {reading.reason}")
    return lines


def _name(reading: Reading) -> str:
    version = reading.version
    return version if version.startswith(reading.runtime) else f"{reading.runtime.rstrip('4')} {version}"
