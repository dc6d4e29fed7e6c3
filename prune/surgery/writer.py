"""Writing safetensors shards by copying byte ranges in the kernel: no tensor is ever decoded.

Shards are planned first, space is reserved before the first byte is copied (a full disk shows up front), neighbouring
ranges become one copy, and the disk begins to write while later bytes are copied. Of a table whose rows hold every
layer's share, blocks of rows pass through a bounded buffer: a system call for each row would cost more. Assumptions:
sources are checked headers; the target is a staging directory that nobody else writes; memory does not grow with the
checkpoint.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from prune.checkpoint.directory import INDEX, SINGLE, Checkpoint
from prune.checkpoint.headers import BITS, Entry
from prune.errors import PruneError, UsageError
from prune.files import write_exact_json
from prune.surgery.byte_copies import copy_range, read_all, reserve, write_all, write_failure
from prune.surgery.packed import Slices

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
ROWS_BUFFER = 1 << 22
MOST_ROWS = 1 << 12  # at a time, so that short rows do not become too many views
FICLONE = 0x40049409  # linux/fs.h: share all blocks of another file, copied only when one of them is written


@dataclass
class Piece:
    """One tensor to write: its new name, where its bytes are now, and which of them stay if not all do."""

    name: str
    source: Path
    entry: Entry
    slices: Slices | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """As written."""
        return self.slices.shape if self.slices else self.entry.shape

    @property
    def bytes(self) -> int:
        """As written."""
        return self.slices.bytes if self.slices else self.entry.bytes

    @property
    def scattered(self) -> bool:
        """Whether many short ranges stay, so that rows are better read whole."""
        return self.slices is not None and self.slices.rows > 1 and self.slices.row_bytes <= ROWS_BUFFER


@dataclass
class Shard:
    """One output file; `linked` is a source file that it equals byte for byte."""

    pieces: list[Piece] = field(default_factory=list)
    linked: Path | None = None

    @property
    def bytes(self) -> int:
        """Payload in bytes."""
        return sum(piece.bytes for piece in self.pieces)


def parse_size(text: str) -> int:
    """Bytes of a size such as `5GB`, `500MB` or `2GiB`.

    Raises:
        UsageError: not of this form, or zero.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2].upper() not in UNITS or float(match[1]) * UNITS[match[2].upper()] < 1:
        raise UsageError(f"--max_shard_size {text!r}: write a size such as 5GB, 500MB or 2GiB")
    return int(float(match[1]) * UNITS[match[2].upper()])


def plan_shards(
    checkpoint: Checkpoint,
    renamed: dict[str, str],
    max_bytes: int,
    *,
    link: bool,
    slices: Mapping[str, Slices] | None = None,
) -> list[Shard]:
    """Share the kept tensors out over output files, in source order.

    Args:
        checkpoint: the source.
        renamed: old -> new name of the kept tensors.
        max_bytes: payload limit of a shard; a single larger tensor gets a shard of its own.
        link: let source files in which nothing changes stand for themselves.
        slices: old name -> what stays of a tensor that is not kept whole.
    """
    parts = slices or {}
    shards: list[Shard] = []
    current, size = Shard(), 0
    for name, header in checkpoint.headers.items():
        source = checkpoint.directory / name
        kept = [entry for entry in header.entries if entry.name in renamed]
        pieces = [Piece(renamed[e.name], source, e, parts.get(e.name)) for e in kept]
        same = len(pieces) == len(header.entries) and all(p.name == p.entry.name and not p.slices for p in pieces)
        if link and same and pieces:
            shards.append(Shard(pieces, linked=source))
            continue
        for piece in pieces:
            if current.pieces and size + piece.bytes > max_bytes:
                shards.append(current)
                current, size = Shard(), 0
            current.pieces.append(piece)
            size += piece.bytes
    if current.pieces:
        shards.append(current)
    return shards


def write_shards(shards: list[Shard], checkpoint: Checkpoint, target: Path) -> list[str]:
    """Write all shards, then the index where there is more than one; returns the file names.

    Raises:
        PruneError: the disk is full, or a file cannot be read or written (which, and why).
    """
    count = len(shards)
    names = [SINGLE] if count == 1 else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    metadata = next((h.metadata for h in checkpoint.headers.values() if h.metadata), {"format": "pt"})
    for name, shard in zip(names, shards, strict=True):
        path = target / name
        try:
            if shard.linked is None or not _link(shard.linked, path):
                write_shard(shard, metadata, path)
        except OSError as error:
            raise PruneError(f"{path}: {write_failure(error)}") from error
    if count > 1:
        weight_map = {piece.name: name for name, shard in zip(names, shards, strict=True) for piece in shard.pieces}
        total = sum(shard.bytes for shard in shards)
        index_metadata = {**checkpoint.index_metadata, "total_size": total}
        if "total_parameters" in index_metadata:
            index_metadata["total_parameters"] = sum(_elements(p) for s in shards for p in s.pieces)
        content = {"metadata": index_metadata, "weight_map": dict(sorted(weight_map.items()))}
        write_exact_json(target / INDEX, content)
        names.append(INDEX)
    return names


def _elements(piece: Piece) -> int:
    return piece.bytes * 8 // BITS[piece.entry.dtype]


def _link(source: Path, path: Path) -> bool:
    """Reflink, else hard-link; False where the file system allows neither."""
    if _reflink(source, path):
        return True
    try:
        os.link(source.resolve(), path)
    except OSError:
        return False
    return True


def _reflink(source: Path, path: Path) -> bool:
    """A file of its own that shares the source's blocks; False, and no file, where that is not possible."""
    with source.open("rb") as origin, path.open("xb") as copy:
        try:
            fcntl.ioctl(copy.fileno(), FICLONE, origin.fileno())
        except OSError:
            path.unlink()
            return False
    return True


def write_shard(shard: Shard, metadata: dict[str, str], path: Path) -> None:
    """Header, then payload. Wide element types come first, so that every tensor is aligned to its element."""
    pieces = sorted(shard.pieces, key=lambda piece: -BITS[piece.entry.dtype])
    table: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for piece in pieces:
        end = at + piece.bytes
        table[piece.name] = {"dtype": piece.entry.dtype, "shape": list(piece.shape), "data_offsets": [at, end]}
        at = end
    raw = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode("utf8")
    raw += b" " * (-len(raw) % 8)
    with ExitStack() as stack:
        output = stack.enter_context(path.open("xb", buffering=0))
        reserve(output.fileno(), 8 + len(raw) + at)
        write_all(output.fileno(), len(raw).to_bytes(8, "little") + raw)
        inputs: dict[Path, int] = {}
        for piece in pieces:
            if piece.source not in inputs:
                inputs[piece.source] = stack.enter_context(piece.source.open("rb", buffering=0)).fileno()
        for scattered, group in itertools.groupby(pieces, key=lambda piece: piece.scattered):
            if scattered:
                for piece in group:
                    _copy_rows(inputs[piece.source], output.fileno(), piece)
                continue
            for source, begin, end in _ranges(group):
                copy_range(inputs[source], output.fileno(), begin, end - begin, source)


def _ranges(pieces: Iterable[Piece]) -> Iterator[tuple[Path, int, int]]:
    """Byte ranges in order, neighbours joined."""
    source, begin, end = None, 0, 0
    for piece in pieces:
        for first, last in _spans(piece):
            if piece.source == source and first == end:
                end = last
                continue
            if source is not None and end > begin:
                yield source, begin, end
            source, begin, end = piece.source, first, last
    if source is not None and end > begin:
        yield source, begin, end


def _spans(piece: Piece) -> Iterator[tuple[int, int]]:
    """The byte ranges of the source file that stay of one tensor."""
    if piece.slices is None:
        yield piece.entry.begin, piece.entry.end
        return
    for row in range(piece.slices.rows):
        start = piece.entry.begin + row * piece.slices.row_bytes
        for begin, end in piece.slices.spans:
            yield start + begin, start + end


def _copy_rows(source: int, output: int, piece: Piece) -> None:
    """Copy the same ranges of every row, some rows at a time."""
    assert piece.slices is not None
    size, spans = piece.slices.row_bytes, piece.slices.spans
    block = min(ROWS_BUFFER // size, MOST_ROWS) * size
    offset = piece.entry.begin
    while offset < piece.entry.end:
        count = min(block, piece.entry.end - offset)
        rows = memoryview(read_all(source, offset, count, piece.source))
        starts = range(0, count, size)
        write_all(output, b"".join([rows[at + begin : at + end] for at in starts for begin, end in spans]))
        offset += count
