"""`prune.cut`: remove layers from a checkpoint on disk, or from a loaded model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from prune.errors import UsageError
from prune.model.settings import OriginSettings
from prune.serving.installed import warn_of_other_versions
from prune.serving.names import NAMES
from prune.serving.settings import RuntimeSettings
from prune.settings import fields_of, takes, validated
from prune.surgery.settings import CutSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prune.api._given import Model
    from prune.checkpoint.source import Source
    from prune.planning.plan import Plan
    from prune.surgery.cut import CutResult


class CutArguments(OriginSettings, RuntimeSettings, CutSettings):
    """Everything that `prune cut` can be told beside the model, the plan and the output."""


@overload
def cut(
    model: str | Path,
    output: str | Path,
    *,
    plan: str | Path | Plan | None = None,
    dry_run: bool = False,
    **settings: Any,
) -> CutResult: ...


@overload
def cut(
    model: Model,
    output: None = None,
    *,
    plan: str | Path | Plan | None = None,
    copy: bool = False,
    dtype: str = "float32",
    **settings: Any,
) -> PreTrainedModel: ...


@takes(CutArguments)
def cut(
    model: Model,
    output: str | Path | None = None,
    *,
    plan: str | Path | Plan | None = None,
    copy: bool = False,
    dtype: str = "float32",
    dry_run: bool = False,
    **settings: Any,
) -> CutResult | PreTrainedModel:
    """Remove layers, exactly: from a checkpoint on disk (see `prune.surgery.cut.cut`), or from a model in memory.

        small = prune.cut(model, plan=plan, copy=True)

    Args:
        model: directory or hub id; a .gguf file, which is cut into another (see `prune.gguf.cut.cut_file`); or a loaded
            model, which is changed and returned unless `copy` is set. Without some attentions or MLPs a directory
            becomes a .gguf file where `output` is one (see `prune.gguf.converted`).
        output: directory to create, or .gguf file. If None, the result is a model in memory and nothing is written: a
            directory or a hub id is loaded for it, in `dtype`.
        plan: a Plan, or the path of a plan.json; its compensation, which lies beside that file, is applied too.
        copy: leave a loaded model as it is and return a copy without the layers; needs memory for that copy.
        dtype: of a model that is loaded here: `auto`, `float32`, `bfloat16` or `float16`.
        dry_run: check and plan everything, write nothing.

    Returns:
        What the cut on disk did; or the model of L' layers, bit for bit the checkpoint that a cut on disk writes.

    Raises:
        UsageError: no or contradictory layers, a plan of another depth, or an output for a loaded model.
        PruneError: the family cannot be cut like this (field named), or the proof fails.
    """
    asked = validated(CutArguments, settings)
    drop_layers, attn, mlp = asked.drop_layers, sorted(asked.drop_attn), sorted(asked.drop_mlp)
    plan = Path(plan) if isinstance(plan, str) else plan
    from prune.gguf.cut import cut_file, is_gguf

    if isinstance(model, str | Path) and output is not None and is_gguf(model):
        if parts := parts_of(plan, asked):
            return _file_without(model, output, parts, asked, dry_run=dry_run)
        _refuse_for_gguf(**asked.model_dump(include={"revision", "drop_attn", "drop_mlp", "link", "adapters"}))
        _refuse_for_gguf(runtime=[name for name in asked.runtime if name != "llama.cpp"])
        warn_of_other_versions(asked.runtime or ["llama.cpp"])
        layers = {"drop_layers": drop_layers, "keep_layers": asked.keep_layers}
        return cut_file(model, output, **layers, plan=plan, verify=asked.verify, dry_run=dry_run)  # type: ignore[arg-type]
    from prune.api._given import given

    subject = given(model, dtype=dtype, **fields_of(OriginSettings, asked))
    if output is None or subject.source is None:
        if output is not None:
            raise UsageError("output: a loaded model is cut in memory; write the result with save_pretrained")
        if asked.adapters:
            raise UsageError("adapters: are cut along on disk only; merge them into the model first, or give output")
        if dry_run:
            raise UsageError("dry_run: a cut in memory writes nothing; leave it out, or give output")
        chosen = {"drop_layers": drop_layers, "keep_layers": asked.keep_layers, "plan": plan, "attn": attn, "mlp": mlp}
        return _in_memory(subject.model(), copy=copy and subject.source is None, **chosen)  # type: ignore[arg-type]
    from prune.serving.check import ConfigReader
    from prune.surgery import cut as surgery

    source = subject.source
    if is_gguf(output):
        return _file_of(source, output, plan, asked, dry_run=dry_run)
    warn_of_other_versions(asked.runtime or NAMES)
    if parts := parts_of(plan, asked):
        from prune.model.deci import KIND
        from prune.serving.readers import readings
        from prune.surgery.deci import cut_parts

        _check_reader(parts, asked.runtime)
        options: dict[str, Any] = {"max_shard_size": asked.max_shard_size, "verify": asked.verify, "dry_run": dry_run}
        parted = cut_parts(source, output, parts.attention, parts.mlp, **options, plan=parts.plan)
        parted.runtimes = [reading.as_dict() for reading in readings({**source.checkpoint.config, "model_type": KIND})]
        return parted
    if attn or mlp:
        if plan is not None or asked.keep_layers is not None:
            raise UsageError("--drop_attn and --drop_mlp go with --drop_layers only")
        from prune.surgery.sublayers import as_layers

        whole = as_layers(source.checkpoint.config, attn, mlp)
        drop_layers = sorted({*whole, *(drop_layers or ())})
    reader = ConfigReader(asked.runtime)
    result = surgery.cut(
        source,
        output,
        drop_layers=drop_layers,
        keep_layers=asked.keep_layers,
        plan=plan,
        max_shard_size=asked.max_shard_size,
        link=asked.link,
        adapters=asked.adapters,
        verify=asked.verify,
        dry_run=dry_run,
        finish=reader,
    )
    result.runtimes = [reading.as_dict() for reading in reader.found]
    return result


def _parted(plan: Path | Plan | None) -> Plan | None:
    """The plan, if it removes sub-layers."""
    from prune.planning.plan import Plan

    found = Plan.load(plan) if isinstance(plan, Path) else plan
    return found if found is not None and found.unit != "layer" else None


@dataclass(frozen=True)
class Parts:
    """Sub-layers that go.

    Attributes:
        attention, mlp: layers that lose theirs, sorted.
        plan: what named them, None for flags.
    """

    attention: list[int]
    mlp: list[int]
    plan: Plan | None = None


def parts_of(plan: Path | Plan | None, asked: CutArguments) -> Parts | None:
    """The sub-layers that go on disk, where they are no whole layers.

    Flags without --runtime mean the original's own architecture, see `prune.surgery.sublayers.as_layers`.

    Raises:
        UsageError: other layers are named beside them, or a list leaves a layer with nothing.
    """
    parted = _parted(plan)
    flags = bool(asked.drop_attn or asked.drop_mlp)
    others = {"--drop_layers": asked.drop_layers, "--keep_layers": asked.keep_layers}
    named = [name for name, value in others.items() if value is not None]
    if parted is not None:
        if flags or named:
            raise UsageError("--plan: removes sub-layers, so no other layers can be named beside it")
        return Parts(parted.drop_attention, parted.drop_mlp, parted)
    if not flags or not {"llama.cpp", "mlx"} & set(asked.runtime):
        return None
    if plan is not None or named:
        raise UsageError(f"{named[0] if named else '--plan'}: with --drop_attn and --drop_mlp no other layers can go")
    if both := sorted(set(asked.drop_attn) & set(asked.drop_mlp)):
        raise UsageError(
            f"--drop_attn and --drop_mlp both name layer {both[0]}: nothing of it would be left, which is the removal"
            f" of the layer: cut it first with --drop_layers {both[0]}"
        )
    return Parts(sorted(asked.drop_attn), sorted(asked.drop_mlp))


def _check_reader(parts: Parts, runtimes: list[str]) -> None:
    """That the runtimes asked for read a DeciLM directory.

    Raises:
        UsageError: none is named, or llama.cpp, which reads a file.
        PruneError: one that reads no model without some sub-layers.
    """
    from prune.surgery.deci import READERS, check_runtimes

    if not runtimes:
        raise UsageError(
            f"--plan: removes sub-layers (unit {parts.plan.unit if parts.plan else ''}), which the model's own"
            f" architecture cannot leave out; name who reads it: {READERS}; or use prune.cut(loaded_model, plan=...) in"
            " memory"
        )
    check_runtimes(runtimes)
    if "llama.cpp" in runtimes:
        raise UsageError("--runtime llama.cpp: reads a GGUF file: give -o a name that ends in .gguf")


def _file_without(
    model: str | Path, output: str | Path, parts: Parts, asked: CutArguments, *, dry_run: bool
) -> CutResult:
    """A GGUF file without some sub-layers."""
    from prune.gguf.deci import cut_parts_of_file
    from prune.surgery.deci import check_runtimes

    _refuse_for_gguf(**asked.model_dump(include={"revision", "link", "adapters"}))
    check_runtimes(asked.runtime)
    if "mlx" in asked.runtime:
        raise UsageError("--runtime mlx: reads a directory; `prune import` makes a checkpoint of the file, cut that")
    return cut_parts_of_file(
        model, output, parts.attention, parts.mlp, plan=parts.plan, verify=asked.verify, dry_run=dry_run
    )


def _file_of(
    source: Source, output: str | Path, plan: Path | Plan | None, asked: CutArguments, *, dry_run: bool
) -> CutResult:
    """A GGUF file of a directory without some sub-layers.

    Raises:
        UsageError: whole layers, which a directory loses as a directory, or an option of directories.
    """
    from prune.checkpoint.depth_fields import model_kind
    from prune.gguf.converted import cut_parts_to_file
    from prune.model.deci import KIND
    from prune.surgery.deci import check_runtimes

    given = asked.model_dump(include={"link", "adapters"})
    if named := [name for name, value in given.items() if value]:
        raise UsageError(f"--{named[0]}: not for a GGUF file; give -o a directory")
    check_runtimes(asked.runtime)
    warn_of_other_versions(["llama.cpp"])
    if "mlx" in asked.runtime:
        raise UsageError("--runtime mlx: reads a directory; give -o a name that does not end in .gguf")
    parts = parts_of(plan, asked.model_copy(update={"runtime": ["llama.cpp"]}))
    if parts is None and (plan is not None or asked.drop_layers or asked.keep_layers):
        raise UsageError(
            f"{output}: a directory loses whole layers as a directory; give -o one, and convert that with llama.cpp's"
            " convert_hf_to_gguf.py, or give the original's .gguf"
        )
    if parts is None and model_kind(source.checkpoint.config) != KIND:
        raise UsageError(f"{source.id}: nothing goes: give --drop_attn, --drop_mlp or a plan of sub-layers")
    parts = parts or Parts([], [])
    return cut_parts_to_file(
        source, output, parts.attention, parts.mlp, plan=parts.plan, verify=asked.verify, dry_run=dry_run
    )


def _refuse_for_gguf(**flags: object) -> None:
    """Refuse flags that a GGUF file has no use for.

    Raises:
        UsageError: one was given.
    """
    for name, value in flags.items():
        if value:
            raise UsageError(f"--{name}: not for a GGUF file; `prune import` makes a checkpoint of it, which takes it")


def _in_memory(
    model: PreTrainedModel,
    *,
    copy: bool,
    drop_layers: list[int] | None,
    keep_layers: list[int] | None,
    plan: Path | Plan | None,
    attn: list[int],
    mlp: list[int],
) -> PreTrainedModel:
    """Sub-layers first (their numbers are the original's), then whole layers, then a plan's compensation."""
    from copy import deepcopy

    import torch

    from prune.model.layer_list import find_layer_list
    from prune.surgery.cut import choose_layers
    from prune.surgery.loaded import drop_layers as remove
    from prune.surgery.replacements import replacements_in
    from prune.surgery.sublayers import drop_sublayers

    if parted := _parted(plan):
        if drop_layers is not None or keep_layers is not None or attn or mlp:
            raise UsageError("--plan: removes sub-layers, so no other layers can be named beside it")
        depth = len(find_layer_list(model)[1])
        if parted.num_layers != depth:
            raise UsageError(f"--plan: made for {parted.num_layers} layers, the model has {depth}")
        plan, attn, mlp = None, parted.drop_attention, parted.drop_mlp
    whole = not (drop_layers is None and keep_layers is None and plan is None)
    drop: list[int] = []
    if whole or not (attn or mlp):
        depth = len(find_layer_list(model)[1])
        _, drop = choose_layers(depth, drop_layers=drop_layers, keep_layers=keep_layers, plan=plan)
    if copy:
        model = deepcopy(model)  # after the request was checked
    replaced = replacements_in(plan, model)
    if attn or mlp:
        if replaced:
            raise UsageError(
                "--plan: its compensation was judged without --drop_attn and --drop_mlp; give one or other"
            )
        drop_sublayers(model, attn=attn, mlp=mlp)
    result = remove(model, drop) if drop else model
    with torch.no_grad():
        for parameter, value in replaced:
            parameter.copy_(value)
    return result
