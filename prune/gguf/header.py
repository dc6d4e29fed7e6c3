"""The GGUF header as untrusted input: every count and length is checked against the file before anything is read.

A file is the magic, a version, two counts, that many key-value pairs, that many tensor descriptions, and from the next
multiple of the alignment the tensors' bytes (specification: `docs/gguf.md` of ggml-org/ggml). Assumptions: versions 2
and 3, little endian; names are unique; tensors lie inside the file and do not overlap; an array holds no arrays, as in
llama.cpp. Time and memory are linear in the header, which has a limit of its own, and whatever is wrong is a
PruneError, never another exception. No tensor is read.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from prune.errors import PruneError
from prune.gguf.types import ARRAY, BLOCKS, BOOL, FIXED, STRING, UINT32, VALUE_NAMES

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32
MAX_HEADER_BYTES = 256 << 20
MAX_PAIRS = 1 << 16
MAX_TENSORS = 1 << 20
MAX_STRINGS = 1 << 22
"""In one array; the largest vocabularies have some 300,000 tokens and twice as many merges."""
MAX_VALUES = 1 << 16
"""Numbers of an array that are kept; longer ones (token scores) are only stepped over."""
MAX_IN_ALL = 1 << 22
"""Values of all arrays; Gemma's 262,144 tokens, the most known, are 1.3 million with scores, types and merges."""
MAX_TOKEN = 2048
"""Bytes of a token; transformers takes time by their square where a vocabulary has no merges."""
TOKENS = "tokenizer.ggml.tokens"
MAX_DIMENSIONS = 4
MAX_NAME = 64
MAX_KEY = 65535


@dataclass(frozen=True)
class Array:
    """An array of the metadata.

    Attributes:
        kind: value type of its elements.
        count: how many.
        values: numbers, bools or strings; None where there are more than `MAX_VALUES`.
    """

    kind: int
    count: int
    values: tuple[Any, ...] | None


@dataclass(frozen=True)
class Field:
    """One key of the metadata; `begin` and `end` are the byte range of key, type and value in the file."""

    key: str
    kind: int
    value: Any
    begin: int
    end: int


@dataclass(frozen=True)
class Tensor:
    """One tensor.

    Attributes:
        name: as in the file.
        shape: dimensions, the fastest first, as in the file.
        kind: ggml type.
        begin: first byte, counted from the start of the file.
        end: one past the last byte.
    """

    name: str
    shape: tuple[int, ...]
    kind: int
    begin: int
    end: int

    @property
    def bytes(self) -> int:
        """Size in bytes, without padding."""
        return self.end - self.begin

    @property
    def type_name(self) -> str:
        """Such as Q4_K."""
        return BLOCKS[self.kind][0]


@dataclass(frozen=True)
class Header:
    """What a GGUF file holds.

    Attributes:
        path: of the file.
        version: of the format.
        alignment: of tensors, in bytes.
        fields: metadata by key, in file order.
        tensors: in file order.
    """

    path: Path
    version: int
    alignment: int
    fields: dict[str, Field]
    tensors: tuple[Tensor, ...]

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a key."""
        return self.fields[key].value if key in self.fields else default


def read_header(path: Path) -> Header:
    """Parse and check the header of a file.

    Raises:
        PruneError: not a readable regular file, or a header that is not entirely well formed (what and where).
    """
    if not path.is_file():
        raise PruneError(f"{path}: no such file")
    try:
        size = path.stat().st_size
        with path.open("rb", buffering=1 << 20) as handle:
            return _parse(_Cursor(handle, size, str(path)), path)
    except OSError as error:
        raise PruneError(f"{path}: cannot be read: {error.strerror}") from None


class _Cursor:
    """Reads forward through the header; refuses what would go past the end before it allocates anything."""

    def __init__(self, handle: BinaryIO, size: int, name: str) -> None:
        self.handle, self.size, self.name, self.at, self.values = handle, size, name, 0, 0

    def fail(self, what: str) -> PruneError:
        return PruneError(f"{self.name}: {what}")

    def _room(self, count: int) -> None:
        if count > self.size - self.at:
            raise self.fail(f"truncated or damaged GGUF header at byte {self.at}; download the file again")
        if self.at + count > MAX_HEADER_BYTES:
            raise self.fail(f"GGUF header of more than {MAX_HEADER_BYTES} bytes")

    def take(self, count: int) -> bytes:
        self._room(count)
        data = self.handle.read(count)
        if len(data) != count:
            raise self.fail("shrank while it was read")
        self.at += count
        return data

    def skip(self, count: int) -> None:
        self._room(count)
        self.handle.seek(count, 1)
        self.at += count

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def text(self, what: str, limit: int = MAX_HEADER_BYTES) -> str:
        length = self.number("Q")
        if length > limit:
            raise self.fail(f"{what} of {length} bytes at byte {self.at - 8}; the limit is {limit}")
        try:
            return self.take(length).decode("utf8")
        except UnicodeDecodeError:
            raise self.fail(f"{what} at byte {self.at - length} is not UTF-8") from None

    def count(self, what: str, smallest: int, limit: int) -> int:
        """A count of things that take at least `smallest` bytes each."""
        count: int = self.number("Q")
        if count > limit or count * smallest > self.size - self.at:
            raise self.fail(f"claims {count} {what}, which cannot be: {self.size - self.at} bytes follow")
        return count

    def of_array(self, what: str, smallest: int, limit: int) -> int:
        """The count of an array's values, of which a file may have so many in all."""
        count = self.count(what, smallest, limit)
        self.values += count
        if self.values > MAX_IN_ALL:
            raise self.fail(f"arrays of more than {MAX_IN_ALL} values in all with {what}; no model has so many")
        return count


def _parse(cursor: _Cursor, path: Path) -> Header:
    if cursor.size < 24 or cursor.take(4) != MAGIC:
        raise cursor.fail("is no GGUF file (it does not begin with GGUF)")
    version = cursor.number("I")
    if version and not version & 0xFFFF:
        raise cursor.fail("is a big-endian GGUF file; take the little-endian one")
    if version not in VERSIONS:
        raise cursor.fail(f"GGUF version {version} is not known; versions 2 and 3 are")
    tensors = cursor.count("tensors", 24, MAX_TENSORS)
    pairs = cursor.count("metadata keys", 13, MAX_PAIRS)
    fields: dict[str, Field] = {}
    for _ in range(pairs):
        found = _field(cursor)
        if found.key in fields:
            raise cursor.fail(f"metadata key {found.key[:80]!r} occurs twice")
        fields[found.key] = found
    alignment = _alignment(cursor, fields.get("general.alignment"))
    described = [_description(cursor) for _ in range(tensors)]
    base = -(-cursor.at // alignment) * alignment
    return Header(path, version, alignment, fields, _placed(described, base, alignment, cursor))


def _field(cursor: _Cursor) -> Field:
    begin = cursor.at
    key = cursor.text("metadata key", MAX_KEY)
    kind = cursor.number("I")
    where = f"metadata key {key[:80]!r}"
    if kind not in VALUE_NAMES:
        raise cursor.fail(f"{where}: unknown value type {kind}")
    longest = MAX_TOKEN if key == TOKENS else MAX_HEADER_BYTES
    value = _array(cursor, where, longest) if kind == ARRAY else _scalar(cursor, kind, where)
    return Field(key, kind, value, begin, cursor.at)


def _scalar(cursor: _Cursor, kind: int, where: str) -> Any:
    if kind == STRING:
        return cursor.text(where)
    value = cursor.number(FIXED[kind])
    return _truth(cursor, value, where) if kind == BOOL else value


def _truth(cursor: _Cursor, value: int, where: str) -> bool:
    if value not in (0, 1):
        raise cursor.fail(f"{where}: {value} is no bool")
    return value == 1


def _array(cursor: _Cursor, where: str, longest: int) -> Array:
    kind = cursor.number("I")
    if kind == ARRAY:
        raise cursor.fail(f"{where}: an array of arrays, which no runtime reads")
    if kind not in VALUE_NAMES:
        raise cursor.fail(f"{where}: array of the unknown value type {kind}")
    if kind == STRING:
        count = cursor.of_array(f"strings in {where}", 8, MAX_STRINGS)
        strings = (cursor.text(f"a string of {where}", longest) for _ in range(count))
        if count <= MAX_VALUES:
            return Array(kind, count, tuple(strings))
        for _ in strings:
            pass
        return Array(kind, count, None)
    width = struct.calcsize("<" + FIXED[kind])
    count = cursor.of_array(f"values in {where}", width, MAX_HEADER_BYTES)
    if count > MAX_VALUES:
        cursor.skip(count * width)
        return Array(kind, count, None)
    values: tuple[Any, ...] = struct.unpack(f"<{count}{FIXED[kind]}", cursor.take(count * width))
    return Array(kind, count, tuple(_truth(cursor, v, where) for v in values) if kind == BOOL else values)


def _alignment(cursor: _Cursor, found: Field | None) -> int:
    if found is None:
        return DEFAULT_ALIGNMENT
    value = found.value
    if found.kind != UINT32 or value == 0 or value & (value - 1):
        raise cursor.fail(f"general.alignment must be a uint32 and a power of two, not {str(value)[:40]}")
    return int(value)


def _description(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """Name, shape, type and offset as they stand."""
    name = cursor.text("tensor name", MAX_NAME)
    rank = cursor.number("I")
    if rank > MAX_DIMENSIONS:
        raise cursor.fail(f"tensor {name!r}: {rank} dimensions; at most {MAX_DIMENSIONS} are allowed")
    shape = struct.unpack(f"<{rank}Q", cursor.take(8 * rank))
    return name, shape, cursor.number("I"), cursor.number("Q")


def _placed(described: list[Any], base: int, alignment: int, cursor: _Cursor) -> tuple[Tensor, ...]:
    """Tensors with their byte ranges, each inside the file and none over another."""
    tensors: dict[str, Tensor] = {}
    for name, shape, kind, offset in described:
        where = f"tensor {name!r}"
        if name in tensors:
            raise cursor.fail(f"{where} occurs twice")
        if kind not in BLOCKS:
            known = ", ".join(block[0] for block in BLOCKS.values())
            raise cursor.fail(f"{where}: unknown tensor type {kind}; known are {known}")
        type_name, elements, width = BLOCKS[kind]
        if (shape[0] if shape else 1) % elements:
            raise cursor.fail(f"{where}: rows of {shape[0] if shape else 1} are no whole blocks of {type_name}")
        if offset % alignment:
            raise cursor.fail(f"{where}: offset {offset} is no multiple of the alignment {alignment}")
        begin = base + offset
        end = begin + math.prod(shape) // elements * width
        if end > cursor.size:
            raise cursor.fail(f"{where} ends at byte {end}, the file at {cursor.size}; download the file again")
        tensors[name] = Tensor(name, shape, kind, begin, end)
    at, before = 0, ""
    for tensor in sorted(tensors.values(), key=lambda t: (t.begin, t.end)):
        if tensor.begin < at:
            raise cursor.fail(f"tensor {tensor.name!r} overlaps {before!r}")
        at, before = tensor.end, tensor.name
    return tuple(tensors.values())
