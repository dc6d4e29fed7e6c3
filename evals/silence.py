"""lm-eval speaks on its own logger and draws bars on standard error; here it can be told not to."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def silenced(quiet: bool) -> Iterator[None]:
    """Silence lm-eval's log lines and progress bars (bars go to stderr as it is at the time)."""
    if not quiet:
        yield
        return
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        log.setLevel(level)
