"""Byte ranges from file to file in the kernel, for every format: nothing is decoded, and memory does not grow.

Space is reserved before the first byte is copied, so that a full disk shows up front, and the disk begins to write
while later bytes are copied. Assumption: the ranges were checked against the source's size.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from prune.errors import PruneError

CHUNK = 64 << 20
FALLBACK_CHUNK = 1 << 20
NOT_HERE = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF)


def write_failure(error: OSError) -> str:
    """Why a file could not be written, in words."""
    if error.errno == errno.ENOSPC:
        return "the disk is full; free space or choose another -o"
    return f"cannot be written: {error.strerror}"


def read_all(source: int, offset: int, count: int, path: Path) -> bytes:
    """`count` bytes from `offset`; refuses a file that has become shorter."""
    parts = []
    while count:
        data = os.pread(source, count, offset)
        if not data:
            raise PruneError(f"{path}: shrank while it was read; nothing was written")
        parts.append(data)
        offset += len(data)
        count -= len(data)
    return b"".join(parts)


def reserve(output: int, size: int) -> None:
    """Allocate the file's blocks now; file systems without that only get the disk-full error later."""
    try:
        os.posix_fallocate(output, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise


def write_all(output: int, data: bytes) -> None:
    """All of the bytes, however many a call takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(output, view) :]


def copy_range(source: int, output: int, offset: int, count: int, path: Path) -> None:
    """Copy `count` bytes from `offset` of the source to the output's position."""
    ways = [_copy_file_range, _sendfile, _read_write]
    while count:
        try:
            copied = ways[0](source, output, offset, min(count, CHUNK))
        except OSError as error:
            if len(ways) > 1 and error.errno in NOT_HERE:
                ways.pop(0)
                continue
            raise
        if copied == 0:
            raise PruneError(f"{path}: shrank while it was read; nothing was written")
        _write_back(output, copied)
        offset += copied
        count -= copied


def _write_back(output: int, count: int) -> None:
    """Let the disk begin with the last `count` bytes, which the sync at the end would otherwise wait for.

    Linux starts writing dirty pages that are said to be needed no more; they stay in memory until they are written.
    """
    if hasattr(os, "posix_fadvise"):
        end = os.lseek(output, 0, os.SEEK_CUR)
        os.posix_fadvise(output, end - count, count, os.POSIX_FADV_DONTNEED)


def _copy_file_range(source: int, output: int, offset: int, count: int) -> int:
    if not hasattr(os, "copy_file_range"):
        raise OSError(errno.ENOSYS, "no copy_file_range here")
    return os.copy_file_range(source, output, count, offset_src=offset)


def _sendfile(source: int, output: int, offset: int, count: int) -> int:
    return os.sendfile(output, source, offset, count)


def _read_write(source: int, output: int, offset: int, count: int) -> int:
    data = os.pread(source, min(count, FALLBACK_CHUNK), offset)
    write_all(output, data)
    return len(data)
