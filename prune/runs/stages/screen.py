"""The screening stage: many depths judged on cheap tasks as they were cut, so that only a few are healed.

Reads cut checkpoints, judges them in looks with `evals.sequential`, and writes `evidence/screen.json`. Assumption: the
floor of the screen is far below the gate's, since healing comes after it; it sorts out depths that are beyond repair.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.files import sha256_tree, write_json
from prune.model.loading import load_model
from prune.runs.stages.testing import run_suites
from prune.wording import Message, message
from prune.wording.message import ends

if TYPE_CHECKING:
    from evals.evidence import Evidence
    from evals.harness import Results
    from evals.suite import Suite
    from prune.runs.directory import RunDirectory
    from prune.runs.pipeline import Pipeline

SCREEN = "evidence/screen.json"
log = logging.getLogger("prune")


def screen_depths(
    pipeline: Pipeline, run: RunDirectory, checkpoints: Mapping[int, str], versions: Mapping[str, str]
) -> list[int]:
    """The depths that go on to healing and the gate; all of them where the recipe has no screen.

    Args:
        checkpoints: depth -> hash of its cut checkpoint.
    """
    options = pipeline.recipe.screen
    if options is None:
        return list(checkpoints)
    suites = pipeline.screen_suites

    def work(target: Path) -> None:
        original = _scorer(pipeline, None, suites)
        rows = {depth: _judged(pipeline, depth, original, suites) for depth in sorted(checkpoints)}
        write_json(target, {"confirmed": _confirmed(rows, options.confirm), "floor": options.floor, "depths": rows})

    inputs = {
        "model": pipeline.source_hash,
        "checkpoints": {str(depth): digest for depth, digest in checkpoints.items()},
        "suites": [s.model_dump() for s in suites],
        "definitions": {Path(p).name: sha256_tree(Path(p)) for p in pipeline.recipe.eval.include_path},
        "options": options.model_dump(),
        "alpha": pipeline.recipe.eval.alpha,
        "seed": pipeline.recipe.seed,
        "versions": dict(versions),
    }
    run.stage("screen", SCREEN, inputs, work)
    confirmed: list[int] = json.loads((pipeline.root / SCREEN).read_text(encoding="utf8"))["confirmed"]
    log.info("screen: %s layers go on", ", ".join(map(str, confirmed)))
    return confirmed


def _judged(pipeline: Pipeline, depth: int, original: Any, suites: list[Suite]) -> list[dict[str, Any]]:
    from evals.sequential import judge_in_looks

    options = pipeline.recipe.screen
    assert options is not None
    looks = judge_in_looks(
        original,
        _scorer(pipeline, depth, suites),
        suites,
        options.looks,
        alpha=pipeline.recipe.eval.alpha,
        seed=pipeline.recipe.seed,
    )
    return [{"items_per_task": items, **_row(evidence)} for items, evidence in looks]


def _row(evidence: Evidence) -> dict[str, Any]:
    keys = ("title", "titles", "n", "retention", "retention_lo", "retention_hi", "verdict")
    return {
        "overall": evidence.overall,
        "suites": {s.name: {key: getattr(s, key) for key in keys} for s in evidence.suites},
    }


def _scorer(pipeline: Pipeline, depth: int | None, suites: list[Suite]) -> Any:
    """Results of the original (None) or of a cut depth on the first so many items; each look is scored once."""
    directory = str(pipeline.root / f"pruned/{depth}")
    model = pipeline.original if depth is None else load_model(directory, dtype=pipeline.recipe.dtype)

    @cache
    def score(items: int) -> Results:
        return run_suites(pipeline, model, suites, limit=items)

    return score


def _confirmed(rows: Mapping[int, list[dict[str, Any]]], count: int) -> list[int]:
    """Up to `count` depths, deepest first: the shallowest that passed, then the deepest undecided; else the deepest."""
    passed = [depth for depth, looks in sorted(rows.items()) if looks[-1]["overall"] == "PASS"]
    undecided = [depth for depth, looks in sorted(rows.items()) if looks[-1]["overall"] == "INCONCLUSIVE"]
    return sorted([*passed, *undecided[::-1]][:count] or [max(rows)], reverse=True)


def screened_out(root: Path) -> list[Message]:
    """One message for each depth that did not go on, with the figures that decided; empty without a screen."""
    if not (root / SCREEN).is_file():
        return []
    found = json.loads((root / SCREEN).read_text(encoding="utf8"))
    lines = []
    for depth, looks in found["depths"].items():
        if int(depth) not in found["confirmed"]:
            last = looks[-1]
            lines.append(
                message(
                    "missing_screened",
                    layers=int(depth),
                    outcome=message(f"screen_{last['overall']}"),
                    items=last["items_per_task"],
                    floor=found["floor"],
                    suites=[_kept(row) for row in last["suites"].values()],
                )
            )
    return lines


def _kept(row: Mapping[str, Any]) -> Message:
    title = {"en": row["title"], **row.get("titles", {})}
    if row["retention"] is None:
        return message("screen_undefined", suite=title)
    return message(
        "screen_kept", suite=title, share=row["retention"], interval=ends(row["retention_lo"], row["retention_hi"])
    )
