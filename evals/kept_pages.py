"""Freed memory that is used again, instead of going back to the system and being faulted in anew.

glibc maps every block of 32 MiB or more on its own and unmaps it when it is freed. Logits, attention's copies and a
growing KV cache are such blocks, made anew in every layer and step, and each of their pages is then a fault and a page
to clear: a fifth of the time of an evaluation on a CPU went there.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # malloc.h
KEPT = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1}
"""No block on its own, and nothing trimmed off the heap."""
USUAL = {M_MMAP_MAX: 65536, M_MMAP_THRESHOLD: 32 << 20, M_TRIM_THRESHOLD: 64 << 20}
"""Where glibc's moving thresholds stand once a block of 32 MiB has been freed, as loading any model does."""

_depth = 0


@contextlib.contextmanager
def pages_kept() -> Iterator[None]:
    """Keep freed memory for this process's own use; given back at the end. Nothing happens without glibc.

    Within one another they count as one. Assumption: whoever else allocates meanwhile profits too.
    """
    global _depth
    libc = _glibc()
    if libc is not None and _depth == 0:
        _set(libc, KEPT)
    _depth += 1
    try:
        yield
    finally:
        _depth -= 1
        if libc is not None and _depth == 0:
            _set(libc, USUAL)
            libc.malloc_trim(0)


def _set(libc: ctypes.CDLL, options: dict[int, int]) -> None:
    for option, value in options.items():
        libc.mallopt(option, value)


def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is glibc: others have no such options, or other numbers for them."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
