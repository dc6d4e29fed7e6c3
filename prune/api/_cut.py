"""`prune.cut`: remove layers from a checkpoint on disk, or from a loaded model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from prune.errors import UsageError
from prune.model.settings import OriginSettings
from prune.serving.settings import RuntimeSettings
from prune.settings import fields_of, takes, validated
from prune.surgery.settings import CutSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prune.api._given import Model
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
            model, which is changed and returned unless `copy` is set.
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
    if isinstance(model, str | Path) and output is not None:
        from prune.gguf.cut import cut_file, is_gguf

        if is_gguf(model):
            _refuse_for_gguf(**asked.model_dump(include={"revision", "drop_attn", "drop_mlp", "link", "adapters"}))
            _refuse_for_gguf(runtime=[name for name in asked.runtime if name != "llama.cpp"])
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
