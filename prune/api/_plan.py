"""`prune.plan`: decide which layers go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from pydantic import Field

from prune.api._inputs import load_domains
from prune.errors import UsageError
from prune.files import refuse_non_empty
from prune.model.settings import TrustSettings
from prune.planning.settings import BudgetSettings, PlanSettings
from prune.settings import ADVANCED, Seeded, fields_of, takes, validated

if TYPE_CHECKING:
    from prune.analysis.result import Analysis
    from prune.checkpoint.source import Source
    from prune.data.domains import Domain
    from prune.planning.frontier import Frontier
    from prune.planning.plan import Plan
    from prune.planning.planner import Inputs

SCORES = "scores.sqlite"


class PlanArguments(Seeded, TrustSettings, BudgetSettings, PlanSettings):
    """Everything that `prune plan` can be told beside the analysis and the output."""

    sweep: bool = Field(False, description="The frontier down to half of the layers (or the budget), into a directory.")
    score_cache: Path | None = Field(
        None,
        description="SQLite file that keeps every score made; scores.sqlite beside the analysis if not given.",
        json_schema_extra=ADVANCED,
    )


@overload
def plan(
    analysis: str | Path, output: str | Path, *, sweep: Literal[False] = False, dry_run: bool = False, **settings: Any
) -> Plan: ...


@overload
def plan(
    analysis: str | Path, output: str | Path, *, sweep: Literal[True], dry_run: bool = False, **settings: Any
) -> Frontier: ...


@takes(PlanArguments)
def plan(analysis: str | Path, output: str | Path, *, dry_run: bool = False, **settings: Any) -> Plan | Frontier:
    """Decide which layers go, and write `plan.json`; or, with `sweep`, the whole frontier.

    Exactly one budget says how far: `num_layers`, `drop_fraction`, `target_params`, `target_bytes`, `target_speedup`,
    or the layers themselves. With `sweep` num_layers or drop_fraction says where the frontier ends; half of the layers
    if neither is given. The model and the calibration data are read again from where the analysis found them, only
    when the criterion or the strategy needs them; the model, and its revision, are those of the analysis.

    Args:
        analysis: directory that `prune analyze` wrote.
        output: new plan file; with `sweep` a new directory for frontier.json, frontier.html and plans/.
        dry_run: check the request and search, write nothing but scores.

    Raises:
        UsageError: unknown names, no budget or several, a budget that cannot be met.
    """
    from prune.analysis.result import Analysis
    from prune.planning import frontier, planner
    from prune.planning.budget import check_protected

    asked = validated(PlanArguments, settings)
    target, directory = Path(output), Path(analysis)
    if asked.sweep:
        refuse_non_empty(target)
    elif target.exists():
        raise UsageError(f"{target} exists: give -o a new file, or remove it first")
    found = Analysis.load(directory)
    request: dict[str, Any] = {
        "source": found.info["model"],
        "criterion": asked.criterion,
        "strategy": asked.strategy,
        "protect": asked.protect,
        "domain_weights": asked.domain_weights or None,
        "tuning": asked.tuning(asked.seed),
        "seed": asked.seed,
        **_inputs(
            found,
            directory,
            asked.score_cache or directory.resolve().parent / SCORES,
            **fields_of(TrustSettings, asked),
        ),
    }
    budgets = fields_of(BudgetSettings, asked)
    if not asked.sweep:
        result = planner.make_plan(**request, **budgets)
        if not dry_run:
            result.save(target)
        return result
    must_stay = check_protected(asked.protect, found.num_layers)
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

    return {
        "analysis": found,
        "load_model": model,
        "load_domains": domains,
        "locate": lambda: source().directory,
        "score_cache": cache,
    }
