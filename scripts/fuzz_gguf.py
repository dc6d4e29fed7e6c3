"""Fuzz the reading of GGUF files: mutated headers, alone and through a whole cut.

The rules of `fuzz_headers.py`, and a limit of time: nothing but `PruneError` is raised; no file is opened outside
source and target; nothing is left where a cut was refused; no input takes longer than a second of processor time. Needs
the `gguf` package, which writes the file that is mutated.

    python scripts/fuzz_gguf.py --inputs 100000
"""

from __future__ import annotations

import argparse
import random
import shutil
import struct
import tempfile
import time
from collections import Counter
from pathlib import Path

import gguf
import numpy
from fuzz_headers import Watch, mutate_bytes

from prune.errors import PruneError
from prune.gguf.cut import cut_file
from prune.gguf.header import Header, read_header

SECONDS = 1.0
HOSTILE = [0, 1, 2, 3, 4, 7, 8, 9, 13, 31, 32, 33, 63, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1]


def build(path: Path) -> bytes:
    """A file with every kind of value, and every kind of key that a cut edits; its header's bytes."""
    file = gguf.GGUFWriter(path, "gemma3")
    file.add_block_count(6)
    file.add_sliding_window(8)
    file.add_head_count([1, 2, 3, 4, 5, 6])
    file.add_uint32("gemma3.leading_dense_block_count", 2)
    file.add_array("tokenizer.ggml.tokens", ["a", "bc", "é", "", "longer token", "z"])
    file.add_array("tokenizer.ggml.scores", [0.5, 1.5, -2.0])
    file.add_float64("x.float64", 0.1)
    file.add_int8("x.int8", -1)
    file.add_uint64("x.uint64", 1 << 40)
    file.add_bool("x.bool", True)
    file.add_custom_alignment(32)
    for layer in range(6):
        file.add_tensor(f"blk.{layer}.a", numpy.full(8, layer, dtype=numpy.float32))
        file.add_tensor(
            f"blk.{layer}.b", numpy.full((2, 34), layer, dtype=numpy.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_0
        )
    file.add_tensor("output_norm.weight", numpy.ones(3, dtype=numpy.float16))
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path.read_bytes()


def mutate(rng: random.Random, data: bytes, header: Header) -> bytes:
    """Bytes edited anywhere in the header, a number replaced, a field doubled or left out, or the file cut short."""
    end = header.tensors[0].begin
    kind = rng.randrange(6)
    if kind == 0:
        return mutate_bytes(rng, data[:end]) + data[end:]
    if kind == 1:
        return data[: rng.randrange(len(data))]
    out = bytearray(data)
    if kind in (2, 3):
        for _ in range(rng.randint(1, 3)):
            code, at = rng.choice("BIQ"), rng.randrange(4, end - 8)
            number = rng.choice(HOSTILE) % (1 << 8 * struct.calcsize("<" + code))
            out[at : at + struct.calcsize("<" + code)] = struct.pack("<" + code, number)
        return bytes(out)
    field = rng.choice(list(header.fields.values()))
    part = data[field.begin : field.end]
    count = len(header.fields)
    if kind == 4:
        out[field.end : field.end] = part if rng.random() < 0.3 else mutate_bytes(rng, part)
        out[16:24] = struct.pack("<Q", count + 1)
    else:
        del out[field.begin : field.end]
        out[16:24] = struct.pack("<Q", count - 1)
    if rng.random() < 0.7:  # tensors where the header says that they are
        shift = len(out) - len(data)
        at = end + shift
        out[at:at] = bytes(-at % 32)
    return bytes(out)


def fuzz(inputs: int, seed: int = 0) -> Counter[str]:
    """Half the inputs go to the parser alone, half through a whole cut; counts of what came out.

    Raises:
        AssertionError: a file outside was touched, something was left, or an input took too long.
        Exception: whatever else than PruneError the code under test raises.
    """
    rng, outcome = random.Random(seed), Counter[str]()
    memory = Path("/dev/shm")  # every cut syncs its file, which costs nothing there
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))
    try:
        file, target = scratch / "in.gguf", scratch / "out.gguf"
        data = build(file)
        header, watch = read_header(file), Watch(scratch)
        for number in range(inputs):
            file.write_bytes(mutate(rng, data, header))
            began, whole = time.process_time(), number % 2 == 0
            watch.active = True
            try:
                if whole:
                    cut_file(file, target, drop_layers=[1])
                    outcome["cut accepted"] += 1
                else:
                    read_header(file)
                    outcome["header accepted"] += 1
            except PruneError:
                outcome["cut refused" if whole else "header refused"] += 1
            finally:
                watch.active = False
            assert not watch.outside, f"input {number}: {watch.outside[:3]}"
            assert time.process_time() - began < SECONDS, f"input {number} took {time.process_time() - began:.1f} s"
            target.unlink(missing_ok=True)
            left = [path.name for path in scratch.iterdir() if path != file]
            assert not left, f"input {number} left {left}"
    finally:
        shutil.rmtree(scratch)
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    began = time.monotonic()
    outcome = fuzz(arguments.inputs, arguments.seed)
    print(f"{arguments.inputs:,} inputs in {time.monotonic() - began:.0f} s, no other error, nothing touched outside:")
    for name, count in sorted(outcome.items()):
        print(f"  {name}: {count:,}")


if __name__ == "__main__":
    main()
