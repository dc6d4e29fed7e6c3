"""lm-eval speaks on its own logger and draws bars on standard error; here it is quiet, but not about what it drops.

Most of what it says is for its own command line. What must reach the user is that something given was left out or cut:
those warnings are collected, each kind once.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Iterator

LOST = re.compile(
    r"truncat|remov|drop|discard|will be lost|reducing|setting `temperature`|multiple max token", re.IGNORECASE
)
"""Words by which lm-eval's warnings about dropped or changed input are known."""


class _Lost(logging.Handler):
    """Warnings about what was left out, each kind once: numbers in them do not make another kind."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        said = " ".join(record.getMessage().split())
        if LOST.search(said):
            self.found.setdefault(re.sub(r"[\d.,\[\] ]+", " ", said), said)


@contextlib.contextmanager
def silenced() -> Iterator[list[str]]:
    """Keep lm-eval off standard error (bars go to it as it is at the time).

    Yields:
        A list that holds, at the end, what lm-eval said about input that it dropped or cut.
    """
    heard: list[str] = []
    log, lost = logging.getLogger("lm_eval"), _Lost()
    propagates = log.propagate
    log.addHandler(lost)
    log.propagate = False
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield heard
    finally:
        log.removeHandler(lost)
        log.propagate = propagates
        heard += lost.found.values()
