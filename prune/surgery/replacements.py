"""Weights that a plan's compensation replaces: stored beside the plan, checked, and written over the copied bytes.

`plan.json` names a safetensors file by a path relative to itself and by its SHA-256; tensors in it carry their names
in the source checkpoint, and must have the source's shape and type. So a cut needs neither model nor data, and what it
writes is what was judged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from prune.checkpoint.directory import Checkpoint
from prune.checkpoint.headers import read_header
from prune.checkpoint.source import Source, resolve
from prune.errors import PruneError, UsageError
from prune.files import follow_umask, sha256_file

if TYPE_CHECKING:
    import torch
    from torch import nn

    from prune.data.domains import Domain
    from prune.planning.plan import Plan
    from prune.surgery.compensation import Method

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def stored_dtype(checkpoint: Checkpoint, name: str) -> str:
    """Torch name of the type in which a tensor of the source is stored.

    Raises:
        PruneError: the source holds no tensor of that name, or a quantised one.
    """
    if name not in checkpoint.tensors:
        raise PruneError(f"{checkpoint.directory}: holds no tensor {name!r} (stored under another name or packed)")
    kind = checkpoint.tensors[name].entry.dtype
    if kind not in DTYPES:
        raise PruneError(f"{checkpoint.directory}: {name!r} is stored as {kind}; only plain weights can be replaced")
    return DTYPES[kind]


def save_replacements(tensors: Mapping[str, torch.Tensor], checkpoint: Checkpoint, path: Path) -> dict[str, str]:
    """Write replaced weights in the source's types.

    Returns:
        `file` (relative to the plan) and `sha256`, for the plan.

    Raises:
        PruneError: a tensor that the source does not hold in that shape.
    """
    import torch
    from safetensors.torch import save_file

    cast = {}
    for name, tensor in tensors.items():
        dtype = stored_dtype(checkpoint, name)
        shape = checkpoint.tensors[name].entry.shape
        if tuple(tensor.shape) != shape:
            raise PruneError(f"{checkpoint.directory}: {name!r} is stored as {shape}, the model has it otherwise")
        cast[name] = tensor.detach().to("cpu", getattr(torch, dtype)).contiguous()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    save_file(cast, partial)
    follow_umask(partial)
    partial.replace(path)
    return {"file": path.name, "sha256": sha256_file(path)}


def replacements_of(plan: Path | Plan | None, checkpoint: Checkpoint, renamed: Mapping[str, str]) -> dict[str, bytes]:
    """New bytes of the tensors that a plan replaces, by their names after the cut.

    Raises:
        UsageError: a Plan with compensation that was not read from a file, so that its weights cannot be found.
        PruneError: the weights are missing, altered, or do not fit the source.
    """
    path = weights_file(plan)
    if path is None:
        return {}
    found = {}
    with path.open("rb") as handle:
        for entry in read_header(path).entries:
            own = checkpoint.tensors.get(entry.name)
            if own is None or (own.entry.dtype, own.entry.shape) != (entry.dtype, entry.shape):
                raise PruneError(f"{path}: {entry.name!r} does not fit {checkpoint.directory}; compensate again")
            if entry.name not in renamed:
                raise PruneError(f"{path}: {entry.name!r} belongs to a layer that goes; compensate again")
            handle.seek(entry.begin)
            found[renamed[entry.name]] = handle.read(entry.bytes)
    return found


def replacements_in(plan: Path | Plan | None, model: nn.Module) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """The parameters of a loaded, uncut model that a plan replaces, each with its new value.

    Raises:
        UsageError, PruneError: as `replacements_of`, or the model has no such plain parameter.
    """
    path = weights_file(plan)
    if path is None:
        return []
    from safetensors.torch import load_file

    own = dict(model.named_parameters(remove_duplicate=False))
    found = []
    for name, value in load_file(path).items():
        if name not in own or own[name].shape != value.shape or not own[name].is_floating_point():
            raise PruneError(f"{path}: {name!r} does not fit the loaded model (wrapped, quantised or another one)")
        found.append((own[name], value))
    return found


def weights_file(plan: Path | Plan | None) -> Path | None:
    """The checked file of new weights beside a plan; None where the plan replaces nothing.

    Raises:
        UsageError: a Plan with compensation that was not read from a file, so that its weights cannot be found.
        PruneError: the file is missing or altered.
    """
    from prune.planning.plan import Plan

    if plan is None:
        return None
    record = (plan if isinstance(plan, Plan) else Plan.load(Path(plan))).compensation
    if not record or not record.get("kept"):
        return None
    if isinstance(plan, Plan):
        raise UsageError("plan: give the path of the plan file; its compensation lies beside it")
    return _beside(Path(plan), record)


def replace_tensors(directory: Path, names: Collection[str], content: Callable[[str], bytes]) -> None:
    """Write new bytes over tensors of a staged checkpoint that shares no file with another.

    Args:
        names: of the tensors.
        content: the bytes of one, as many as the old ones; asked for one tensor at a time.
    """
    missing = set(names)
    for path in sorted(directory.glob("*.safetensors")) if names else []:
        with path.open("r+b") as handle:
            for entry in read_header(path).entries:
                if entry.name in missing:
                    handle.seek(entry.begin)
                    handle.write(content(entry.name))
                    missing.discard(entry.name)
    if missing:
        raise PruneError(f"{directory.name}: holds no tensor {sorted(missing)[0]!r} to replace")


def _beside(plan: Path, record: Mapping[str, Any]) -> Path:
    """The file that a plan's compensation names, unaltered."""
    name = str(record.get("file", ""))
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name:
        raise PruneError(f"{plan}: compensation names the file {name!r}; it must lie beside or below the plan")
    path = plan.parent / name
    if not path.is_file():
        raise PruneError(f"{plan}: its compensation {name} is missing; put the file back or compensate again")
    if sha256_file(path) != record.get("sha256"):
        raise PruneError(f"{path}: altered since {plan.name} was written; compensate again")
    return path


def compensated_plan(
    plan: Plan,
    source: str | Path | Source,
    model: nn.Module,
    domains: Mapping[str, Domain],
    target: Path,
    *,
    method: Method = "linear",
    weights: Mapping[str, float] | None = None,
    pad_token_id: int = 0,
) -> Plan:
    """Compensate a plan's gaps and write it to `target`, its new weights beside it.

    Args:
        plan: which layers stay.
        source: the checkpoint whose types the new weights take.
        model: loaded from it.
        domains, method, weights, pad_token_id: see `prune.surgery.compensation.compensate`.
        target: of the new plan.

    Raises:
        UsageError: too few documents, or bad weights.
        PruneError: a replaced weight is not stored as one plain tensor.
    """
    import torch

    from prune.surgery.compensation import compensate

    checkpoint = resolve(source).checkpoint
    done = compensate(
        model, plan.keep, domains, method=method, weights=weights, pad_token_id=pad_token_id,
        stored=lambda name: getattr(torch, stored_dtype(checkpoint, name)),
    )  # fmt: skip
    record = done.describe()
    if done.tensors:
        record |= save_replacements(done.tensors, checkpoint, target.with_suffix(".safetensors"))
    record["data"] = {name: domain.describe() for name, domain in domains.items()}
    result = plan.model_copy(update={"compensation": record})
    result.save(target)
    return result
