"""`prune.plan`: decide which layers go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.api._inputs import load_domains
from prune.errors import UsageError
from prune.files import refuse_non_empty

if TYPE_CHECKING:
    from prune.analysis.result import Analysis
    from prune.checkpoint.source import Source
    from prune.data.domains import Domain
    from prune.planning.frontier import Frontier
    from prune.planning.plan import Plan
    from prune.planning.planner import Inputs

SCORES = "scores.sqlite"


def plan(
    analysis: str | Path,
    output: str | Path,
    *,
    criterion: str = "dnll",
    strategy: str = "greedy",
    num_layers: int | None = None,
    drop_fraction: float | None = None,
    target_params: int | None = None,
    target_bytes: int | None = None,
    target_speedup: float | None = None,
    drop_layers: str | Sequence[int] | None = None,
    keep_layers: str | Sequence[int] | None = None,
    protect: str | Sequence[int] = (),
    domain_weights: Mapping[str, float] | None = None,
    beam_width: int = 4,
    block_size: int = 2,
    max_subsets: int = 600,
    score_cache: str | Path | None = None,
    sweep: bool = False,
    seed: int = 0,
    trust_remote_code: bool = False,
    allow_links: bool = False,
    dry_run: bool = False,
) -> Plan | Frontier:
    """Decide which layers go, and write `plan.json`; or, with `sweep`, the whole frontier.

    The model and the calibration data are read again from where the analysis found them, only when the criterion
    or the strategy needs them.

    Args:
        analysis: directory that `prune analyze` wrote.
        output: new plan file; with `sweep` a new directory for frontier.json, frontier.html and plans/.
        num_layers, drop_fraction, target_params, target_bytes, target_speedup, drop_layers, keep_layers: exactly one;
            layers that remain, share of the layers that goes, parameters or checkpoint bytes that remain at most,
            predicted speed-up of decoding, or the layers themselves. With `sweep` num_layers or drop_fraction says
            where the frontier ends; half of the layers if neither is given.
        protect: layers that always stay.
        domain_weights: weight of each domain; equal if None.
        beam_width, block_size, max_subsets: see `prune.planning.registry.Tuning`.
        score_cache: SQLite file that keeps every score made; `scores.sqlite` beside the analysis if None, which is
            also where a run directory keeps its own.
        seed: of the strategies and criteria that draw.
        trust_remote_code, allow_links: see `prune.checkpoint.source.Source`; the model, and its revision, are those of
            the analysis.
        dry_run: check the request and search, write nothing but scores.

    Raises:
        UsageError: unknown names, no budget or several, a budget that cannot be met.
    """
    from prune.analysis.result import Analysis
    from prune.checkpoint.layer_lists import parse_layers
    from prune.planning import frontier, planner
    from prune.planning.budget import check_protected
    from prune.planning.registry import Tuning

    target, directory = Path(output), Path(analysis)
    if sweep:
        refuse_non_empty(target)
    elif target.exists():
        raise UsageError(f"{target} exists: give -o a new file, or remove it first")
    found = Analysis.load(directory)
    protected = parse_layers(protect) if isinstance(protect, str) else protect
    cache = Path(score_cache) if score_cache is not None else directory.resolve().parent / SCORES
    request: dict[str, Any] = {
        "source": found.info["model"],
        "criterion": criterion,
        "strategy": strategy,
        "protect": protected,
        "domain_weights": domain_weights,
        "tuning": Tuning(beam_width, block_size, max_subsets, seed),
        "seed": seed,
        **_inputs(found, directory, cache, trust_remote_code=trust_remote_code, allow_links=allow_links),
    }
    budgets: dict[str, Any] = {
        "num_layers": num_layers,
        "drop_fraction": drop_fraction,
        "target_params": target_params,
        "target_bytes": target_bytes,
        "target_speedup": target_speedup,
        "drop_layers": parse_layers(drop_layers) if isinstance(drop_layers, str) else drop_layers,
        "keep_layers": parse_layers(keep_layers) if isinstance(keep_layers, str) else keep_layers,
    }
    if not sweep:
        result = planner.make_plan(**request, **budgets)
        if not dry_run:
            result.save(target)
        return result
    must_stay = check_protected(protected, found.num_layers)
    depths = frontier.depths(found.num_layers, len(must_stay), budgets)
    swept = frontier.Frontier.of(planner.sweep(depths=depths, **request))
    if not dry_run:
        from prune.reporting.frontier import save_frontier

        save_frontier(swept, target)
    return swept


def _inputs(found: Analysis, directory: Path, cache: Path, **permissions: bool) -> Inputs:
    """The analysis, and what reads its model and its documents again when a criterion asks for them."""
    options = found.info.get("calibration") or {}
    fetched: dict[str, Any] = {}

    def source() -> Source:
        from prune.checkpoint.source import resolve

        if "source" not in fetched:
            revision, dtype = found.info.get("revision"), options.get("dtype", "float32")
            fetched["source"] = resolve(found.info["model"], revision=revision, dtype=dtype, **permissions)
        return fetched["source"]

    def model() -> Any:
        from prune.model.loading import load_model

        return load_model(source())

    def tokenizer() -> Any:
        from prune.model.loading import load_tokenizer

        if "tokenizer" not in fetched:
            fetched["tokenizer"] = load_tokenizer(source())
        return fetched["tokenizer"]

    def domains() -> dict[str, Domain]:
        if "files" not in options:
            raise UsageError(f"{directory}: does not say which documents it used; run `prune analyze` again")
        if in_memory := [name for name, path in options["files"].items() if path is None]:
            raise UsageError(f"data {in_memory[0]}: was given in memory and is not in {directory}; give data again")
        loaded = load_domains(
            options["files"], tokenizer(), options["seq_length"], options["calib_num_samples"], options["seed"]
        )
        for name, domain in loaded.items():
            if domain.sha256 != found.info["data"][name]["sha256"]:
                raise UsageError(f"{domain.source}: changed since the analysis; run `prune analyze` again")
        return loaded

    return {"analysis": found, "load_model": model, "load_domains": domains, "score_cache": cache}
