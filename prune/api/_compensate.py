"""`prune.compensate`: repair the gaps of a plan without training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.api._inputs import Data, check_files, load_domains
from prune.data.domains import pad_token
from prune.errors import UsageError

if TYPE_CHECKING:
    from prune.planning.plan import Plan


def compensate(
    model: str,
    output: str | Path,
    *,
    plan: str | Path,
    data: Data,
    method: str = "linear",
    domain_weights: Mapping[str, float] | None = None,
    seq_length: int = 512,
    calib_num_samples: int | None = None,
    seed: int = 0,
    dtype: str = "float32",
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_links: bool = False,
    dry_run: bool = False,
) -> Plan | dict[str, Any]:
    """Fit what the layer before each gap should add, and write a plan that says so, with its weights beside it.

    `prune cut --plan` then writes those weights; nothing is trained, and the result has a stock architecture. See
    `prune.surgery.compensation`.

    Args:
        model: directory, hub id, or `embedded`; the source of the plan.
        output: new plan file; the weights lie beside it as `NAME.safetensors`.
        plan: of `prune plan`.
        data: domains; a quarter of each domain's documents judges, the others fit.
        method: `linear` or `scale`.
        domain_weights: weight of each domain; equal if None.
        seq_length: longer documents are cut, in tokens.
        calib_num_samples: documents per domain; all if None.
        seed: of the draw and the split of documents.
        dtype: of the computation: `auto`, `float32`, `bfloat16` or `float16`.
        revision, trust_remote_code, allow_links: see `prune.checkpoint.source.resolve`.
        dry_run: check the input and return what would be done.

    Raises:
        UsageError, PruneError: bad input; nothing is written.
    """
    from prune.checkpoint.source import resolve
    from prune.planning.plan import Plan
    from prune.surgery.compensation import METHODS

    target = Path(output)
    if target.suffix == ".safetensors":
        raise UsageError(f"{target}: the weights lie there, beside the plan: give -o a file that ends in .json")
    for path in (target, target.with_suffix(".safetensors")):
        if path.exists():
            raise UsageError(f"{path} exists: give -o a new file, or remove it first")
    if method not in METHODS:
        raise UsageError(f"--method {method!r}: use one of {', '.join(METHODS)}")
    chosen = Plan.load(Path(plan))
    check_files(data)
    from prune.model.anatomy import find_anatomy
    from prune.model.loading import load_model, load_tokenizer
    from prune.surgery.cut import check_revision
    from prune.surgery.replacements import compensated_plan

    source = resolve(
        model, revision=revision, dtype=dtype, trust_remote_code=trust_remote_code, allow_links=allow_links
    )
    check_revision(chosen, source)
    tokenizer = load_tokenizer(source)
    domains = load_domains(data, tokenizer, seq_length, calib_num_samples, seed)
    if dry_run:
        return {"plan": str(plan), "output": str(target), "data": {n: d.describe() for n, d in domains.items()}}
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
        method=method,  # type: ignore[arg-type]
        weights=domain_weights,
        pad_token_id=pad_token(tokenizer),
    )
