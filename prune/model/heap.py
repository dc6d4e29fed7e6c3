"""Memory that the C library keeps after it was freed, given back to the system.

glibc raises the size from which it maps blocks on their own to that of the largest block freed (32 MiB at most), so
after the first layer weights come from its heaps, where one small live block holds back all that is free below it. On
a walk layer by layer that would add the size of a layer or two to the process.
"""

from __future__ import annotations

import ctypes
import sys


def release_freed_memory() -> None:
    """Return every free page of the heaps to the system; nothing where the C library has no `malloc_trim`."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)
