"""Writing a GGUF file: a new header, then byte ranges copied in the kernel; no tensor is ever decoded.

Fields that do not change are copied as bytes. Tensors keep their order; each begins at the next multiple of the
alignment, as llama.cpp demands, and neighbours in the source become one copy. Assumption: sources are checked headers,
and the output is open at its start.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prune.gguf.header import Array, Tensor
from prune.gguf.parts import Model
from prune.gguf.types import ARRAY, BOOL, FIXED, STRING
from prune.surgery.byte_copies import copy_range, read_all, reserve, write_all

SMALL = 1 << 20
VERSION = 3


@dataclass(frozen=True)
class Placed:
    """A tensor of the output: its new name, where its bytes are now, and its first byte after the header."""

    name: str
    source: Path
    tensor: Tensor
    offset: int


def place(model: Model, names: Mapping[str, str]) -> list[Placed]:
    """The tensors that stay, in order, each aligned."""
    placed, at = [], 0
    for source, tensor in model.tensors:
        if tensor.name in names:
            placed.append(Placed(names[tensor.name], source, tensor, at))
            at = _aligned(at + tensor.bytes, model.first.alignment)
    return placed


def write_file(
    model: Model,
    placed: list[Placed],
    values: Mapping[str, tuple[int, Any]],
    output: int,
    without: Collection[str] = (),
) -> int:
    """Write header and tensors to an open file; returns the bytes written.

    Args:
        values: key -> (value type, value) of fields that change or are new; all others are copied.
        without: keys of fields that go.

    Raises:
        PruneError: a source became shorter.
        OSError: the output cannot be written.
    """
    alignment = model.first.alignment
    fields = {key: field for key, field in model.fields.items() if key not in without}
    table = b"".join(_description(item) for item in placed)
    head = struct.pack("<4sIQQ", b"GGUF", VERSION, len(placed), len({**fields, **values}))
    new = b"".join(_pair(key, *value) for key, value in values.items() if key not in fields)
    changed = {key: _pair(key, *value) for key, value in values.items() if key in fields}
    kept = [field for key, field in fields.items() if key not in changed]
    size = len(head) + sum(map(len, changed.values())) + len(new) + len(table)
    size = _aligned(size + sum(field.end - field.begin for field in kept), alignment)
    total = size + (placed[-1].offset + _aligned(placed[-1].tensor.bytes, alignment) if placed else 0)
    reserve(output, total)
    with ExitStack() as stack:
        inputs = {p.path: stack.enter_context(p.path.open("rb", buffering=0)).fileno() for p in model.parts}
        write_all(output, head)
        first = inputs[model.first.path]
        for key, field in fields.items():
            if key in changed:
                write_all(output, changed[key])
                continue
            for begin in range(field.begin, field.end, SMALL):
                write_all(output, read_all(first, begin, min(SMALL, field.end - begin), model.first.path))
        write_all(output, new + table)
        for source, begin, end, at in _ranges(placed, alignment):
            _pad(output, size + at)
            copy_range(inputs[source], output, begin, end - begin, source)
        _pad(output, total)
    return total


def _aligned(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def _pad(output: int, place: int) -> None:
    """Zeros up to a place."""
    at = os.lseek(output, 0, os.SEEK_CUR)
    while at < place:
        count = min(SMALL, place - at)
        write_all(output, bytes(count))
        at += count


def _ranges(placed: list[Placed], alignment: int) -> Iterator[tuple[Path, int, int, int]]:
    """(source, first byte, end, place in the output after the header), neighbours joined with the padding between."""
    current: tuple[Path, int, int, int] | None = None
    for item in placed:
        if current is not None:
            source, begin, _, at = current
            if item.source == source and item.tensor.begin - begin == item.offset - at:
                current = (source, begin, item.tensor.end, at)
                continue
            yield current
        current = (item.source, item.tensor.begin, item.tensor.end, item.offset)
    if current is not None:
        yield current


def _text(value: str) -> bytes:
    raw = value.encode("utf8")
    return struct.pack("<Q", len(raw)) + raw


def _description(item: Placed) -> bytes:
    shape = item.tensor.shape
    return _text(item.name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, item.tensor.kind, item.offset)


def _pair(key: str, kind: int, value: Any) -> bytes:
    raw = _text(key) + struct.pack("<I", kind)
    if kind == ARRAY:
        assert isinstance(value, Array)
        assert value.values is not None
        raw += struct.pack("<IQ", value.kind, value.count)
        return raw + b"".join(_scalar(value.kind, item) for item in value.values)
    return raw + _scalar(kind, value)


def _scalar(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return _text(value)
    return struct.pack("<" + FIXED[kind], int(value) if kind == BOOL else value)
