"""`prune cut`: a shallower checkpoint from a checkpoint directory, exact to the bit, without building the model.

Everything is checked and planned before the first byte is written; the result is built in a hidden sibling
directory, proved in a child process, and only then gets its name. Assumptions: layers are removed, never reordered;
tensor bytes are copied unchanged, but for those that a plan's compensation replaces (`replacements`), and tensors that
hold a share of every layer lose the removed layers' (`packed`); families without a known rule are decided by the proof
and cannot be cut without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prune.checkpoint.depth_fields import depth_of, model_kind, mtp_layers, text_part
from prune.checkpoint.directory import CONFIG, CUT_RECORD, Checkpoint
from prune.checkpoint.layer_lists import complement, parse_layers
from prune.checkpoint.source import Source, resolve
from prune.errors import PruneError, UsageError
from prune.files import refuse_non_empty, staged_directory, write_exact_json
from prune.planning.plan import Plan
from prune.surgery.adapters import Adapter, BaseCut, adapter_directories, plan_adapters, write_adapter
from prune.surgery.companions import plan_companions, write_companions
from prune.surgery.config_fields import check_causal, edit_config
from prune.surgery.families import KNOWN
from prune.surgery.module_names import ModuleNames
from prune.surgery.names import find_prefix, move_shared, rename_tensors
from prune.surgery.packed import plan_slices
from prune.surgery.record import CutResult, write_record
from prune.surgery.replacements import replace_tensors, replacements_of
from prune.surgery.writer import Shard, parse_size, plan_shards, write_shards


def cut(
    model: str | Path | Source,
    output: str | Path,
    *,
    drop_layers: str | Sequence[int] | None = None,
    keep_layers: str | Sequence[int] | None = None,
    plan: Path | Plan | None = None,
    max_shard_size: str = "5GB",
    link: bool = False,
    adapters: Sequence[str | Path] = (),
    verify: bool = True,
    dry_run: bool = False,
    finish: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> CutResult:
    """Write the checkpoint that remains when layers are removed.

    Args:
        model: the source, or its directory or hub id; never modified.
        output: directory to create.
        drop_layers: layers to remove, as indices or text such as `20,21,24-27` (both ends included).
        keep_layers: layers to keep, likewise. Exactly one of drop_layers, keep_layers and plan is given.
        plan: a Plan, or the path of a plan.json; its compensation, if any, lies beside the file.
        max_shard_size: payload of an output shard at most, e.g. `5GB`.
        link: share source shards (reflink, else hard link) in which nothing changes.
        adapters: directories of LoRA adapters to cut the same way, into `adapters/NAME` of the output.
        verify: prove the result before it gets its name.
        dry_run: check and plan everything, write nothing.
        finish: the last word on the new config.json: adds keys, or refuses it; see `prune.serving.check`.

    Raises:
        UsageError: bad layers, target inside the source, target not empty.
        PruneError: an unsafe or inconsistent source, a field that cannot be expressed, or a failed proof.
    """
    target, limit = Path(output), parse_size(max_shard_size)
    source = resolve(model)
    check_target(source.directory, target)
    checkpoint = source.checkpoint
    check_causal(checkpoint.config)
    depth = depth_of(checkpoint.config)
    if plan is not None:
        check_revision(Plan.load(plan) if isinstance(plan, Path) else plan, source)
    keep, drop = choose_layers(depth, drop_layers=drop_layers, keep_layers=keep_layers, plan=plan)
    kind = model_kind(checkpoint.config)
    if kind not in KNOWN and not verify:
        raise PruneError(
            f"{source.id}: model_type {kind!r} has no known rule, only the proof can tell: drop --no_verify"
        )
    prefix = find_prefix(checkpoint.tensors, depth)
    new_index = {old: new for new, old in enumerate(keep)}
    renamed = rename_tensors(checkpoint.tensors, prefix, depth, new_index, mtp_layers(text_part(checkpoint.config)))
    move_shared(renamed, checkpoint.tensors, prefix, new_index, kind)
    modules = ModuleNames.of_tensors(checkpoint.tensors, renamed, prefix, new_index)
    config = edit_config(checkpoint.config, keep, modules=modules)
    config = finish(config) if finish else config
    replaced = replacements_of(plan, checkpoint, renamed)
    carried = plan_adapters(adapters, BaseCut(prefix, depth, new_index, renamed, str(target)))
    if carried and replaced:
        raise UsageError("--adapter: the plan's compensation changes weights under the adapter; use a plan without it")
    companions = plan_companions(checkpoint, depth, modules)
    # A linked shard is the source's own file: nothing may be written into it.
    slices = plan_slices(checkpoint, depth, keep)
    shards = plan_shards(checkpoint, renamed, limit, link=link and not replaced, slices=slices)
    result = CutResult(source.id, str(target), depth, keep, drop, sum(shard.bytes for shard in shards), [], False)
    if dry_run:
        return result
    try:
        with staged_directory(target) as staging:
            result.files = write_checkpoint(checkpoint, shards, config, staging, carried, companions)
            replace_tensors(staging, replaced, replaced.__getitem__)
            result.replaced = sorted(replaced)
            if verify:
                from prune.surgery.proof import prove_in_child

                prove_in_child(source, staging, keep)
                result.verified = True
            source.require_unchanged()
            write_record(result, source, staging)
            result.files = sorted([*result.files, CUT_RECORD])
    except OSError as error:
        raise PruneError(f"{target}: cannot be written: {error.strerror or error}") from error
    return result


def copy_checkpoint(
    model: str | Path | Source, directory: Path, max_shard_size: str = "5GB", *, name: str
) -> list[str]:
    """Copy a whole checkpoint, resharded, into an existing directory that the caller stages; returns the file names.

    Adapters below `adapters/`, which an earlier cut carried along, come too; `name` is what they call their base.

    Raises:
        UsageError: no such checkpoint, or a bad size.
        PruneError: an unsafe or inconsistent source, an adapter that does not fit it, or a failed write.
    """
    checkpoint = resolve(model).checkpoint
    same = {tensor: tensor for tensor in checkpoint.tensors}
    shards = plan_shards(checkpoint, same, parse_size(max_shard_size), link=False)
    carried: list[Adapter] = []
    if found := adapter_directories(checkpoint.directory):
        depth = depth_of(checkpoint.config)
        base = BaseCut(find_prefix(checkpoint.tensors, depth), depth, {i: i for i in range(depth)}, same, name)
        carried = plan_adapters(found, base)
    return write_checkpoint(checkpoint, shards, checkpoint.config, directory, carried)


def choose_layers(
    depth: int,
    *,
    drop_layers: str | Sequence[int] | None = None,
    keep_layers: str | Sequence[int] | None = None,
    plan: Path | Plan | None = None,
) -> tuple[list[int], list[int]]:
    """Sorted (keep, drop) from the one source that is given.

    Raises:
        UsageError: none or several given, or indices that do not fit the depth.
    """
    given = [name for name, value in (("--drop_layers", drop_layers), ("--keep_layers", keep_layers), ("--plan", plan))
             if value is not None]  # fmt: skip
    if len(given) != 1:
        named = " and ".join(given) or "none"
        raise UsageError(f"give exactly one of --drop_layers, --keep_layers and --plan, not {named}")
    if plan is not None:
        chosen = plan if isinstance(plan, Plan) else Plan.load(Path(plan))
        if chosen.num_layers != depth:
            raise UsageError(f"--plan: made for {chosen.num_layers} layers, the model has {depth}")
        if chosen.unit != "layer":
            raise UsageError(
                f"--plan: removes sub-layers (unit {chosen.unit}), which the model's own architecture cannot leave"
                " out; use prune.cut(loaded_model, plan=...) in memory"
            )
        return list(chosen.keep), complement(chosen.keep, depth, "--plan")
    value = drop_layers if drop_layers is not None else keep_layers
    indices = parse_layers(value) if isinstance(value, str) else sorted(value or [])
    rest = complement(indices, depth, given[0])
    return (rest, indices) if drop_layers is not None else (indices, rest)


def check_revision(plan: Plan, source: Source) -> None:
    """Refuse a plan that was made for another commit of a hub id.

    Raises:
        UsageError: it was.
    """
    if plan.revision and source.revision and plan.revision != source.revision:
        raise UsageError(
            f"--plan: made for {plan.source} at {plan.revision}, the model is {source.id} at {source.revision}: give"
            f" --revision {plan.revision}, or make the plan again"
        )


def check_target(source: Path, target: Path) -> None:
    """Refuse a target in use, or one that lies in the source (or holds it)."""
    inner, outer = target.resolve(), source.resolve()
    if inner == outer or inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise UsageError(f"{target}: lies inside the source {source} or around it; give -o another directory")
    refuse_non_empty(target)


def write_checkpoint(
    checkpoint: Checkpoint,
    shards: list[Shard],
    config: dict[str, Any],
    staging: Path,
    adapters: Sequence[Adapter] = (),
    companions: Mapping[str, Path | dict[str, Any]] | None = None,
) -> list[str]:
    """Shards, index, adapters, companions (the checkpoint's own if None), config last; returns the names."""
    files = write_shards(shards, checkpoint, staging)
    for adapter in adapters:
        files += write_adapter(adapter, staging)
    files += write_companions(checkpoint.companions if companions is None else companions, staging)
    # Some families state Infinity in their config (Mamba 2: time_step_limit), which strict JSON does not know.
    write_exact_json(staging / CONFIG, config)
    return sorted([*files, CONFIG])
