"""Refuse what a named runtime would read wrongly, and say in words how each runtime reads a config."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prune.checkpoint.depth_fields import model_kind, text_part
from prune.checkpoint.dialects import in_both_dialects
from prune.errors import PruneError
from prune.serving.layers import true_layers
from prune.serving.readers import Reading, derived, readings, same
from prune.serving.runtimes import RUNTIMES
from prune.surgery.config_fields import edit_config

Config = dict[str, Any]
VERBS = {
    "wrong": "would read this wrongly: it",
    "refused": "refuses this with an error: it",
    "unknown": "is not known to read this:",
}
"""What follows a runtime's name, before the reason."""


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
    """Refuse a config that one of the runtimes would read wrongly or refuse, or of which nothing is known.

    Raises:
        PruneError: names the runtime, the version and what it gets wrong.
    """
    for reading in readings(config, runtimes):
        if reading.status != "right":
            raise PruneError(
                f"--runtime {reading.runtime}: {reading.name} {VERBS[reading.status]} {reading.reason}; "
                f"choose layers with `prune plan --runtime {reading.runtime}`, or leave the flag out"
            )


def can_read(config: Config, runtimes: Sequence[str]) -> Callable[[Sequence[int]], bool]:
    """Whether the runtimes would read the model that is left when these layers of a config's model are kept.

    Args:
        config: of the whole model.
        runtimes: names; the answer is true where all read it rightly.

    Returns:
        A function of the kept layers, sorted.
    """

    def readable(keep: Sequence[int]) -> bool:
        try:
            left = in_both_dialects(edit_config(config, keep))[0]
        except PruneError:
            return False
        return all(reading.status == "right" for reading in readings(left, runtimes))

    return readable


def slots_for(config: Config, runtimes: Sequence[str]) -> Callable[[int], list[frozenset[int]] | None]:
    """For a search: number of layers that stay -> the source layers that may stand at each position.

    A layer may stand where every runtime derives what it is. None where no cut of that size is read rightly, as with a
    depth at which a runtime takes the model for another.

    Raises:
        PruneError: a runtime of which nothing is known for this family, or that reads the whole model wrongly.
    """
    require_readable(in_both_dialects(config)[0], runtimes)
    true, text, kind = true_layers(config), text_part(config), model_kind(config)
    readable = can_read(config, runtimes)

    def slots(count: int) -> list[frozenset[int]] | None:
        found = [frozenset(range(len(true)))] * count
        for runtime in (runtime for name in runtimes for runtime in RUNTIMES[name]):
            blind = kind in runtime.windowless
            for position, facts in enumerate(derived(runtime, text, kind, count)):
                alike = {layer for layer, own in enumerate(true) if same(own, facts, blind)}
                found[position] = found[position] & alike
        keep = _first_fit(found)
        return found if keep is not None and readable(keep) else None

    return slots


def _first_fit(slots: Sequence[frozenset[int]]) -> list[int] | None:
    """Some increasing choice of one layer a position; None where there is none."""
    keep: list[int] = []
    for allowed in slots:
        following = [layer for layer in allowed if not keep or layer > keep[-1]]
        if not following:
            return None
        keep.append(min(following))
    return keep


def in_words(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each answer: who reads it rightly, who wrongly and why, of whom nothing is known.

    Args:
        rows: `Reading.as_dict` of each.
    """
    found, lines = [Reading(**row) for row in rows], []
    for status, text in (("right", "read rightly by"), ("unknown", "not known of")):
        names = [r.name for r in found if r.status == status]
        if names:
            lines.append(f"{text}: {', '.join(names)}")
    for reading in found:
        if reading.status == "wrong":
            lines.append(f"READ WRONGLY, without an error, by {reading.name}: it {reading.reason}")
        elif reading.status == "refused":
            lines.append(f"refused by {reading.name}: it {reading.reason}")
        elif reading.status == "right" and reading.reason:
            lines.append(f"{reading.name}: {reading.reason}")
    return lines
