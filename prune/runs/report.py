"""A run directory read back as one `ReportData`: the only place that knows both the files of a run and the report.

Measures nothing; every figure comes from a file that a stage wrote.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.errors import UsageError
from prune.files import utc, write_text
from prune.packaging.saving import HEALING
from prune.planning.plan import Plan
from prune.reporting.data import (
    AnalysisView,
    Candidate,
    Draft,
    Exported,
    ReportData,
    SuiteVerdict,
)
from prune.runs.costing import cost_summary, heal_figures, put_pair_price, put_price, read_speeds
from prune.runs.directory import read_state, require_unaltered
from prune.runs.outputs import candidate_plan, read_draft, read_drafts, read_judged, screened_out
from prune.runs.recipe import Recipe, load_recipe
from prune.runs.verdict import CandidateKey, Choice, DraftTrial, choose, override_reasons, recommend
from prune.versions import library_versions
from prune.wording import Message, Words, message

if TYPE_CHECKING:
    from evals.evidence import Evidence
    from prune.analysis.result import Analysis


def assemble(
    root: Path,
    *,
    choice: Choice | None = None,
    redone: list[str] | None = None,
    vllm_bench: Mapping[str, str] | None = None,
) -> ReportData:
    """Everything the report says about a run.

    Args:
        root: a run directory whose stages are done.
        choice: what was exported; read from the evidence again when None.
        redone: stages that worked in this process, for the provenance.
        vllm_bench: files of vLLM's benchmark; the recipe's if None or empty.

    Raises:
        UsageError: the directory holds no finished run.
        PruneError: a result there was altered.
    """
    from prune.analysis.result import Analysis

    for name in ("recipe.yaml", "state.json", "analysis", "plans", "evidence/gate"):
        if not (root / name).exists():
            raise UsageError(f"{root}: no {name} there; give the directory of a finished `prune run`")
    state = read_state(root)
    require_unaltered(root, state, ("analysis", "plans", "evidence"))
    recipe = load_recipe(root / "recipe.yaml")
    if vllm_bench:
        recipe = recipe.model_copy(update={"cost": recipe.cost.model_copy(update={"vllm_bench": dict(vllm_bench)})})
    analysis = Analysis.load(root / "analysis")
    judged = read_judged(root)
    if choice is None:
        options = recipe.export
        choice = choose(judged, require=options.require, fallback=options.fallback, depth=analysis.num_layers)
    drafts = read_drafts(root, list(suites_of(judged)))
    speeds = read_speeds(root, recipe)
    candidates = [_original(root, judged, analysis.num_layers)]
    candidates += [_candidate(root, key, judged[key], candidate_plan(root, recipe, key)) for key in judged]
    for candidate in candidates:
        put_price(candidate, speeds, recipe)
    shown = next((c for c in candidates if choice.key and c.key == f"{choice.key.num_layers}-{choice.key.stage}"), None)
    return ReportData(
        title=Path(recipe.model).name,
        lang=recipe.report.lang,
        titles=recipe.report.titles,
        generated_at=_when(root, state),
        ship=choice.ship,
        verdicts=verdicts_of(judged, choice, drafts),
        candidates=candidates,
        exported=exported_by(choice, recipe.export.override, suites_of(judged)),
        analysis=AnalysisView.from_analysis(analysis),
        plans=[Plan.load(root / "plans" / f"{d}.json") for d in sorted(recipe.plan.depths, reverse=True)],
        cost=cost_summary(shown, speeds, recipe),
        drafts=[
            put_pair_price(
                Draft(suite=suite, result=trial.result, num_layers=trial.key.num_layers, stage=trial.key.stage),
                speeds,
                recipe,
                read_draft(root),
            )
            for suite, trial in drafts.items()
        ],
        not_measured=[
            message("missing_runtimes"),
            *speeds.not_measured,
            *screened_out(root),
            *_untried(recipe, judged, drafts),
        ],
        recipe=(root / "recipe.yaml").read_text(encoding="utf8"),
        provenance=_provenance(recipe, analysis, redone),
        durations={name: stage["seconds"] for name, stage in state["stages"].items()},
    )


def _when(root: Path, state: Mapping[str, Any]) -> str:
    """When the last stage that worked was done: a report that is written again keeps the run's date."""
    done = [stage["done"] for stage in state["stages"].values() if "done" in stage]
    return max(done) if done else utc((root / "state.json").stat().st_mtime)


def write_report(root: Path, data: ReportData, lang: str, *, dry_run: bool = False) -> dict[str, str]:
    """Write report.html, report.md and report.json into a run directory; their paths.

    Args:
        root: the run directory.
        data: everything the report says.
        lang: `en` or `ja`.
        dry_run: write nothing.

    Raises:
        UsageError: another language; nothing is written.
    """
    from prune.reporting.page import render_html, render_markdown

    markdown = render_markdown(data, lang)
    if not dry_run:
        data.save(root / "report.json")
        write_text(root / "report.md", markdown)
        render_html(data, root / "report.html", lang)
    return {kind: str(root / f"report.{kind}") for kind in ("html", "md", "json")}


def _provenance(recipe: Recipe, analysis: Analysis, redone: list[str] | None) -> dict[str, Any]:
    return {
        "model": recipe.model,
        "revision": analysis.info.get("revision"),
        "hashes": analysis.info.get("hashes"),
        "data": analysis.info.get("data"),
        "seed": recipe.seed,
        "versions": library_versions(),
        **({"stages_done_in_this_process": redone} if redone is not None else {}),
    }


def _original(root: Path, judged: dict[CandidateKey, Evidence], depth: int) -> Candidate:
    evidence = next(iter(judged.values()))  # every candidate was judged against the same original
    return Candidate(
        num_layers=depth,
        stage="original",
        keep=list(range(depth)),
        evidence=evidence.suites,
        **_language(root / "evidence" / "original"),
    )


def _candidate(root: Path, key: CandidateKey, evidence: Evidence, plan: Plan) -> Candidate:
    return Candidate(
        num_layers=key.num_layers,
        stage=key.stage,
        keep=plan.keep,
        drop=plan.drop,
        evidence=evidence.suites,
        **heal_figures(root / key.stage / str(key.num_layers) / HEALING),
        **_language(root / "evidence" / str(key)),
    )


def _language(directory: Path) -> dict[str, Any]:
    from evals.records import load_results

    results = load_results(directory).values()
    return {
        "perplexity": {r.name: r.value for r in results if r.aggregation == "perplexity"},
        "bits_per_byte": {r.name: r.value for r in results if r.aggregation == "bits_per_byte"},
    }


def suites_of(judged: dict[CandidateKey, Evidence]) -> dict[str, Words]:
    """Name -> title by language of every suite that was judged."""
    return {suite.name: suite.words for suite in next(iter(judged.values())).suites}


def _untried(recipe: Recipe, judged: dict[CandidateKey, Evidence], drafts: dict[str, DraftTrial]) -> list[Message]:
    if not recipe.draft.enabled:
        return [message("missing_draft_off")]
    passed = [title for name, title in suites_of(judged).items() if name not in drafts]
    return [message("missing_draft", suites=passed)] if passed else []


def verdicts_of(
    judged: dict[CandidateKey, Evidence], choice: Choice, drafts: dict[str, DraftTrial]
) -> list[SuiteVerdict]:
    """The gate's answer for each suite, on what is exported, or else the deepest candidate."""
    shown = choice.key or next(iter(judged))
    rows = []
    for suite in judged[shown].suites:
        found = recommend(judged, suite.name, drafts)
        rows.append(
            SuiteVerdict(
                evidence=suite,
                recommendation=found.recommendation,
                num_layers=shown.num_layers,
                stage=shown.stage,
                reason=found.reason,
            )
        )
    return rows


def exported_by(choice: Choice, override: str | None, titles: dict[str, Words]) -> Exported | None:
    """What leaves, with what a person set aside; None where nothing does."""
    if choice.key is None:
        return None
    return Exported(
        num_layers=choice.key.num_layers,
        stage=choice.key.stage,
        passed=list(choice.passed),
        refused=list(choice.refused),
        overrides=override_reasons(choice, override, titles),
    )
