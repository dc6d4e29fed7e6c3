"""The stage that exports the chosen candidate."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.packaging.saving import HEALING
from prune.runs.outputs import candidate_plan, read_costs
from prune.runs.verdict import override_reasons, recommend
from prune.wording.text import english

if TYPE_CHECKING:
    from evals.evidence import Evidence
    from prune.runs.following import Directory
    from prune.runs.inputs import RunInputs
    from prune.runs.verdict import CandidateKey, Choice, ClassVerdict, DraftTrial


def export(
    inputs: RunInputs,
    run: Directory,
    choice: Choice,
    checkpoints: dict[CandidateKey, str],
    judged: dict[CandidateKey, Evidence],
    drafts: dict[str, DraftTrial],
) -> None:
    """Package the chosen candidate with its evidence, overrides and verdicts; nothing when nothing may ship."""
    if choice.key is None:
        return
    key = choice.key
    evidence = judged[key]
    costs = read_costs(inputs.root)
    cost = {"original": costs["original"], "candidate": costs[str(key.num_layers)]}
    if inputs.processes.first:
        evidence.model_copy(update={"cost": cost}).save(inputs.root / "evidence")
    overrides = [english(reason) for reason in override_reasons(choice, inputs.recipe.export.override, {})]
    healing = inputs.root / key.path / HEALING
    facts = {
        "source": inputs.recipe.model,
        "revision": inputs.source.revision,
        "source_sha256": inputs.source_hash,
        "label": choice.label,
        # What the scores took depends on what was cached, and is no fact about the checkpoint.
        "plan": candidate_plan(inputs.root, inputs.recipe, key).model_dump(exclude={"evaluations"}),
        "data": {name: d.describe() for name, d in inputs.domains.items()},
        "seed": inputs.recipe.seed,
        "healing": json.loads(healing.read_text(encoding="utf8")) if healing.is_file() else None,
        "overrides": overrides[:-1],
        "task_classes": [_task_class(recommend(judged, suite.name, drafts)) for suite in evidence.suites],
        "drafts": _draft_facts(drafts),
    }

    def work(staging: Path) -> None:
        from prune.packaging.export import export_checkpoint

        staging.rmdir()
        export_checkpoint(
            inputs.root / key.path,
            staging,
            evidence=evidence,
            facts=facts,
            override=overrides[-1] if overrides else None,
            max_shard_size=inputs.recipe.export.max_shard_size,
        )

    depends_on = {
        "checkpoint": checkpoints[key],
        "evidence": evidence.model_dump(mode="json", exclude={"samples"}),
        "facts": facts,
        "shards": inputs.recipe.export.max_shard_size,
    }
    run.stage("export", "export", depends_on, work)


def _task_class(found: ClassVerdict) -> dict[str, Any]:
    """One task class's verdict for the manifest."""
    key = None if found.key is None else {"num_layers": found.key.num_layers, "stage": found.key.stage}
    return {
        "suite": found.suite, "recommendation": found.recommendation, "key": key, "reason": english(found.reason),
    }  # fmt: skip


def _draft_facts(drafts: Mapping[str, DraftTrial]) -> dict[str, Any] | None:
    """For manifest and card: which candidate was the draft, and the figures by suite."""
    if not drafts:
        return None
    key = next(iter(drafts.values())).key
    rows = {name: trial.result.to_dict() for name, trial in drafts.items()}
    return {"num_layers": key.num_layers, "stage": key.stage, "suites": rows}
