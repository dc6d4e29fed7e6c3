"""The header parser reads what the `gguf` package writes, and refuses everything that is not well formed."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import gguf
import numpy
import pytest

from prune.errors import PruneError
from prune.gguf import header as header_module
from prune.gguf.header import Array, read_header
from prune.gguf.types import BLOCKS, VALUE_NAMES
from tests.gguf.files import finish, save_llama, writer


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: bytes = b"t", shape: tuple[int, ...] = (32,), kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def raw(
    pairs: tuple[bytes, ...] = (),
    found: tuple[bytes, ...] = (),
    *,
    payload: int = 1024,
    version: int = 3,
    counts: tuple[int, int] | None = None,
) -> bytes:
    """A file by hand; `counts` of tensors and keys may lie."""
    head = b"GGUF" + struct.pack("<IQQ", version, *(counts or (len(found), len(pairs))))
    head += b"".join(pairs) + b"".join(found)
    return head + bytes(-len(head) % 32 + payload)


def test_the_tables_of_types_are_those_of_the_gguf_package() -> None:
    assert {int(kind): (kind.name, *size) for kind, size in gguf.GGML_QUANT_SIZES.items()} == BLOCKS
    assert {int(kind): kind.name.lower() for kind in gguf.GGUFValueType} == VALUE_NAMES


@pytest.mark.parametrize("options", [{}, {"endianess": gguf.GGUFEndian.LITTLE}])
def test_a_file_of_the_packages_writer_is_read_as_its_reader_reads_it(tmp_path: Path, options: dict) -> None:
    file = writer(tmp_path / "a.gguf", 2, **options)
    for method, value in (("uint8", 1), ("int8", -1), ("uint16", 2), ("int16", -2), ("int32", -3), ("uint64", 1 << 40),
                          ("int64", -(1 << 40)), ("float64", 0.1), ("bool", True), ("string", "é")):  # fmt: skip
        getattr(file, f"add_{method}")(f"x.{method}", value)
    file.add_array("x.array", [1, 2, 3])
    file.add_array("x.flags", [True, False])
    file.add_custom_alignment(64)
    file.add_tensor("a", numpy.arange(40, dtype=numpy.float32).reshape(4, 10))
    file.add_tensor("b", numpy.zeros(3, dtype=numpy.float16))
    finish(file)
    mine, theirs = read_header(tmp_path / "a.gguf"), gguf.GGUFReader(tmp_path / "a.gguf")
    assert mine.alignment == theirs.alignment == 64
    own = {key for key in theirs.fields if not key.startswith("GGUF.")}
    assert own == set(mine.fields)
    for key in own:
        value = mine.get(key)
        value = list(value.values) if isinstance(value, Array) else value
        assert value == theirs.fields[key].contents(), key
    described = [(t.name, list(t.shape), t.kind, t.begin, t.bytes) for t in mine.tensors]
    assert described == [
        (t.name, t.shape.tolist(), int(t.tensor_type), int(t.data_offset), int(t.n_bytes)) for t in theirs.tensors
    ]


def test_the_range_of_a_field_is_its_bytes_in_the_file(tmp_path: Path) -> None:
    path = save_llama(tmp_path / "a.gguf")
    found = read_header(path).fields["general.architecture"]
    assert path.read_bytes()[found.begin : found.end] == pair(b"general.architecture", 8, text(b"llama"))


def test_an_array_too_long_to_keep_is_stepped_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_llama(tmp_path / "a.gguf")
    whole = read_header(path)
    monkeypatch.setattr(header_module, "MAX_VALUES", 3)
    short = read_header(path)
    assert short.get("tokenizer.ggml.tokens") == Array(8, whole.get("tokenizer.ggml.tokens").count, None)
    assert short.get("tokenizer.ggml.token_type").values is None
    assert short.tensors == whole.tensors


U32 = struct.pack("<I", 7)
HOSTILE = {
    "empty": (b"", "no GGUF file"),
    "magic": (b"GGML" + raw()[4:], "no GGUF file"),
    "version 1": (raw(version=1), "version 1"),
    "big endian": (raw(version=3 << 24), "big-endian"),
    "tensor count": (raw(counts=(1 << 63, 0)), "claims 9223372036854775808 tensors"),
    "pair count": (raw(counts=(0, 1 << 62)), "claims 4611686018427387904 metadata keys"),
    "more tensors than described": (raw((), (tensor(),), counts=(9, 0)), "GGUF header|occurs twice|unknown"),
    "key length": (raw((struct.pack("<Q", 1 << 60),), payload=64), "metadata key of 1152921504606846976 bytes"),
    "string length": (raw((pair(b"k", 8, struct.pack("<Q", 1 << 40)),)), "1099511627776 bytes"),
    "short string": (raw((pair(b"k", 8, struct.pack("<Q", 4096)),)), "truncated"),
    "long token": (raw((pair(header_module.TOKENS.encode(), 9, struct.pack("<IQ", 8, 1) + text(bytes(2049))),)),
                   "of 2049 bytes at byte .*the limit is 2048"),
    "values in all": (raw(tuple(pair(b"k%d" % n, 9, struct.pack("<IQ", 0, 50_000) + bytes(50_000)) for n in range(90))),
                      "more than 4194304 values in all"),
    "array count": (raw((pair(b"k", 9, struct.pack("<IQ", 10, 1 << 61)),)), "claims 2305843009213693952 values"),
    "string array count": (raw((pair(b"k", 9, struct.pack("<IQ", 8, 1 << 61)),)), "strings in"),
    "nested array": (raw((pair(b"k", 9, struct.pack("<IQ", 9, 1)),)), "array of arrays"),
    "value type": (raw((pair(b"k", 13, U32),)), "unknown value type 13"),
    "array value type": (raw((pair(b"k", 9, struct.pack("<IQ", 77, 1)),)), "unknown value type 77"),
    "bool": (raw((pair(b"k", 7, b"\2"),)), "no bool"),
    "key twice": (raw((pair(b"k", 4, U32), pair(b"k", 4, U32))), "'k' occurs twice"),
    "key encoding": (raw((pair(b"\xff\xfe", 4, U32),)), "not UTF-8"),
    "value encoding": (raw((pair(b"k", 8, text(b"\x80")),)), "not UTF-8"),
    "alignment zero": (raw((pair(b"general.alignment", 4, bytes(4)),)), "power of two"),
    "alignment odd": (raw((pair(b"general.alignment", 4, struct.pack("<I", 48)),)), "power of two"),
    "alignment type": (raw((pair(b"general.alignment", 8, text(b"32")),)), "power of two"),
    "alignment huge": (raw((pair(b"general.alignment", 4, struct.pack("<I", 1 << 31)),), (tensor(),)), "ends at byte"),
    "tensor twice": (raw((), (tensor(), tensor(offset=128))), "'t' occurs twice"),
    "tensor name": (raw((), (tensor(b"x" * 65),)), "tensor name of 65 bytes"),
    "dimensions": (raw((), (tensor(shape=(1, 1, 1, 1, 1)),)), "5 dimensions"),
    "dimension count": (raw((), (text(b"t") + struct.pack("<I", 1 << 31),)), "2147483648 dimensions"),
    "huge product": (raw((), (tensor(shape=(1 << 63, 1 << 63, 1 << 63, 4)),)), "ends at byte"),
    "tensor type": (raw((), (tensor(kind=4),)), "unknown tensor type 4"),
    "half a block": (raw((), (tensor(shape=(40,), kind=2),)), "no whole blocks of Q4_0"),
    "offset": (raw((), (tensor(offset=8),)), "multiple of the alignment"),
    "outside": (raw((), (tensor(offset=1 << 40),)), "ends at byte"),
    "offset overflow": (raw((), (tensor(offset=(1 << 64) - 32),)), "ends at byte"),
    "overlap": (raw((), (tensor(b"a"), tensor(b"b", offset=96))), "'b' overlaps 'a'"),
    "truncated payload": (raw((), (tensor(shape=(256,)),))[:-32], "ends at byte"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused_by_name_at_once(tmp_path: Path, name: str) -> None:
    path = tmp_path / "h.gguf"
    path.write_bytes(HOSTILE[name][0])
    began = time.monotonic()
    with pytest.raises(PruneError, match=HOSTILE[name][1]):
        read_header(path)
    assert time.monotonic() - began < 1


def test_the_file_by_hand_is_fine_without_the_fault(tmp_path: Path) -> None:
    (tmp_path / "h.gguf").write_bytes(raw((pair(b"k", 4, U32),), (tensor(b"a"), tensor(b"b", offset=128))))
    found = read_header(tmp_path / "h.gguf")
    assert (found.get("k"), [t.name for t in found.tensors]) == (7, ["a", "b"])


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    data = save_llama(tmp_path / "a.gguf", layers=1).read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [*range(0, 400, 7), *range(400, len(data) - 32, 997)]:
        cut.write_bytes(data[:length])
        with pytest.raises(PruneError):
            read_header(cut)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.gguf", Path("/dev/null")):
        with pytest.raises(PruneError):
            read_header(path)
