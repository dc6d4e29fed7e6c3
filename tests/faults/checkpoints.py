"""Checkpoints of one-element tensors written by hand, and a way to stop the program at any of its writes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from prune.checkpoint.directory import INDEX

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 4}
WRITES = [
    (os, "posix_fallocate"), (os, "write"), (os, "copy_file_range"), (os, "fsync"), (shutil, "copyfile"),
    (Path, "rename"), (Path, "replace"), (Path, "write_text"), (Path, "mkdir"),
]  # fmt: skip


def tensor_file(path: Path, names: list[str], dtype: str = "F32") -> None:
    """Write a safetensors file of one-element tensors by hand."""
    size = {"F32": 4, "BF16": 2}[dtype]
    table = {n: {"dtype": dtype, "shape": [1], "data_offsets": [size * i, size * (i + 1)]} for i, n in enumerate(names)}
    raw = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(i % 256 for i in range(size * len(names))))


def four_layers(root: Path) -> Path:
    """A four-layer checkpoint in two shards, with a tokenizer file and a licence beside it."""
    root.mkdir()
    (root / "config.json").write_text(json.dumps(CONFIG))
    (root / "tokenizer.json").write_text("{}")
    (root / "LICENSE").write_text("free")
    weight_map = {}
    for file, layers in {"a.safetensors": [0, 1], "b.safetensors": [2, 3]}.items():
        names = [f"model.layers.{i}.w" for i in layers] + [f"model.{file[0]}"]
        tensor_file(root / file, names)
        weight_map |= dict.fromkeys(names, file)
    (root / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return root


@contextlib.contextmanager
def at_write(number: int, action: Callable[[], Any]) -> Iterator[list[int]]:
    """Call `action` instead of the number-th write (any call that changes the disk); yields [writes so far]."""
    count = [0]

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            count[0] += 1
            if count[0] == number:
                action()
            return original(*args, **options)

        return call

    with contextlib.ExitStack() as stack:
        for owner, name in WRITES:
            stack.enter_context(mock.patch.object(owner, name, wrap(getattr(owner, name))))
        yield count


def in_fork(work: Callable[[], Any]) -> int:
    """Run `work` in a forked child; its wait status."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            work()
        os._exit(0)
    return os.waitpid(child, 0)[1]
