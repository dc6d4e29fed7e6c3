"""A GGUF file without some attentions or MLPs: architecture `deci`, which llama.cpp reads without custom code.

`deci` is `llama` whose head counts and MLP widths are arrays over layers, 0 where there is none. A llama file becomes
one by renaming its keys and leaving tensors out; what stays is copied bit for bit, whatever its quantisation.
Assumption: what llama.cpp does with such a file was seen by running it (`prune.surgery.deci.check_llama_cpp`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prune.errors import PruneError
from prune.gguf.cut import check_header, check_target, compare_tensors, staged_file
from prune.gguf.header import Array
from prune.gguf.layers import depth_of
from prune.gguf.parts import Model, read_model
from prune.gguf.types import ARRAY, STRING
from prune.gguf.writer import place, write_file
from prune.planning.plan import Plan
from prune.surgery.byte_copies import write_failure
from prune.surgery.deci import PartsCut, check_llama_cpp, check_parts, said

SOURCE, TARGET = "llama", "deci"
BLOCK = re.compile(r"blk\.(\d{1,6})\.(.+)")
ATTENTION = frozenset(f"attn_{name}.weight" for name in ("norm", "q", "k", "v", "output"))
MLP = frozenset(f"ffn_{name}.weight" for name in ("norm", "gate", "up", "down"))
INT32 = 5
PER_LAYER = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
KNOWN = frozenset(
    (
        *PER_LAYER, "block_count", "context_length", "embedding_length", "rope.freq_base", "rope.dimension_count",
        "attention.layer_norm_rms_epsilon", "attention.key_length", "attention.value_length", "vocab_size",
        "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length",
    )
)  # fmt: skip
"""Keys of `llama` that `deci` reads alike."""


def cut_parts_of_file(
    model: str | Path,
    output: str | Path,
    attn: Sequence[int],
    mlp: Sequence[int],
    *,
    plan: Plan | None = None,
    verify: bool = True,
    dry_run: bool = False,
    absent: Sequence[int] = (),
) -> PartsCut:
    """Write the GGUF file that is left without some sub-layers.

    Args:
        model: a .gguf file of architecture llama, of a split model the first part; never modified.
        output: the .gguf file to create.
        attn: layers whose attention goes.
        mlp: layers whose MLP goes.
        plan: what named the layers, so that its depth is checked.
        verify: compare every tensor with the source before the file gets its name.
        dry_run: check and plan everything, write nothing.
        absent: of those that lose both, layers of which the file has nothing.

    Raises:
        UsageError: bad lists, or a target that exists or has another ending.
        PruneError: a damaged file, another architecture, a key or tensor that `deci` has no place for, a list that
            llama.cpp reads wrongly, or a failed write.
    """
    source, target = Path(model), Path(output)
    check_target(target, source)
    found = read_model(source)
    _check_architecture(found)
    depth = depth_of(found, absent)
    check_parts(attn, mlp, depth, plan)
    check_llama_cpp(attn, mlp, depth)
    values = _metadata(found, depth, attn, mlp)
    placed = place(found, {name: name for name in _tensors(found, attn, mlp)})
    result = PartsCut(
        str(source), str(target), depth, list(range(depth)), [], sum(item.tensor.bytes for item in placed), [], False,
        drop_attention=sorted(attn), drop_mlp=sorted(mlp), notes=[said(attn, mlp), "architecture deci, for llama.cpp"],
    )  # fmt: skip
    if dry_run:
        return result
    old = [key for key in found.fields if key.startswith(f"{SOURCE}.")]
    try:
        with staged_file(target) as (staging, descriptor):
            write_file(found, placed, values, descriptor, without=old)
            check_header(staging, placed)
            if verify:
                compare_tensors(staging, placed)
                result.verified = True
    except OSError as error:
        raise PruneError(f"{target}: {write_failure(error)}") from error
    result.files = [target.name]
    return result


def _check_architecture(model: Model) -> None:
    if model.architecture == SOURCE:
        return
    why = "has norms on queries and keys" if model.architecture in ("qwen3", "gemma3") else "is not llama"
    raise PruneError(
        f"{model.path}: architecture {model.architecture[:40]!r} {why}, which llama.cpp's deci cannot carry; use whole"
        " layers (prune plan --unit layer)"
    )


def _metadata(model: Model, depth: int, attn: Sequence[int], mlp: Sequence[int]) -> dict[str, tuple[int, Any]]:
    """The keys of `deci`: those of `llama` under its name, with arrays over layers."""
    values: dict[str, tuple[int, Any]] = {"general.architecture": (STRING, TARGET)}
    for key, field in model.fields.items():
        if not key.startswith(f"{SOURCE}."):
            continue
        name = key.removeprefix(f"{SOURCE}.")
        if name not in KNOWN:
            raise PruneError(f"{model.path}: {key} has no place in llama.cpp's deci; use whole layers")
        values[f"{TARGET}.{name}"] = (field.kind, field.value)
    heads = _numbers(model, "attention.head_count", depth)
    groups = _numbers(model, "attention.head_count_kv", depth, heads)
    widths = _numbers(model, "feed_forward_length", depth)
    for name, numbers, gone in (*((n, x, attn) for n, x in zip(PER_LAYER[:2], (heads, groups), strict=True)),
                                (PER_LAYER[2], widths, mlp)):  # fmt: skip
        left = tuple(0 if layer in gone else number for layer, number in enumerate(numbers))
        values[f"{TARGET}.{name}"] = (ARRAY, Array(INT32, depth, left))
    return values


def _numbers(model: Model, name: str, depth: int, default: Sequence[int] | None = None) -> list[int]:
    """A number for every layer, stated once or by layer."""
    value = model.first.get(f"{SOURCE}.{name}")
    if isinstance(value, Array) and value.values is not None and value.count == depth:
        return [int(number) for number in value.values]
    if type(value) is int and value > 0:
        return [value] * depth
    if value is None and default is not None:
        return list(default)
    raise PruneError(f"{model.path}: {SOURCE}.{name} is no number above 0, nor one a layer")


def _tensors(model: Model, attn: Sequence[int], mlp: Sequence[int]) -> list[str]:
    """Names of the tensors that stay."""
    kept = []
    for _, tensor in model.tensors:
        if match := BLOCK.fullmatch(tensor.name):
            layer, rest = int(match[1]), match[2]
            if rest not in ATTENTION | MLP:
                raise PruneError(f"{model.path}: {tensor.name} has no place in llama.cpp's deci; use whole layers")
            if layer in (attn if rest in ATTENTION else mlp):
                continue
        kept.append(tensor.name)
    return kept
