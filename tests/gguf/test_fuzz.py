"""Mutated and invented GGUF headers raise nothing but our own error; the short version of `scripts/fuzz_gguf.py`."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from prune.errors import PruneError
from prune.gguf.header import read_header
from tests.conftest import REPOSITORY

NUMBERS = st.one_of(st.integers(0, 40), st.sampled_from([2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1]))


def packed(code: str) -> st.SearchStrategy[bytes]:
    return NUMBERS.map(lambda n: struct.pack("<" + code, n % (1 << 8 * struct.calcsize("<" + code))))


TEXT = st.one_of(
    st.sampled_from([b"general.architecture", b"general.alignment", b"llama.block_count", b"blk.0.w", b"\xff", b""])
    .map(lambda raw: struct.pack("<Q", len(raw)) + raw),
    packed("Q"),
)  # fmt: skip
PIECES = st.lists(st.one_of(TEXT, packed("I"), packed("Q"), packed("B"), st.binary(max_size=12)), max_size=30)


@given(version=st.sampled_from([2, 3]), tensors=packed("Q"), pairs=packed("Q"), pieces=PIECES)
@settings(max_examples=400, deadline=1000)
def test_invented_headers_raise_only_our_error(version: int, tensors: bytes, pairs: bytes, pieces: list[bytes]) -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as file:
        file.write(b"GGUF" + struct.pack("<I", version) + tensors + pairs + b"".join(pieces) + bytes(64))
        file.flush()
        try:
            found = read_header(Path(file.name))
        except PruneError:
            return
        size = os.path.getsize(file.name)
        assert all(0 <= t.begin <= t.end <= size for t in found.tensors)


def test_mutated_files_raise_only_our_error_and_touch_nothing_outside() -> None:
    # In its own process: an audit hook cannot be removed again.
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts/fuzz_gguf.py"), "--inputs", "600", "--seed", "7"],
        capture_output=True, text=True, cwd=REPOSITORY, env={"PYTHONPATH": str(REPOSITORY), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-500:]
    counts = dict(line.strip().split(": ") for line in done.stdout.splitlines()[1:])
    assert all(int(counts[kind]) > 0 for kind in ("cut accepted", "cut refused", "header accepted", "header refused"))
