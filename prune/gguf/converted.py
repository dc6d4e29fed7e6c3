"""A GGUF file of architecture `deci` from a directory: llama.cpp's own converter, then the sub-layers left out.

The converter knows tokenizers and tensor layouts; what it writes of a Llama is cut by `deci`, bytes and all. A DeciLM
directory, which `prune cut --runtime mlx` or healing wrote, goes the same way: it is handed over as the Llama that it
is but for what it lacks, because the converter's own DeciLM takes the vocabularies of two models only.
Everything that can be refused is refused before the converter starts.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals.gguf_conversion import to_gguf
from evals.worker import check_runtime
from prune.checkpoint.depth_fields import depth_of, model_kind
from prune.checkpoint.directory import CONFIG, INDEX
from prune.checkpoint.source import Source
from prune.errors import PruneError, UsageError
from prune.files import write_exact_json
from prune.gguf.cut import check_target
from prune.gguf.deci import cut_parts_of_file
from prune.model.deci import KIND, llama_config, silent_parts
from prune.planning.plan import Plan
from prune.surgery.cut import check_revision
from prune.surgery.deci import PartsCut, check_config, check_llama_cpp, check_parts, said, tensors_left

OUTTYPES = {"F32": "f32", "F16": "f16", "BF16": "bf16"}


def cut_parts_to_file(
    source: Source,
    output: str | Path,
    attn: Sequence[int],
    mlp: Sequence[int],
    *,
    plan: Plan | None = None,
    verify: bool = True,
    dry_run: bool = False,
) -> PartsCut:
    """Write the GGUF file of a directory without some sub-layers, in the directory's own element type.

    Args:
        source: a Llama-shaped checkpoint; or a DeciLM one, which lacks sub-layers already: then both lists are empty.
        output: the .gguf file to create.
        attn: layers whose attention goes.
        mlp: layers whose MLP goes.
        plan: what named the layers, so that its depth and revision are checked.
        verify: compare every tensor with the converter's before the file gets its name.
        dry_run: check and plan everything, convert and write nothing.

    Raises:
        UsageError: bad lists, a target that exists or has another ending.
        EvalUsageError: llama.cpp is not installed.
        EvalError: its converter refuses the checkpoint: an unknown tokenizer, say.
        PruneError: a family, field or list that llama.cpp's `deci` cannot carry, or a failed write.
    """
    target = Path(output)
    check_target(target)
    if plan is not None:
        check_revision(plan, source)
    parted = model_kind(source.checkpoint.config) == KIND
    if parted and (attn or mlp):
        raise UsageError(
            f"{source.id}: lacks sub-layers already and becomes a GGUF file as it is, without --plan, --drop_attn and"
            " --drop_mlp; to remove others, cut the original"
        )
    config = source.checkpoint.config
    if parted:
        config = llama_config(config, source.id) | {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
        attn, mlp = silent_parts(source.checkpoint.config)
    depth = depth_of(config)
    check_parts(attn, mlp, depth, plan)
    check_llama_cpp(attn, mlp, depth)
    check_config(config, "llama.cpp")
    tensors = source.checkpoint.tensors
    outtype = _outtype(source)
    kept = list(tensors) if parted else tensors_left(list(tensors), depth, attn, mlp)
    check_runtime("llama.cpp")
    if dry_run:
        size = sum(tensors[name].entry.bytes for name in kept)
        notes = [said(attn, mlp), "architecture deci, for llama.cpp"]
        return PartsCut(
            source.id, str(target), depth, list(range(depth)), [], size, [], False,
            drop_attention=sorted(attn), drop_mlp=sorted(mlp), notes=notes,
        )  # fmt: skip
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        directory, whole = Path(scratch) / "model", Path(scratch) / "whole.gguf"
        _hand_over(source, config, directory)
        to_gguf(directory, whole, outtype)
        shutil.rmtree(directory)
        source.require_unchanged()
        absent = sorted(set(attn) & set(mlp)) if parted else ()
        result = cut_parts_of_file(whole, target, attn, mlp, verify=verify, absent=absent)
    result.source = source.id
    return result


def _outtype(source: Source) -> str:
    """The converter's name for an element type that holds every weight exactly.

    Raises:
        PruneError: it has none.
    """
    kinds = {tensor.entry.dtype for tensor in source.checkpoint.tensors.values()}
    if not kinds <= OUTTYPES.keys():
        raise PruneError(
            f"--runtime llama.cpp: {source.id} has weights in {', '.join(sorted(kinds - OUTTYPES.keys()))}; a GGUF file"
            f" is made of {', '.join(OUTTYPES)}"
        )
    return OUTTYPES[kinds.pop()] if len(kinds) == 1 else "f32"


def _hand_over(source: Source, config: dict[str, Any], directory: Path) -> None:
    """The checkpoint in a folder of links, under a Llama's config: the converter takes tensors as they come."""
    directory.mkdir()
    checkpoint = source.checkpoint
    files = {name: source.directory / name for name in checkpoint.headers} | checkpoint.companions
    if (source.directory / INDEX).is_file():
        files[INDEX] = source.directory / INDEX
    for name, path in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).symlink_to(path.resolve())
    write_exact_json(directory / CONFIG, config)
