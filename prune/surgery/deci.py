"""Attention or MLP left out on disk: the one stock layout that can say so, and what its readers cannot do.

NVIDIA's DeciLM (`nemotron-nas`) is Llama whose `block_configs` state for every layer whether it has attention and an
MLP, and how wide. mlx-lm reads such a directory without custom code, vLLM, SGLang and TensorRT-LLM with the original's
configuration class; llama.cpp reads the architecture `deci` of GGUF (`prune.gguf.deci`). Tensor bytes are copied
unchanged, layers keep their numbers. Whatever a reader would get wrong is refused by name before anything is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prune.checkpoint.depth_fields import depth_of, model_kind
from prune.checkpoint.dialects import in_both_dialects
from prune.checkpoint.directory import read_checkpoint
from prune.checkpoint.source import Source, resolve
from prune.errors import PruneError, UsageError
from prune.files import staged_directory
from prune.model.deci import KIND, MULTIPLE, ffn_width
from prune.planning.plan import Plan
from prune.surgery.cut import check_revision, check_target, write_checkpoint
from prune.surgery.families import LLAMA_SHAPED
from prune.surgery.names import find_prefix
from prune.surgery.record import CutResult, write_record
from prune.surgery.writer import parse_size, plan_shards

ARCHITECTURE = "DeciLMForCausalLM"
CHUNK = 8 << 20
ATTENTION = ("self_attn.", "input_layernorm.")
MLP = ("mlp.", "post_attention_layernorm.")
READERS = "llama.cpp (--runtime llama.cpp, -o a .gguf file) and mlx-lm (--runtime mlx, -o a directory)"


@dataclass
class PartsCut(CutResult):
    """A cut that left out sub-layers; `keep` holds every layer.

    Attributes:
        drop_attention, drop_mlp: layers whose attention or MLP is not there, sorted.
        notes: what a user should know of the result.
    """

    drop_attention: list[int] = field(default_factory=list)
    drop_mlp: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_parts(attn: Sequence[int], mlp: Sequence[int], depth: int, plan: Plan | None = None) -> None:
    """Refuse lists that are no cut of sub-layers.

    Raises:
        UsageError: nothing goes, a layer that does not exist or stands twice, no attention is left, or the lists are
            those of a plan for another depth.
    """
    for flag, layers in (("--drop_attn", attn), ("--drop_mlp", mlp)):
        if wrong := [layer for layer in layers if not 0 <= layer < depth]:
            raise UsageError(f"{flag}: layer {wrong[0]} does not exist; the model has layers 0-{depth - 1}")
        if len(set(layers)) < len(layers):
            raise UsageError(f"{flag}: a layer is listed twice")
    if not attn and not mlp:
        raise UsageError("no sub-layer goes: give --drop_attn, --drop_mlp or a plan of unit attention, mlp or sublayer")
    if len(attn) == depth:
        raise UsageError(f"--drop_attn: all {depth} layers would lose attention, which no runtime reads; leave one")
    if plan is not None and plan.num_layers != depth:
        raise UsageError(f"--plan: made for {plan.num_layers} layers, the model has {depth}")


def check_llama_cpp(attn: Sequence[int], mlp: Sequence[int], depth: int) -> None:
    """Refuse what llama.cpp's `deci` reads wrongly or not at all.

    Raises:
        PruneError: names the layer and what works instead.
    """
    if 0 in attn:
        raise PruneError(
            "--runtime llama.cpp: its deci needs attention in layer 0, which would go; plan with --protect 0"
        )
    if depth - 1 in mlp:
        raise PruneError(
            f"--runtime llama.cpp: its deci needs an MLP in the last layer, {depth - 1}; plan with --protect"
            f" {depth - 1}"
        )
    if alone := sorted(set(mlp) - set(attn)):
        raise PruneError(
            f"--runtime llama.cpp: its deci drops the attention of a layer whose MLP alone is gone, layer {alone[0]};"
            " plan with --unit attention, or use --runtime mlx, which reads such layers"
        )


def check_config(config: dict[str, Any], runtime: str) -> None:
    """Refuse a family or a shape that DeciLM cannot carry.

    Args:
        config: parsed config.json of the source.
        runtime: the reader's name, for the message.

    Raises:
        PruneError: names the field, and what works.
    """
    kind = model_kind(config)
    whole = "use whole layers (prune plan --unit layer), or prune.cut(loaded_model, plan=...) in memory"
    if kind not in LLAMA_SHAPED:
        why = "has norms on queries and keys" if kind.startswith(("qwen3", "gemma3")) else "is not shaped like Llama"
        raise PruneError(f"--runtime {runtime}: {kind} {why}, which deci (DeciLM) cannot carry; {whole}")
    heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
    problems = {
        "head_dim": (config.get("head_dim") or hidden // heads) * heads != hidden,
        "attention_bias": bool(config.get("attention_bias")),
        "mlp_bias": bool(config.get("mlp_bias")),
        "sliding_window": config.get("sliding_window") is not None,
        "quantization_config": config.get("quantization_config") is not None,
        "hidden_act": config.get("hidden_act", "silu") != "silu",
    }
    if wrong := [name for name, found in problems.items() if found]:
        raise PruneError(
            f"--runtime {runtime}: {wrong[0]} {config.get(wrong[0])!r} cannot be stated in deci (DeciLM); {whole}"
        )


def check_runtimes(runtimes: Sequence[str]) -> None:
    """Refuse runtimes that read no model without some sub-layers.

    Raises:
        PruneError: names those that do.
    """
    for name in runtimes:
        if name not in ("llama.cpp", "mlx"):
            cure = ", but for vLLM with the original's configuration class, which is custom code" * (name == "vllm")
            raise PruneError(f"--runtime {name}: reads no model that lacks sub-layers{cure}; those that do: {READERS}")


def check_unit(config: dict[str, Any], unit: str, runtimes: Sequence[str]) -> list[int]:
    """Refuse, before any search, units that no plan for these runtimes can remove.

    Args:
        config: parsed config.json of the source.
        unit: attention, mlp or sublayer.
        runtimes: who must read the result.

    Returns:
        Layers that must keep what they have.

    Raises:
        PruneError: names the runtime, and the unit or family that works.
    """
    check_runtimes(runtimes)
    for runtime in runtimes:
        check_config(config, runtime)
    if "mlx" in runtimes:
        ffn_mult(int(config["intermediate_size"]), int(config["hidden_size"]))
    if "llama.cpp" not in runtimes:
        return []
    if unit != "attention":
        raise PruneError(
            f"--unit {unit} with --runtime llama.cpp: its deci drops the attention of a layer whose MLP alone is gone;"
            " use --unit attention, or --runtime mlx"
        )
    return [0]


def check_readers(plan: Plan, runtimes: Sequence[str]) -> None:
    """Refuse a plan of sub-layers that one of the runtimes would read wrongly.

    Raises:
        UsageError: see `check_parts`.
        PruneError: see `check_llama_cpp`.
    """
    check_parts(plan.drop_attention, plan.drop_mlp, plan.num_layers)
    if "llama.cpp" in runtimes:
        check_llama_cpp(plan.drop_attention, plan.drop_mlp, plan.num_layers)


def ffn_mult(width: int, hidden: int) -> float:
    """The multiplier that readers turn back into exactly this width: int(2 · m · hidden / 3), rounded up to 256.

    Raises:
        PruneError: no multiplier gives this width.
    """
    multiplier = round(3 * width / (2 * hidden), 6)
    read = ffn_width(multiplier, hidden)
    if read != width:
        raise PruneError(
            f"intermediate_size {width} cannot be stated in deci (DeciLM): readers round ffn_mult up to a multiple of"
            f" {MULTIPLE}, {read} here; use --runtime llama.cpp, whose GGUF states widths as they are, or whole layers"
        )
    return multiplier


def deci_config(config: dict[str, Any], attn: Sequence[int], mlp: Sequence[int]) -> dict[str, Any]:
    """config.json of the model without these sub-layers.

    Raises:
        PruneError: see `check_config` and `ffn_mult`.
    """
    check_config(config, "mlx")
    both, _ = in_both_dialects(config)
    heads, hidden = int(both["num_attention_heads"]), int(both["hidden_size"])
    group = heads // int(both.get("num_key_value_heads") or heads)
    multiplier = ffn_mult(int(both["intermediate_size"]), hidden)
    # Readers' own default is another base than Llama's.
    both = {"rope_theta": 10_000.0, **both}
    blocks = [_block(None if i in attn else group, None if i in mlp else multiplier) for i in range(depth_of(config))]
    stated = {"architectures": [ARCHITECTURE], "model_type": KIND, "block_configs": blocks}
    return {**both, **stated, "num_key_value_heads": None, "intermediate_size": None}


def _block(group: int | None, multiplier: float | None) -> dict[str, Any]:
    return {
        "attention": {"no_op": group is None, "n_heads_in_group": group, "replace_with_linear": False},
        "ffn": {"no_op": multiplier is None, "ffn_mult": multiplier, "replace_with_linear": False},
    }


def stays(rest: str, layer: int, attn: Sequence[int], mlp: Sequence[int]) -> bool:
    """Whether a tensor of a layer stays; `rest` is its name within the layer.

    Raises:
        PruneError: it belongs neither to attention nor to the MLP.
    """
    if rest.startswith(ATTENTION):
        return layer not in attn
    if rest.startswith(MLP):
        return layer not in mlp
    raise PruneError(f"layer {layer}: {rest} belongs neither to attention nor to the MLP, so deci cannot carry it")


def cut_parts(
    model: str | Path | Source,
    output: str | Path,
    attn: Sequence[int],
    mlp: Sequence[int],
    *,
    max_shard_size: str = "5GB",
    verify: bool = True,
    dry_run: bool = False,
    plan: Plan | None = None,
) -> PartsCut:
    """Write the DeciLM directory that is left without some sub-layers.

    Args:
        model: the source, or its directory or hub id; never modified.
        output: directory to create.
        attn: layers whose attention goes.
        mlp: layers whose MLP goes.
        max_shard_size: payload of an output shard at most.
        verify: read every tensor back and compare it with the source's before the directory gets its name.
        dry_run: check and plan everything, write nothing.
        plan: what named the layers, so that its depth and revision are checked.

    Raises:
        UsageError: bad lists, or a target in use.
        PruneError: a family, field or tensor that DeciLM cannot carry, or a copy that is not faithful.
    """
    source, target, limit = resolve(model), Path(output), parse_size(max_shard_size)
    check_target(source.directory, target)
    if plan is not None:
        check_revision(plan, source)
    checkpoint = source.checkpoint
    depth = depth_of(checkpoint.config)
    check_parts(attn, mlp, depth, plan)
    config = deci_config(checkpoint.config, attn, mlp)
    kept = tensors_left(list(checkpoint.tensors), depth, attn, mlp)
    shards = plan_shards(checkpoint, {name: name for name in kept}, limit, link=False)
    result = PartsCut(
        source.id, str(target), depth, list(range(depth)), [], sum(shard.bytes for shard in shards), [], False,
        drop_attention=sorted(attn), drop_mlp=sorted(mlp),
        notes=[
            said(attn, mlp),
            "read by mlx-lm as it is, by llama.cpp after `prune cut` of it into a .gguf file; vLLM and others need the"
            " original's configuration class",
        ],
    )  # fmt: skip
    if dry_run:
        return result
    try:
        with staged_directory(target) as staging:
            result.files = write_checkpoint(checkpoint, shards, config, staging)
            if verify:
                _compare(source, staging, kept)
                result.verified = True
            source.require_unchanged()
            write_record(result, source, staging)
    except OSError as error:
        raise PruneError(f"{target}: cannot be written: {error.strerror or error}") from error
    return result


def tensors_left(names: Sequence[str], depth: int, attn: Sequence[int], mlp: Sequence[int]) -> list[str]:
    """Names of the tensors that stay, in order."""
    prefix = find_prefix(names, depth)
    kept = []
    for name in names:
        if name.startswith(prefix):
            index, _, rest = name.removeprefix(prefix).partition(".")
            if not stays(rest, int(index), attn, mlp):
                continue
        kept.append(name)
    return kept


def _compare(source: Source, staging: Path, kept: Sequence[str]) -> None:
    """Every tensor that should be there is, with the source's bytes, and no other."""
    written = read_checkpoint(staging)
    if set(written.tensors) != set(kept):
        raise PruneError(f"{staging.name}: holds other tensors than planned; nothing was written")
    for name in kept:
        pair = [checkpoint.tensors[name] for checkpoint in (source.checkpoint, written)]
        alike = pair[0].entry.dtype == pair[1].entry.dtype and pair[0].entry.shape == pair[1].entry.shape
        with pair[0].path.open("rb") as one, pair[1].path.open("rb") as other:
            one.seek(pair[0].entry.begin)
            other.seek(pair[1].entry.begin)
            left = pair[0].entry.bytes if alike else 0
            while alike and left:
                count = min(CHUNK, left)
                alike, left = one.read(count) == other.read(count), left - count
        if not alike:
            raise PruneError(f"{source.id}: {name!r} was not copied faithfully; nothing was written")


def said(attn: Sequence[int], mlp: Sequence[int]) -> str:
    """What goes, in words."""
    lists = (("attention", attn), ("MLP", mlp))
    said = [f"the {name} of layers {', '.join(map(str, sorted(layers)))}" for name, layers in lists if layers]
    both = sorted(set(attn) & set(mlp))
    nothing = f"; nothing is left of layers {', '.join(map(str, both))}, which is their removal" if both else ""
    return f"without {' and '.join(said)}{nothing}"
