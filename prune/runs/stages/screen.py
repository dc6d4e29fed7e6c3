"""The screening stage: many depths judged on cheap tasks as they were cut, so that only a few are healed.

Reads cut checkpoints, judges them in looks with `evals.sequential`, and writes `evidence/screen.json`. Assumption: the
floor of the screen is far below the gate's, since healing comes after it; it sorts out depths that are beyond repair.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.files import write_json
from prune.runs.outputs import SCREEN, read_confirmed
from prune.runs.stages.testing import files_read, require_all, run_suites, scoring_inputs

if TYPE_CHECKING:
    from evals.evidence import Evidence
    from evals.harness import Results
    from evals.suite import Suite
    from prune.runs.following import Directory
    from prune.runs.inputs import RunInputs

log = logging.getLogger("prune")


def screen_depths(inputs: RunInputs, run: Directory, checkpoints: Mapping[int, str]) -> list[int]:
    """The depths that go on to healing and the gate; all of them where the recipe has no screen.

    Args:
        checkpoints: depth -> hash of its cut checkpoint.
    """
    options = inputs.recipe.screen
    if options is None:
        return list(checkpoints)
    suites = inputs.screen_suites

    def work(target: Path) -> dict[str, str]:
        original = _scorer(inputs, None, suites)
        rows = {depth: _judged(inputs, depth, original, suites) for depth in sorted(checkpoints)}
        write_json(target, {"confirmed": _confirmed(rows, options.confirm), "floor": options.floor, "depths": rows})
        return files_read(inputs)

    depends_on = {
        "model": inputs.source_hash,
        "checkpoints": {str(depth): digest for depth, digest in checkpoints.items()},
        **scoring_inputs(inputs, suites),
        "options": options.model_dump(),
        "alpha": inputs.recipe.eval.alpha,
    }
    run.stage("screen", SCREEN, depends_on, work, shared=True)
    confirmed = read_confirmed(inputs.root)
    log.info("screen: %s layers go on", ", ".join(map(str, confirmed)))
    return confirmed


def _judged(inputs: RunInputs, depth: int, original: Any, suites: list[Suite]) -> list[dict[str, Any]]:
    from evals.sequential import judge_in_looks

    options = inputs.recipe.screen
    assert options is not None
    looks = judge_in_looks(
        original,
        _scorer(inputs, depth, suites),
        suites,
        options.looks,
        alpha=inputs.recipe.eval.alpha,
        seed=inputs.recipe.seed,
    )
    return [{"items_per_task": items, **_row(evidence)} for items, evidence in looks]


def _row(evidence: Evidence) -> dict[str, Any]:
    keys = ("title", "titles", "n", "retention", "retention_lo", "retention_hi", "verdict")
    return {
        "overall": evidence.overall,
        "suites": {s.name: {key: getattr(s, key) for key in keys} for s in evidence.suites},
    }


def _scorer(inputs: RunInputs, depth: int | None, suites: list[Suite]) -> Any:
    """Results of the original (None) or of a cut depth on the first so many items; each look is scored once."""
    directory = str(inputs.root / f"pruned/{depth}")
    model = inputs.original if depth is None else inputs.candidate(directory)

    @cache
    def score(items: int) -> Results:
        results = run_suites(inputs, model, suites, limit=items)
        require_all(results, "original" if depth is None else f"pruned-{depth}")
        return results

    return score


def _confirmed(rows: Mapping[int, list[dict[str, Any]]], count: int) -> list[int]:
    """Up to `count` depths, deepest first: the shallowest that passed, then the deepest undecided; else the deepest."""
    passed = [depth for depth, looks in sorted(rows.items()) if looks[-1]["overall"] == "PASS"]
    undecided = [depth for depth, looks in sorted(rows.items()) if looks[-1]["overall"] == "INCONCLUSIVE"]
    return sorted([*passed, *undecided[::-1]][:count] or [max(rows)], reverse=True)
