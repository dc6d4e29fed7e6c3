"""The stages that make candidates before healing: measure the original, plan every depth, cut."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from prune.runs.verdict import CandidateKey

if TYPE_CHECKING:
    from prune.analysis.result import Analysis
    from prune.planning.plan import Plan
    from prune.runs.directory import RunDirectory
    from prune.runs.pipeline import Pipeline

SCORES = "scores.sqlite"
"""Scores of layer subsets below the run directory: a killed or repeated search makes none twice."""
log = logging.getLogger("prune")


def analyze_source(pipeline: Pipeline, run: RunDirectory, versions: dict[str, str]) -> str:
    """Measure the original: `analysis/`; the hash of the stage's inputs."""
    from prune.analysis import analyze

    recipe = pipeline.recipe

    def work(staging: Path) -> None:
        analysis = analyze(
            pipeline.original,
            pipeline.domains,
            measures=recipe.analyze.measure,
            batch_size=recipe.analyze.batch_size,
            bootstrap=recipe.analyze.bootstrap,
            first_token=recipe.analyze.first_token,
            seed=recipe.seed,
            pad_token_id=pipeline.pad,
            source=recipe.model,
        )
        staging.rmdir()
        analysis.save(staging)

    inputs = {
        "model": pipeline.source_hash,
        "data": {name: d.sha256 for name, d in pipeline.domains.items()},
        "options": recipe.analyze.model_dump(),
        "seed": recipe.seed,
        "dtype": recipe.dtype,
        "versions": versions,
    }
    return run.stage("analyze", "analysis", inputs, work)


def make_plans(pipeline: Pipeline, run: RunDirectory, analysis: Analysis, analysis_hash: str) -> dict[int, Plan]:
    """A plan for every depth of the recipe: `plans/`, and `plan.json`, the shallowest.

    Args:
        analysis_hash: of `analyze_source`.
    """
    from prune.planning.plan import Plan
    from prune.planning.planner import sweep

    options = pipeline.recipe.plan

    def work(staging: Path) -> None:
        plans = sweep(
            source=pipeline.recipe.model,
            analysis=analysis,
            model=pipeline.original,
            domains=pipeline.domains,
            criterion=options.criterion,
            strategy=options.strategy,
            depths=sorted(options.depths, reverse=True),
            protect=options.protect,
            domain_weights=options.domain_weights or None,
            tuning=options.tuning(pipeline.recipe.seed),
            seed=pipeline.recipe.seed,
            score_cache=pipeline.root / SCORES,
            pad_token_id=pipeline.pad,
        )
        for plan in plans:
            _save_plan(pipeline, plan, staging / f"{len(plan.keep)}.json")

    inputs = {"analysis": analysis_hash, "model": pipeline.source_hash, "options": options.model_dump()}
    run.stage("plan", "plans", inputs, work)
    plans = {depth: Plan.load(pipeline.root / "plans" / f"{depth}.json") for depth in options.depths}
    shallowest = plans[min(plans)]
    if shallowest.compensation and "file" in shallowest.compensation:  # its path is relative to the plan
        record = {**shallowest.compensation, "file": f"plans/{shallowest.compensation['file']}"}
        shallowest = shallowest.model_copy(update={"compensation": record})
    shallowest.save(pipeline.root / "plan.json")
    return plans


def _save_plan(pipeline: Pipeline, plan: Plan, path: Path) -> None:
    """Write a plan, compensated where the recipe says so."""
    method = pipeline.recipe.plan.compensate
    if method == "none":
        plan.save(path)
        return
    from prune.surgery.cut import resolve_source
    from prune.surgery.replacements import compensated_plan

    done = compensated_plan(
        plan,
        resolve_source(pipeline.source),
        pipeline.original,
        pipeline.domains,
        path,
        method=method,
        weights=pipeline.recipe.plan.domain_weights or None,
        pad_token_id=pipeline.pad,
    )
    for gap in (done.compensation or {})["gaps"]:
        outcome = f"{gap['form']} map in layer {gap['layer']}" if gap["kept"] else f"left as it is: {gap['reason']}"
        log.info("plan %d, gap %d-%d: %s", len(plan.keep), gap["first"], gap["last"], outcome)


def cut_plan(pipeline: Pipeline, run: RunDirectory, plan: Plan, versions: dict[str, str]) -> str:
    """Cut one plan's layers from the source: `pruned/N/`; the hash of that directory."""
    from prune.surgery.cut import cut

    depth = len(plan.keep)

    def work(staging: Path) -> None:
        staging.rmdir()
        cut(pipeline.source, staging, plan=pipeline.root / "plans" / f"{depth}.json")

    new = (plan.compensation or {}).get("sha256")
    inputs = {"model": pipeline.source_hash, "keep": plan.keep, "versions": versions}
    inputs |= {"compensation": new} if new else {}
    return run.stage(f"cut-{depth}", CandidateKey(depth, "pruned").path, inputs, work)
