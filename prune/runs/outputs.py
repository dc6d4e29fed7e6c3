"""What the stages of a run left behind, read back from its directory: plans, the gate's evidence, screen and drafts.

The names of those files stand here once, for the stages that write them and for the report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.drafting import RECORD
from prune.planning.plan import Plan
from prune.runs.recipe import Recipe
from prune.runs.verdict import DRAFT, CandidateKey, DraftTrial
from prune.wording import Message, message
from prune.wording.message import ends

if TYPE_CHECKING:
    from evals.evidence import Evidence

SCORES = "scores.sqlite"
"""Scores of layer subsets below the run directory: a killed or repeated search makes none twice."""
SCREEN = "evidence/screen.json"
DRAFTS = "evidence/drafts.json"
COSTS = "evidence/cost.json"


def round_path(depth: int, number: int) -> str:
    """Directory of one round of cutting and healing on the way to a depth."""
    return f"rounds/{depth}/{number}"


def candidate_plan(root: Path, recipe: Recipe, key: CandidateKey) -> Plan:
    """Which layers of the source a candidate has; after several rounds the healed one may keep others."""
    if key.stage == "healed" and recipe.heal.rounds > 1:
        return Plan.load(root / round_path(key.num_layers, recipe.heal.rounds) / "plan.json")
    return Plan.load(root / "plans" / f"{key.num_layers}.json")


def read_judged(root: Path) -> dict[CandidateKey, Evidence]:
    """The gate's evidence of every candidate of a run, deepest first."""
    from evals.evidence import Evidence

    found: dict[CandidateKey, Evidence] = {}
    for directory in (root / "evidence" / "gate").iterdir():
        stage, _, depth = directory.name.partition("-")
        found[CandidateKey(int(depth), stage)] = Evidence.load(directory)  # type: ignore[arg-type]
    return dict(sorted(found.items(), key=lambda item: (-item[0].num_layers, item[0].stage != "pruned")))


def read_drafts(root: Path, suites: Sequence[str]) -> dict[str, DraftTrial]:
    """The trials of a run, of those suites; empty when there were none."""
    from evals.speculative import DraftResult

    if not (root / DRAFTS).is_file():
        return {}
    values: dict[str, Any] = json.loads((root / DRAFTS).read_text(encoding="utf8"))
    key = CandidateKey(values["num_layers"], values["stage"])
    rows = {name: row for name, row in values["suites"].items() if name in suites}
    return {name: DraftTrial(key, DraftResult.from_dict(row)) for name, row in rows.items()}


def read_draft(root: Path) -> dict[str, Any] | None:
    """What a run's own draft is and was measured to do; None where the run made none."""
    path = root / DRAFT / RECORD
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
    return found


def read_costs(root: Path) -> dict[str, dict[str, Any]]:
    """Size and speed by `original` or number of layers; healing changes neither."""
    found: dict[str, dict[str, Any]] = json.loads((root / COSTS).read_text(encoding="utf8"))
    return found


def read_confirmed(root: Path) -> list[int]:
    """The depths that went on after the screen, deepest first."""
    found: list[int] = json.loads((root / SCREEN).read_text(encoding="utf8"))["confirmed"]
    return found


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
