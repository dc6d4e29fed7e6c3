"""Fuzz the reading of checkpoints: mutated safetensors headers, index files and configs, then a real cut of each.

Three rules are checked on every input: nothing but `PruneError` is raised; no file is opened for writing outside the
target; no file is opened for reading outside the source (Python's audit hook sees every open). With `--engine atheris`
(pip install atheris) the header parser's inputs are chosen by coverage; the default needs no extra package.

    python scripts/fuzz_headers.py --inputs 100000
    python scripts/fuzz_headers.py --engine atheris --inputs 100000
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import struct
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from prune.checkpoint import headers
from prune.checkpoint.directory import INDEX
from prune.checkpoint.headers import parse_header
from prune.errors import PruneError
from prune.surgery.cut import cut

ROOT = Path(__file__).resolve().parents[1]
CODE = (sys.prefix, sys.base_prefix, ROOT / "prune")
"""Where modules come from: importing one for the first time is not the input's doing."""
METADATA = (f"{ROOT}/depth_prune.egg-info", f"{ROOT}/__editable__")
"""What Python reads of an editable installation to tell the version that a cut records."""
CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 3}
NAMES = ["../x", "/etc/passwd", "C:\\x", "\\\\h\\s", "a\0b", "b.safetensors", "", ".", "..", "a/b", "é", "\ud800", "~"]
NUMBERS = [0, 1, -1, 2**31, 2**63, 2**64, 10**30, 1.5, float("nan"), True, None, "", [], {}, [1, 2], "4"]
WORDS = [b'"dtype"', b'"shape"', b'"data_offsets"', b"[", b"]", b"{", b"}", b'"F32"', b'"F4"', b"0", b"4", b"-1",
         b"1e9", b"18446744073709551616", b"\xff", b"\\ud800", b"NaN", b",", b":",
         b'"__metadata__"', b'"a"']  # fmt: skip


class Watch:
    """Every open of a file, and every change of a name, that Python reports while `active`."""

    WRITES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "shutil.copyfile")

    def __init__(self, root: Path) -> None:
        self.active = False
        self.allowed = (*(os.path.realpath(place) + os.sep for place in (root, *CODE)), *METADATA)
        self.outside: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.active or (event != "open" and event not in self.WRITES):
            return
        for path in args[: 1 if event == "open" else 2]:
            if isinstance(path, bytes | str | os.PathLike):
                place = os.path.realpath(os.fsdecode(path))
                if not (place + os.sep).startswith(self.allowed):
                    self.outside.append(f"{event} {place}")


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """A few local edits: flip, delete, insert, repeat, or a word of the format."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(5)
        if kind == 0 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del out[at : at + rng.randint(1, 12)]
        elif kind == 2:
            out[at:at] = rng.randbytes(rng.randint(1, 6))
        elif kind == 3:
            out[at:at] = rng.choice(WORDS)
        else:
            end = at + rng.randint(1, 24)
            out[at:at] = out[at:end]
    return bytes(out)


def mutate_json(rng: random.Random, value: Any) -> Any:
    """One value somewhere in a JSON structure replaced, removed or renamed."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(sorted(value))
        changed, kind = dict(value), rng.randrange(6)
        if kind == 0:
            del changed[key]
        elif kind == 1:
            changed[rng.choice([*NAMES, *value])] = changed.pop(key)
        else:
            changed[key] = mutate_json(rng, value[key])
        return changed
    if isinstance(value, list) and value and rng.random() < 0.7:
        at = rng.randrange(len(value))
        return [*value[:at], mutate_json(rng, value[at]), *value[at + 1 :]]
    return rng.choice([*NUMBERS, *NAMES])


class Source:
    """A three-layer checkpoint of two shards in memory, written out with one part mutated."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tables: dict[str, dict[str, Any]] = {}
        self.weight_map: dict[str, str] = {}
        for file, names in {"a.safetensors": ["model.layers.0.w", "model.e"], "b.safetensors": [
            "model.layers.1.w", "model.layers.2.w"]}.items():  # fmt: skip
            self.tables[file] = {
                n: {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]} for i, n in enumerate(names)
            }
            self.weight_map |= dict.fromkeys(names, file)

    def write(self, rng: random.Random) -> None:
        """All files, one of them mutated."""
        part = rng.choice(["header", "header bytes", "length", "index", "index bytes", "config", "config bytes"])
        for file, table in self.tables.items():
            chosen = part in ("header", "header bytes", "length") and rng.random() < 0.7
            raw = json.dumps(mutate_json(rng, table) if chosen and part == "header" else table).encode(
                "utf8", "replace"
            )
            raw = mutate_bytes(rng, raw) if chosen and part == "header bytes" else raw
            length = rng.choice([0, 1, 2**40, 2**64 - 1, len(raw) + 1]) if chosen and part == "length" else len(raw)
            (self.directory / file).write_bytes(struct.pack("<Q", length) + raw + bytes(8))
        self._json(rng, INDEX, {"metadata": {"total_size": 16}, "weight_map": self.weight_map}, part, "index")
        self._json(rng, "config.json", CONFIG, part, "config")

    def _json(self, rng: random.Random, file: str, value: Any, part: str, name: str) -> None:
        raw = json.dumps(mutate_json(rng, value) if part == name else value).encode("utf8", "replace")
        (self.directory / file).write_bytes(mutate_bytes(rng, raw) if part == f"{name} bytes" else raw)


def fuzz(inputs: int, seed: int = 0) -> Counter[str]:
    """Half the inputs go to the header parser alone, half through a whole cut; counts of what came out.

    Raises:
        AssertionError: a file outside source and target was touched.
        Exception: whatever else than PruneError the code under test raises.
    """
    rng, outcome = random.Random(seed), Counter[str]()
    memory = Path("/dev/shm")  # every cut syncs its files, which costs nothing there
    scratch = Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))
    try:
        (scratch / "source").mkdir()
        source, watch, target = Source(scratch / "source"), Watch(scratch), scratch / "out"
        header = json.dumps(source.tables["b.safetensors"]).encode()
        for number in range(inputs):
            try:
                if number % 2:
                    raw = mutate_bytes(rng, header)
                    parse_header(raw, 8 + len(raw) + rng.choice([8, 8, 8, 7, 9]), "fuzz")
                    outcome["header accepted"] += 1
                else:
                    source.write(rng)
                    watch.active = True
                    cut(str(scratch / "source"), target, drop_layers=[1], verify=False)
                    outcome["cut accepted"] += 1
            except PruneError:
                outcome["cut refused" if number % 2 == 0 else "header refused"] += 1
            finally:
                watch.active = False
            assert not watch.outside, f"input {number}: {watch.outside[:3]}"
            left = {path.name for path in scratch.iterdir()} - {"source", "out"}
            assert not left, f"input {number} left {left}"
            if target.exists():
                shutil.rmtree(target)
    finally:
        shutil.rmtree(scratch)
    return outcome


def fuzz_by_coverage(inputs: int) -> None:
    """libFuzzer on the header parser; ends the process."""
    import atheris

    place = Path(tempfile.mkdtemp(prefix="fuzz-"))
    corpus, words = place / "corpus", place / "words"
    corpus.mkdir()
    for file, table in Source(place).tables.items():
        (corpus / file).write_bytes(json.dumps({"__metadata__": {"format": "pt"}, **table}).encode())
    escaped = ["".join(f"\\x{byte:02x}" for byte in word) for word in WORDS]
    words.write_text("".join(f'"{word}"\n' for word in escaped))

    def one(data: bytes) -> None:
        with contextlib.suppress(PruneError):
            parse_header(data, 8 + len(data) + 8, "fuzz")

    for function in (parse_header, headers.parse_json, headers._entry, headers._naturals):
        atheris.instrument_func(function)  # in place; all of Python's would take a minute
    atheris.Setup([sys.argv[0], f"-runs={inputs}", f"-dict={words}", "-max_len=512", str(corpus)], one)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=["random", "atheris"], default="random")
    arguments = parser.parse_args()
    if arguments.engine == "atheris":
        fuzz_by_coverage(arguments.inputs)
        return
    began = time.monotonic()
    outcome = fuzz(arguments.inputs, arguments.seed)
    print(f"{arguments.inputs:,} inputs in {time.monotonic() - began:.0f} s, no other error, nothing touched outside:")
    for name, count in sorted(outcome.items()):
        print(f"  {name}: {count:,}")


if __name__ == "__main__":
    main()
