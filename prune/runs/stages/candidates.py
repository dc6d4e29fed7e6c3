"""The stages that make candidates before healing: measure the original, plan every depth, cut."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.runs.outputs import SCORES
from prune.runs.verdict import CandidateKey

if TYPE_CHECKING:
    from prune.analysis.result import Analysis
    from prune.planning.plan import Plan
    from prune.runs.following import Directory
    from prune.runs.inputs import RunInputs

log = logging.getLogger("prune")


def analyze_source(inputs: RunInputs, run: Directory) -> str:
    """Measure the original: `analysis/`; the hash of the stage's inputs."""
    from prune.analysis import analyze
    from prune.analysis.calibration import record_calibration

    recipe = inputs.recipe

    def work(staging: Path) -> None:
        analysis = analyze(
            inputs.original,
            inputs.domains,
            **recipe.analyze.model_dump(),
            seed=recipe.seed,
            pad_token_id=inputs.pad,
            source=recipe.model,
            processes=inputs.processes,
        )
        record_calibration(
            analysis,
            recipe.data.domains,
            seq_length=recipe.data.seq_length,
            calib_num_samples=recipe.data.calib_num_samples,
            seed=recipe.seed,
            dtype=inputs.dtype,
            revision=inputs.source.revision,
        )
        staging.rmdir()
        analysis.save(staging)

    depends_on = {
        "model": inputs.source_hash,
        "data": {name: d.sha256 for name, d in inputs.domains.items()},
        "options": recipe.analyze.model_dump(),
        "seed": recipe.seed,
        **inputs.arithmetic,
        "versions": inputs.versions,
    }
    return run.stage("analyze", "analysis", depends_on, work, shared=True)


def make_plans(inputs: RunInputs, run: Directory, analysis: Analysis, analysis_hash: str) -> dict[int, Plan]:
    """A plan for every depth of the recipe: `plans/`, and `plan.json`, the shallowest.

    Args:
        analysis_hash: of `analyze_source`.
    """
    from prune.planning.plan import Plan
    from prune.planning.planner import make_plan, sweep_together
    from prune.serving.check import slots_for

    options = inputs.recipe.plan

    def work(staging: Path) -> None:
        common: dict[str, Any] = {
            "source": inputs.recipe.model,
            "analysis": analysis,
            "model": inputs.original,
            "domains": inputs.domains,
            "criterion": options.criterion,
            "strategy": options.strategy,
            "protect": options.protect,
            "domain_weights": options.domain_weights or None,
            "prediction_share": options.prediction_share,
            "tuning": options.tuning(inputs.recipe.seed),
            "seed": inputs.recipe.seed,
            "score_cache": inputs.root / SCORES,
            "pad_token_id": inputs.pad,
        }
        depths = sorted(options.depths, reverse=True)
        if options.unit != "layer":
            for depth in depths if inputs.processes.first else ():
                make_plan(**common, unit=options.unit, num_layers=depth).save(staging / f"{depth}.json")
            return
        slots = slots_for(inputs.source.checkpoint.config, options.runtime) if options.runtime else None
        plans = sweep_together(inputs.processes, **common, depths=depths, slots=slots)
        for plan in plans if inputs.processes.first else ():
            _save_plan(inputs, plan, staging / f"{len(plan.keep)}.json")

    depends_on = {"analysis": analysis_hash, "model": inputs.source_hash, "options": options.model_dump()}
    run.stage("plan", "plans", depends_on, work, shared=True)
    plans = {depth: Plan.load(inputs.root / "plans" / f"{depth}.json") for depth in options.depths}
    shallowest = plans[min(plans)]
    if shallowest.compensation and "file" in shallowest.compensation:  # its path is relative to the plan
        record = {**shallowest.compensation, "file": f"plans/{shallowest.compensation['file']}"}
        shallowest = shallowest.model_copy(update={"compensation": record})
    if inputs.processes.first:
        shallowest.save(inputs.root / "plan.json")
    return plans


def _save_plan(inputs: RunInputs, plan: Plan, path: Path) -> None:
    """Write a plan, compensated where the recipe says so."""
    method = inputs.recipe.plan.compensate
    if method == "none":
        plan.save(path)
        return
    from prune.surgery.replacements import compensated_plan

    done = compensated_plan(
        plan,
        inputs.source,
        inputs.original,
        inputs.domains,
        path,
        method=method,
        weights=inputs.recipe.plan.domain_weights or None,
        pad_token_id=inputs.pad,
    )
    for gap in (done.compensation or {})["gaps"]:
        outcome = f"{gap['form']} map in layer {gap['layer']}" if gap["kept"] else f"left as it is: {gap['reason']}"
        log.info("plan %d, gap %d-%d: %s", len(plan.keep), gap["first"], gap["last"], outcome)


def cut_plan(inputs: RunInputs, run: Directory, plan: Plan, depth: int) -> str:
    """Cut one plan's layers, or sub-layers, from the source: `pruned/N/`; the hash of that directory.

    Args:
        depth: of the candidate, in the recipe's words.
    """
    from prune.serving.check import ConfigReader
    from prune.surgery.cut import cut
    from prune.surgery.deci import cut_parts

    def work(staging: Path) -> None:
        staging.rmdir()
        if plan.unit != "layer":
            cut_parts(inputs.source, staging, plan.drop_attention, plan.drop_mlp, plan=plan)
            return
        finish = ConfigReader(inputs.recipe.plan.runtime)
        cut(inputs.source, staging, plan=inputs.root / "plans" / f"{depth}.json", finish=finish)

    new = (plan.compensation or {}).get("sha256")
    depends_on = {"model": inputs.source_hash, "keep": plan.keep, "versions": inputs.versions}
    depends_on |= {"runtime": runtime} if (runtime := inputs.recipe.plan.runtime) else {}
    depends_on |= {"compensation": new} if new else {}
    depends_on |= {"parts": plan.order} if plan.unit != "layer" else {}
    return run.stage(f"cut-{depth}", CandidateKey(depth, "pruned").path, depends_on, work)
