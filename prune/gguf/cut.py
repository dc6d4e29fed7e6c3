"""`prune cut MODEL.gguf`: a shallower GGUF file from a GGUF file, quantised tensors bit for bit.

Everything is checked and planned before the first byte is written; the result is built beside its target under a hidden
name, compared with the source byte by byte, and only then gets its name. Split models are read whole and written as
one file. Assumption: `layers` knows the architecture, or refuses it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from prune.errors import PruneError, UsageError
from prune.files import claim, sync_directory
from prune.gguf.header import read_header
from prune.gguf.layers import depth_of, plan_edit
from prune.gguf.parts import Model, read_model
from prune.gguf.writer import Placed, place, write_file
from prune.surgery.byte_copies import read_all, write_failure
from prune.surgery.cut import choose_layers
from prune.surgery.record import CutResult

if TYPE_CHECKING:
    from prune.planning.plan import Plan

SUFFIX = ".gguf"
CHUNK = 8 << 20


@dataclass
class GgufCut(CutResult):
    """What a cut of a GGUF file did, or would do; `notes` say what a user should know of the result."""

    notes: list[str] = field(default_factory=list)


def is_gguf(model: object) -> bool:
    """Whether a model, as users name it, is a GGUF file."""
    return isinstance(model, str | Path) and str(model).lower().endswith(SUFFIX) and not Path(model).is_dir()


def cut_file(
    model: str | Path,
    output: str | Path,
    *,
    drop_layers: str | Sequence[int] | None = None,
    keep_layers: str | Sequence[int] | None = None,
    plan: Path | Plan | None = None,
    verify: bool = True,
    dry_run: bool = False,
) -> GgufCut:
    """Write the GGUF file that remains when layers are removed.

    Args:
        model: a .gguf file, of a split model the first part; never modified.
        output: the .gguf file to create.
        drop_layers: layers to remove, as indices or text such as `20,21,24-27` (both ends included).
        keep_layers: layers to keep, likewise. Exactly one of drop_layers, keep_layers and plan is given.
        plan: a Plan, or the path of a plan.json, without compensation.
        verify: compare every tensor with the source before the file gets its name.
        dry_run: check and plan everything, write nothing.

    Raises:
        UsageError: bad layers, a target that exists or has another ending, a plan with compensation.
        PruneError: a damaged file, an architecture, key or tensor that cannot be expressed (named), or a failed write.
    """
    source, target = Path(model), Path(output)
    check_target(target, source)
    found = read_model(source)
    depth = depth_of(found)
    keep, drop = choose_layers(depth, drop_layers=drop_layers, keep_layers=keep_layers, plan=plan)
    refuse_compensation(plan)
    edit = plan_edit(found, depth, keep)
    placed = place(found, edit.names)
    size = sum(item.tensor.bytes for item in placed)
    result = GgufCut(str(source), str(target), depth, keep, drop, size, [], False, notes=edit.notes)
    if dry_run:
        return result
    try:
        with staged_file(target) as (staging, descriptor):
            write_file(found, placed, edit.values, descriptor)
            check_header(staging, placed)
            if verify:
                compare_tensors(staging, placed)
                result.verified = True
    except OSError as error:
        raise PruneError(f"{target}: {write_failure(error)}") from error
    result.files = [target.name]
    return result


def join_parts(model: Model, target: Path) -> None:
    """Write a split model as one file.

    Raises:
        PruneError: it cannot be written.
    """
    try:
        with staged_file(target) as (_, descriptor):
            write_file(model, place(model, {tensor.name: tensor.name for _, tensor in model.tensors}), {}, descriptor)
    except OSError as error:
        raise PruneError(f"{target}: {write_failure(error)}") from error


def check_target(target: Path, source: Path | None = None) -> None:
    """Refuse a target that is no new .gguf file; of a `source` that is one, it says how to cut into a directory."""
    if target.is_dir():
        raise UsageError(f"{target}: is a directory; give -o the file to write, such as {target / 'cut.gguf'}")
    if target.suffix.lower() != SUFFIX:
        first = f", or make a checkpoint of it first: `prune import {source} -o DIR`" if source else ""
        raise UsageError(f"{target}: a GGUF file is cut into a GGUF file; give -o a name that ends in {SUFFIX}{first}")
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target}: exists; give -o another name, or remove it first")


def refuse_compensation(plan: Path | Plan | None) -> None:
    if plan is None:
        return
    from prune.planning.plan import Plan

    if (plan if isinstance(plan, Plan) else Plan.load(plan)).compensation:
        raise UsageError("--plan: its compensation rewrites weights, which a GGUF cut copies; use a plan without it")


@contextmanager
def staged_file(target: Path) -> Iterator[tuple[Path, int]]:
    """A hidden file beside the target, locked and open for writing; it gets the target's name when all went well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = target.with_name(f".{target.name}.partial")
    descriptor = claim(staging, f"{target}: another process is writing it; wait for it, or give -o another name")
    try:
        os.ftruncate(descriptor, 0)  # left by a killed run
        yield staging, descriptor
        os.fsync(descriptor)
        if target.exists():
            raise UsageError(f"{target}: was made meanwhile; nothing was overwritten")
        staging.rename(target)
        sync_directory(target.parent)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def check_header(staging: Path, placed: list[Placed]) -> None:
    """What was written parses, and describes what was planned."""
    found = [(tensor.name, tensor.shape, tensor.kind) for tensor in read_header(staging).tensors]
    if found != [(item.name, item.tensor.shape, item.tensor.kind) for item in placed]:
        raise PruneError(f"{staging.name}: its header is not what was planned; nothing was written")


def compare_tensors(staging: Path, placed: list[Placed]) -> None:
    """Every tensor's bytes are the source's."""
    written = {tensor.name: tensor for tensor in read_header(staging).tensors}
    files: dict[Path, int] = {}
    try:
        for path in (staging, *dict.fromkeys(item.source for item in placed)):
            files[path] = os.open(path, os.O_RDONLY)
        for item in placed:
            begin, copy = item.tensor.begin, written[item.name].begin
            for at in range(0, item.tensor.bytes, CHUNK):
                count = min(CHUNK, item.tensor.bytes - at)
                old = read_all(files[item.source], begin + at, count, item.source)
                if old != read_all(files[staging], copy + at, count, staging):
                    raise PruneError(f"{item.source}: {item.name!r} was not copied faithfully; nothing was written")
    finally:
        for descriptor in files.values():
            os.close(descriptor)
