"""`prune.import_gguf`: a GGUF file becomes a transformers checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prune.gguf.importing import ImportResult


def import_gguf(
    file: str | Path,
    output: str | Path,
    *,
    dtype: str = "bfloat16",
    max_shard_size: str = "5GB",
    dry_run: bool = False,
) -> ImportResult:
    """Write the stock transformers checkpoint that a GGUF file holds, proved against transformers' own reading of it.

        prune.import_gguf("model.gguf", "model")

    Args:
        file: a .gguf file; of a split model, its first part.
        output: directory to create: dequantised weights, config, tokenizer, chat template, generation config.
        dtype: of the weights written: `float32`, `bfloat16` or `float16`.
        max_shard_size: largest weight file, such as `5GB`.
        dry_run: check the file and say what would be done, write nothing.

    Raises:
        UsageError: no such file, target not empty, unknown dtype, or the `gguf` package is missing.
        PruneError: a damaged file, an architecture or tensor type that transformers does not read, or a failed proof.
    """
    from prune.gguf.importing import import_file

    return import_file(file, output, dtype=dtype, max_shard_size=max_shard_size, dry_run=dry_run)
