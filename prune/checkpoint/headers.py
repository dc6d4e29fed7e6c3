"""The safetensors header: parsed and checked by itself, so that every later byte range can be trusted.

A file is 8 bytes of little-endian header length N, N bytes of JSON, then the payload; each tensor is a byte range of
the payload. Assumptions: the ranges must tile the payload exactly (no hole, overlap, trailing byte), names are unique,
and whatever is wrong is a PruneError, never another exception. Neither torch nor safetensors is imported.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prune.errors import PruneError

MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation
MAX_DIMENSIONS = 64
NUMBER = re.compile(r"0|[1-9][0-9]{0,5}")
"""A number in a tensor's name: ASCII digits, no leading zero, as modules in a list are named."""
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor of a file.

    Attributes:
        name: its key.
        dtype: safetensors name of the element type.
        shape: dimensions; empty for a scalar.
        begin: first byte, counted from the start of the file.
        end: one past the last byte.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def bytes(self) -> int:
        """Size in bytes."""
        return self.end - self.begin


@dataclass(frozen=True)
class Header:
    """What a safetensors file holds: entries in file order and the free-form string metadata."""

    entries: tuple[Entry, ...]
    metadata: dict[str, str] = field(default_factory=dict)


def read_header(path: Path) -> Header:
    """Parse the header of a file and check it against the file's size.

    Raises:
        PruneError: not a regular readable file, or a header that is not entirely well formed (what and where).
    """
    refuse_pointer(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as handle:
            prefix = handle.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > size - 8:
                raise PruneError(f"{path}: truncated safetensors header; download the file again")
            if length > MAX_HEADER_BYTES:
                raise PruneError(f"{path}: header of {length} bytes is over the limit of {MAX_HEADER_BYTES}")
            raw = handle.read(length)
    except OSError as error:
        raise PruneError(f"{path}: cannot be read: {error.strerror}") from None
    return parse_header(raw, size, str(path))


def refuse_pointer(path: Path) -> None:
    """Refuse the stand-in that git leaves where git-lfs is not installed: a short text in place of the file.

    Raises:
        PruneError: it is one.
    """
    try:
        with path.open("rb") as handle:
            start = handle.read(len(LFS_POINTER))
    except OSError:
        return  # whoever reads the file says why it cannot
    if start == LFS_POINTER:
        raise PruneError(f"{path}: is a git-lfs pointer, not the file: run `git lfs pull` in its repository")


def parse_header(raw: bytes, file_size: int, name: str) -> Header:
    """Parse header JSON.

    Args:
        raw: the JSON bytes after the length field.
        file_size: of the whole file in bytes, against which the ranges are checked.
        name: of the file, for messages.

    Raises:
        PruneError: anything but a well-formed header.
    """
    table = parse_json(raw, name)
    if not isinstance(table, dict):
        raise PruneError(f"{name}: the safetensors header is no JSON object")
    metadata = table.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise PruneError(f"{name}: __metadata__ must map strings to strings")
    base = 8 + len(raw)
    entries = sorted((_entry(key, value, base, name) for key, value in table.items()), key=lambda e: (e.begin, e.end))
    at = base
    for entry in entries:
        if entry.begin != at:
            kind = "overlaps its neighbour" if entry.begin < at else "leaves a hole before it"
            raise PruneError(f"{name}: tensor {entry.name!r} {kind} (byte {entry.begin}, expected {at})")
        at = entry.end
    if at != file_size:
        state = "truncated" if at > file_size else "has trailing bytes"
        raise PruneError(f"{name}: payload {state}: tensors end at byte {at}, the file at {file_size}")
    return Header(tuple(entries), metadata)


def parse_json(raw: bytes, name: str) -> Any:
    """JSON whose objects have unique keys and whose strings can be written back.

    Raises:
        PruneError: not UTF-8, not JSON, nested too deeply, or a key that occurs twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise PruneError(f"{name}: key {twice!r} occurs twice in one JSON object")
        return result

    try:
        value = json.loads(raw.decode("utf8"), object_pairs_hook=unique)
        json.dumps(value, ensure_ascii=False).encode("utf8")  # lone surrogates parse but cannot be written
    except (ValueError, RecursionError) as error:
        raise PruneError(f"{name}: not valid JSON: {str(error).splitlines()[0][:120]}") from None
    return value


def _entry(key: str, value: Any, base: int, name: str) -> Entry:
    """Check one header item and turn its payload offsets into file offsets."""
    where = f"{name}: tensor {key[:200]!r}"
    for part in key.split("."):
        if part.isdecimal() and not NUMBER.fullmatch(part):
            raise PruneError(f"{where}: {part[:20]!r} is no layer number that transformers could have written")
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise PruneError(f"{where}: needs exactly dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise PruneError(f"{where}: unknown dtype {str(dtype)[:40]!r}")
    if not _naturals(shape) or len(shape) > MAX_DIMENSIONS:
        raise PruneError(f"{where}: shape must be a list of at most {MAX_DIMENSIONS} non-negative 64-bit integers")
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise PruneError(f"{where}: data_offsets must be [begin, end] with begin <= end")
    bits = math.prod(shape) * BITS[dtype]
    if bits != 8 * (offsets[1] - offsets[0]):
        raise PruneError(f"{where}: {dtype} of shape {shape} does not fill {offsets[1] - offsets[0]} bytes")
    return Entry(key, dtype, tuple(shape), base + offsets[0], base + offsets[1])


def _naturals(value: Any) -> bool:
    """Whether a JSON value is a list of non-negative integers of at most 63 bits."""
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 63 for item in value)
