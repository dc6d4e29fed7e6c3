"""`prune.compensate`: repair the gaps of a plan without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from pydantic import Field

from prune.api._inputs import Data, DryRun, check_files, load_domains
from prune.data.domains import pad_token
from prune.data.settings import DocumentSettings, WeightSettings
from prune.errors import UsageError
from prune.model.settings import ModelSettings
from prune.settings import Seeded, fields_of, takes, validated

if TYPE_CHECKING:
    from prune.planning.plan import Plan


class CompensateArguments(ModelSettings, Seeded, WeightSettings, DocumentSettings):
    """Everything that `prune compensate` can be told beside the model, the plan, the data and the output."""

    method: Literal["linear", "scale"] = Field(
        "linear", description="linear: a matrix for each gap, fitted with a ridge; scale: one number."
    )


@overload
def compensate(
    model: str, output: str | Path, *, plan: str | Path, data: Data, dry_run: Literal[False] = False, **settings: Any
) -> Plan: ...


@overload
def compensate(
    model: str, output: str | Path, *, plan: str | Path, data: Data, dry_run: Literal[True], **settings: Any
) -> DryRun: ...


@takes(CompensateArguments)
def compensate(
    model: str, output: str | Path, *, plan: str | Path, data: Data, dry_run: bool = False, **settings: Any
) -> Plan | DryRun:
    """Fit what the layer before each gap should add, and write a plan that says so, with its weights beside it.

    `prune cut --plan` then writes those weights; nothing is trained, and the result has a stock architecture. See
    `prune.surgery.compensation`.

        prune.compensate("embedded", "better.json", plan="plan.json", data={"chat": "stories.txt"})

    Args:
        model: directory, hub id, or `embedded`; the source of the plan.
        output: new plan file; the weights lie beside it as `NAME.safetensors`.
        plan: of `prune plan`.
        data: domains; a quarter of each domain's documents judges, the others fit.
        dry_run: check the input and return what would be done.

    Raises:
        UsageError, PruneError: bad input; nothing is written.
    """
    from prune.checkpoint.source import resolve
    from prune.planning.plan import Plan

    target = Path(output)
    if target.suffix == ".safetensors":
        raise UsageError(f"{target}: the weights lie there, beside the plan: give -o a file that ends in .json")
    for path in (target, target.with_suffix(".safetensors")):
        if path.exists():
            raise UsageError(f"{path} exists: give -o a new file, or remove it first")
    asked = validated(CompensateArguments, settings)
    chosen = Plan.load(Path(plan))
    check_files(data)
    from prune.model.anatomy import find_anatomy
    from prune.model.loading import load_model, load_tokenizer
    from prune.surgery.cut import check_revision
    from prune.surgery.replacements import compensated_plan

    source = resolve(model, **fields_of(ModelSettings, asked))
    check_revision(chosen, source)
    tokenizer = load_tokenizer(source)
    domains = load_domains(data, tokenizer, asked.seq_length, asked.calib_num_samples, asked.seed, sample=dry_run)
    if dry_run:
        return DryRun(plan=str(plan), output=str(target), data={n: d.describe() for n, d in domains.items()})
    loaded = load_model(source)
    depth = find_anatomy(loaded).num_layers
    if depth != chosen.num_layers:
        raise UsageError(f"--plan: made for {chosen.num_layers} layers, the model has {depth}")
    return compensated_plan(
        chosen,
        source,
        loaded,
        domains,
        target,
        method=asked.method,
        weights=asked.domain_weights or None,
        pad_token_id=pad_token(tokenizer),
    )
