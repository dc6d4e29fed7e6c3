"""One step's estimate as a value, and what would make it fit where it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prune.estimates.memory import Moments
from prune.estimates.work import Work

LIBRARIES = 700_000_000
"""Host memory of Python with torch, transformers and what they load, before any model."""


@dataclass(frozen=True)
class Cure:
    """Another setting, and what the step then holds.

    Attributes:
        setting: as the user writes it.
        moments: with it; none where that is a matter of how many devices there are.
    """

    setting: str
    moments: Moments | None = None


@dataclass(frozen=True)
class StageEstimate:
    """What a stage of a run will take.

    Attributes:
        name: of the stage, or of several alike.
        moments: bytes on the device that computes, by what is being done.
        loads: bytes of the largest model that is read from disk meanwhile, in the type it is computed in.
        work: what it computes; None where that is not known before.
        files, disk: what it leaves: their number and bytes.
        seconds: None where work or speed is not known.
        note: what the figures assume.
        cures: settings that need less, in the order in which to try them.
    """

    name: str
    moments: Moments
    loads: int = 0
    work: Work | None = None
    files: int = 0
    disk: int = 0
    seconds: float | None = None
    note: str = ""
    cures: Sequence[Cure] = field(default=())

    @property
    def peak(self) -> int:
        """Bytes on the device at the worst moment."""
        return max(self.moments.values(), default=0)

    @property
    def worst(self) -> str:
        """What is being done then."""
        return max(self.moments, key=self.moments.__getitem__, default="")

    def host(self, device: str) -> int:
        """Bytes of main memory: all of it on a CPU; beside an accelerator what passes through on its way there."""
        return LIBRARIES + (self.peak if device == "cpu" else self.loads)

    def as_dict(self, device: str, depth: int) -> dict[str, Any]:
        """For `--json`: bytes, tokens, forward passes of the original over all tokens, seconds."""
        return {
            "stage": self.name,
            "device_bytes": self.peak,
            "at": self.worst,
            "host_bytes": self.host(device),
            "tokens": self.work.tokens if self.work else None,
            "forward_passes": round(self.work.passes(depth), 2) if self.work else None,
            "files": self.files,
            "disk_bytes": self.disk,
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "note": self.note,
        }


def too_large(stage: StageEstimate, room: int) -> str | None:
    """A warning where a stage needs more than there is, with the first setting that would make it fit.

    Args:
        room: free bytes of the device.
    """
    if stage.peak <= room:
        return None
    said = f"{stage.name} needs about {size(stage.peak)} ({stage.worst}), and {size(room)} are free: "
    for cure in stage.cures:
        if cure.moments is not None and max(cure.moments.values()) <= room:
            return f"{said}{cure.setting} would take {size(max(cure.moments.values()))}"
    elsewhere = [cure.setting for cure in stage.cures if cure.moments is None]
    return said + (" or ".join(elsewhere) if elsewhere else "take a device with more")


def size(count: float) -> str:
    """Bytes for people: 8.1 GB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}" if count < 100 * factor else f"{count / factor:,.0f} {unit}"
    return f"{count / 1e3:,.0f} kB"


def duration(seconds: float | None) -> str:
    """Seconds for people: 40 s, 12 min, 3.4 h; - where not known."""
    if seconds is None:
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 else "under 1 s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


COLUMNS = ("stage", "device", "host", "tokens", "passes", "disk", "files", "time")


def cells(stages: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Cells under `COLUMNS`, from `StageEstimate.as_dict`."""

    def count(value: float | None) -> str:
        if value is None:
            return "-"
        return f"{value:,.0f}" if value >= 10 or isinstance(value, int) else f"{value:.1f}"

    return [
        [
            str(s["stage"]),
            size(s["device_bytes"]),
            size(s["host_bytes"]),
            count(s["tokens"]),
            count(s["forward_passes"]),
            size(s["disk_bytes"]) if s["disk_bytes"] else "-",
            count(s["files"]) if s["files"] else "-",
            duration(s["seconds"]),
        ]
        for s in stages
    ]
