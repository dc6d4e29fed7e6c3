"""Checkpoints made into GGUF files by llama.cpp's own converter, in the environment that `scripts/runtime` makes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from evals.errors import EvalError
from evals.runtimes import home, python_of
from evals.worker import check_runtime


def to_gguf(directory: Path, target: Path, outtype: str) -> None:
    """Convert a checkpoint.

    Args:
        outtype: as the converter's flag: f32, f16, bf16, q8_0.

    Raises:
        EvalUsageError: llama.cpp is not installed here.
        EvalError: the converter refuses the checkpoint; its last words are in the message.
    """
    check_runtime("llama.cpp")
    (tree,) = (home() / "llama.cpp" / "source").glob("*/vendor/llama.cpp")
    partial = target.with_name(f".{target.name}.partial")
    command = [python_of("llama.cpp"), tree / "convert_hf_to_gguf.py", directory, "--outtype", outtype]
    environment = os.environ | {"PYTHONPATH": str(tree / "gguf-py"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*map(str, command), "--outfile", str(partial)], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        partial.unlink(missing_ok=True)
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
        raise EvalError(f"{directory}: llama.cpp's converter refuses it: {said[-1][:300]}")
    partial.rename(target)
