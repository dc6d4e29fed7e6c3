"""What long work says of itself while it goes on: stage, done of how many, how long, how long still.

Work opens a `stage` and says how far it is; it knows nothing of terminals. Whether anybody sees it is decided once, at
the top, by `shown`: bars on a terminal; elsewhere (SLURM, CI, nohup) a line at least every 30 seconds, whatever the
work is doing meanwhile, because a thread of its own writes it. Stages nest: `eval > model > task`. Assumption: stages
are opened by one thread.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

EVERY = 20.0
"""Seconds between two lines: below 30 even where the thread that writes them is kept waiting."""
REFRESH = 0.5
"""Seconds between two looks at the stages on a terminal."""


@dataclass
class Stage:
    """One piece of work under way.

    Attributes:
        name: what it is.
        total: how much there is to do, in units; None where nobody knows.
        unit: of the counts, in the plural.
        done: of `total`.
        item: what is being worked at: a task, a layer, a candidate.
        start: what was done already when it began, so that a resumed run does not look fast.
        began: `time.monotonic()` then.
    """

    name: str
    total: int | None = None
    unit: str = ""
    done: int = 0
    item: str = ""
    start: int = 0
    began: float = field(default_factory=lambda: time.monotonic())

    def at(self, done: int, item: str | None = None) -> None:
        """So much is done."""
        self.done = done
        self.item = self.item if item is None else item

    def advance(self, count: int = 1, item: str | None = None) -> None:
        """So much more is done."""
        self.at(self.done + count, item)

    @property
    def seconds_left(self) -> float | None:
        """At the speed so far; None before anything is done."""
        moved = self.done - self.start
        if not self.total or moved < 1:
            return None
        return (time.monotonic() - self.began) * (self.total - self.done) / moved

    @property
    def words(self) -> str:
        """`gsm8k: 12 of 200 answers, 24-27`."""
        count = f"{self.done:,} of {self.total:,} {self.unit}".strip() if self.total else ""
        told = ", ".join(part for part in (count, self.item) if part)
        return f"{self.name}: {told}" if told else self.name


_stages: list[Stage] = []
_showing = False


@contextlib.contextmanager
def stage(name: str, total: int | None = None, unit: str = "", *, done: int = 0, item: str = "") -> Iterator[Stage]:
    """Work that takes time, inside the stage that is open now."""
    opened = Stage(name, total, unit, done, item, start=done)
    _stages.append(opened)
    try:
        yield opened
    finally:
        _stages.remove(opened)


def line() -> str:
    """All open stages in one line: counts, time since the outermost began, and what is left where that is known."""
    stages = list(_stages)
    if not stages:
        return ""
    told = " > ".join(opened.words for opened in stages)
    found = f"{told}; {clock(time.monotonic() - stages[0].began)} elapsed"
    for opened in stages:
        if (left := opened.seconds_left) is not None:
            return f"{found}, about {clock(left)} left" + (f" of {opened.name}" if opened is not stages[0] else "")
    return found


def clock(seconds: float) -> str:
    """`0:20`, `12:05`, `3:07:40`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextlib.contextmanager
def shown(asked: bool = True, *, stream: TextIO | None = None, every: float = EVERY) -> Iterator[None]:
    """Show the stages of what is done inside, on standard error unless another stream is given.

    Nothing more happens where they are shown already, in a process that a launcher started beside the first, or when
    `asked` is false.
    """
    global _showing
    if not asked or _showing or os.environ.get("RANK", "0") != "0":
        yield
        return
    place = stream or sys.stderr
    look = _bars if place.isatty() else _lines
    _showing = True
    try:
        with look(place, every):
            yield
    finally:
        _showing = False


@contextlib.contextmanager
def _ticking(seconds: float, act: Callable[[], None]) -> Iterator[None]:
    """Do something every so many seconds in a thread, until the end."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(seconds):
            act()

    thread = threading.Thread(target=work, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def _lines(stream: TextIO, every: float) -> Iterator[None]:
    def write() -> None:
        if told := line():
            with contextlib.suppress(OSError, ValueError):  # a log that is full or closed must not end the work
                print(f"prune: {told}", file=stream, flush=True)

    with _ticking(every, write):
        yield


@contextlib.contextmanager
def _bars(stream: TextIO, every: float) -> Iterator[None]:
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.TextColumn("{task.description}"), rich.BarColumn(), rich.MofNCompleteColumn(), rich.TimeElapsedColumn(),
        rich.TimeRemainingColumn(),
    )  # fmt: skip
    bars = rich.Progress(*columns, console=Console(file=stream), transient=True)
    known: dict[int, Any] = {}

    def look() -> None:
        stages = {id(opened): opened for opened in list(_stages)}
        for gone in known.keys() - stages.keys():
            bars.remove_task(known.pop(gone))
        for key, opened in stages.items():
            words = f"{opened.name}: {opened.item}" if opened.item else opened.name
            if key not in known:
                known[key] = bars.add_task(words, total=opened.total)
            bars.update(known[key], completed=opened.done, total=opened.total, description=words)

    with bars, _ticking(REFRESH, look):
        yield
