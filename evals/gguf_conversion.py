"""Checkpoints made into GGUF files by llama.cpp's own converter, in the environment that `scripts/runtime` makes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from evals.errors import EvalError
from evals.runtimes import home, python_of
from evals.worker import WORKERS, check_runtime

BLOCKS = ("q4_0",)
"""Types that the converter does not write itself."""


def to_gguf(directory: Path, target: Path, outtype: str) -> None:
    """Convert a checkpoint.

    Args:
        outtype: f32, f16, bf16, q8_0 as the converter's flag; or q4_0, which `workers/quantize_gguf.py` adds.

    Raises:
        EvalUsageError: llama.cpp is not installed here.
        EvalError: the converter refuses the checkpoint; its last words are in the message.
    """
    check_runtime("llama.cpp")
    (tree,) = (home() / "llama.cpp" / "source").glob("*/vendor/llama.cpp")
    partial = target.with_name(f".{target.name}.partial")
    python, whole = python_of("llama.cpp"), target.with_name(f".{target.name}.whole")
    blocks = outtype in BLOCKS
    commands = [[python, tree / "convert_hf_to_gguf.py", directory, "--outtype", "f32" if blocks else outtype]]
    commands[0] += ["--outfile", whole if blocks else partial]
    if blocks:
        commands.append([python, WORKERS / "quantize_gguf.py", whole, partial, outtype])
    environment = os.environ | {"PYTHONPATH": str(tree / "gguf-py"), "HF_HUB_OFFLINE": "1"}
    try:
        for command in commands:
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
            if done.returncode:
                said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
                raise EvalError(f"{directory}: llama.cpp's converter refuses it: {said[-1][:300]}")
        partial.rename(target)
    finally:
        for left in (whole, partial):
            left.unlink(missing_ok=True)
