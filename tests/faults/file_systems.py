"""A second file system to write to, where this machine has one."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED_MEMORY = Path("/dev/shm")


@contextlib.contextmanager
def on_another_file_system(than: Path) -> Iterator[Path]:
    """An empty directory on another file system than a path's; skips the test where there is none."""
    if not SHARED_MEMORY.is_dir() or SHARED_MEMORY.stat().st_dev == than.stat().st_dev:
        pytest.skip(f"{SHARED_MEMORY} is no file system of its own here")
    with tempfile.TemporaryDirectory(dir=SHARED_MEMORY) as place:
        yield Path(place)
