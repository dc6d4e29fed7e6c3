"""A report of steps that were run one by one: what lies in one folder, and what is missing there.

Measures nothing. Of each folder below (and the folder itself) `analysis.json`, `evidence.json`, a checkpoint and plan
files are known by what they are, whatever their names. A candidate is healed when its checkpoint holds a record of
healing; where its checkpoint is gone, its depth and layers are the plan's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.errors import PruneError, UsageError
from prune.files import utc
from prune.packaging.saving import HEALING
from prune.planning.plan import Plan
from prune.reporting.data import AnalysisView, Candidate, ReportData
from prune.runs.costing import heal_figures
from prune.runs.report import exported_by, suites_of, verdicts_of
from prune.runs.verdict import CandidateKey, choose
from prune.versions import library_versions
from prune.wording import Message, message

if TYPE_CHECKING:
    from evals.evidence import Evidence


def collect(root: Path, lang: str = "en") -> ReportData:
    """What the folder holds, as a report.

    Raises:
        UsageError: no analysis, plan or evidence there.
        PruneError, evals.errors.EvalError: one of them is damaged.
    """
    from evals.evidence import Evidence
    from prune.analysis.result import Analysis

    places = [root, *sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))]
    analyses = [place for place in places if (place / "analysis.json").is_file()]
    evidence = {place: Evidence.load(place) for place in places if (place / "evidence.json").is_file()}
    plans = _plans(root)
    if not (analyses or evidence or plans):
        raise UsageError(
            f"{root}: no recipe.yaml there, nor an analysis, a plan or evidence: give the directory of a `prune run`, "
            "or one that holds what `prune analyze`, `plan` and `eval` wrote"
        )
    missing = [message("missing_cost")] if evidence else []
    view = None
    if analyses:
        found = Analysis.load(analyses[0])
        view = AnalysisView.from_analysis(found)
        missing += [message("missing_second", path=place.name) for place in analyses[1:]]
    else:
        missing.append(message("missing_analysis"))
    if not plans:
        missing.append(message("missing_plan"))
    if not evidence:
        missing.append(message("missing_evidence"))
    depth = view.num_layers if view else next((plan.num_layers for plan in plans.values()), 0)
    judged, candidates, left_out = _candidates(evidence, list(plans.values()), depth)
    choice = choose(judged, fallback=False, depth=depth) if judged else None
    times = [path.stat().st_mtime for place in analyses for path in [place / "analysis.json"]]
    times += [(place / "evidence.json").stat().st_mtime for place in evidence] + [p.stat().st_mtime for p in plans]
    return ReportData(
        title=_title(evidence, plans, analyses),
        lang=lang,
        generated_at=utc(max(times)),
        ship=choice.ship if choice else "FAIL",
        verdicts=verdicts_of(judged, choice, {}) if choice else [],
        candidates=candidates,
        exported=exported_by(choice, None, suites_of(judged)) if choice else None,
        analysis=view,
        plans=sorted(plans.values(), key=lambda plan: -len(plan.keep)),
        not_measured=[*missing, *left_out],
        provenance={
            "versions": library_versions(),
            "files": [str(p.relative_to(root)) for p in [*analyses, *evidence]],
        },
    )


def _plans(root: Path) -> dict[Path, Plan]:
    """Plan files in the folder and in `plans/`; other JSON is passed over."""
    found = {}
    for path in sorted([*root.glob("*.json"), *root.glob("plans/*.json")]):
        try:
            found[path] = Plan.load(path)
        except (UsageError, PruneError):
            continue
    return found


def _candidates(
    evidence: dict[Path, Evidence], plans: list[Plan], depth: int
) -> tuple[dict[CandidateKey, Evidence], list[Candidate], list[Message]]:
    """The gate's evidence by candidate, what is known of each, and what could not be placed."""
    judged: dict[CandidateKey, Evidence] = {}
    rows: list[Candidate] = []
    left_out: list[Message] = []
    for place, found in evidence.items():
        checkpoint = _checkpoint(place.parent, found.candidate_model)
        layers = _depth(checkpoint) or (len(plans[0].keep) if len(plans) == 1 else None)
        if layers is None or layers >= (depth or layers + 1):
            left_out.append(message("missing_place", path=place.name))
            continue
        healed = checkpoint is not None and (checkpoint / HEALING).is_file()
        key = CandidateKey(layers, "healed" if healed else "pruned")
        if key in judged:
            left_out.append(message("missing_second", path=place.name))
            continue
        judged[key] = found
        plan = next((plan for plan in plans if len(plan.keep) == layers), None)
        record = heal_figures(checkpoint / HEALING) if checkpoint else {}
        kept = {"keep": plan.keep, "drop": plan.drop} if plan else {}
        rows.append(
            Candidate(
                num_layers=layers, stage=key.stage, evidence=found.suites, **kept, **_size(checkpoint, layers), **record
            )
        )
    if judged:
        first = next(iter(judged.values()))
        original = _checkpoint(next(iter(evidence)).parent, first.original_model)
        total = depth or _depth(original) or max(key.num_layers for key in judged) + 1
        rows.append(
            Candidate(
                num_layers=total, stage="original", keep=list(range(total)), evidence=first.suites,
                **_size(original, total),
            )
        )  # fmt: skip
    ordered = dict(sorted(judged.items(), key=lambda item: (-item[0].num_layers, item[0].stage != "pruned")))
    return ordered, rows, left_out


def _checkpoint(root: Path, name: str) -> Path | None:
    """Where a model that `prune eval` was given lies, from the folder or from here."""
    from prune.embedded import MODEL

    if name == "embedded":
        return Path(MODEL)
    return next((path for path in (root / name, Path(name)) if name and (path / "config.json").is_file()), None)


def _depth(checkpoint: Path | None) -> int | None:
    from prune.planning.sizes import config_depth

    return config_depth(str(checkpoint)) if checkpoint else None


def _size(checkpoint: Path | None, layers: int) -> dict[str, Any]:
    """Parameters and bytes by the headers of its files."""
    from prune.planning.sizes import measure_sizes
    from prune.planning.units import Units

    if checkpoint is None or not any(checkpoint.glob("*.safetensors")):
        return {}
    sizes = {unit: measure_sizes(str(checkpoint), Units(layers), unit, None) for unit in ("params", "bytes")}
    return {name: sizes[unit].of([]) for name, unit in (("parameters", "params"), ("bytes", "bytes"))}


def _title(evidence: dict[Path, Evidence], plans: dict[Path, Plan], analyses: list[Path]) -> str:
    """The original's name, from whatever states it."""
    from prune.analysis.result import Analysis

    names = [found.original_model for found in evidence.values()] + [plan.source for plan in plans.values()]
    names += [str(Analysis.load(place).info["model"]) for place in analyses[:1]]
    return Path(next(filter(None, names), "")).name
