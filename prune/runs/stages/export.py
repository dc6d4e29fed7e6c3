"""The stage that exports the chosen candidate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.packaging.saving import HEALING
from prune.runs.stages.draft import draft_facts
from prune.runs.stages.heal import candidate_plan
from prune.runs.verdict import override_reasons, recommend
from prune.wording.text import english

if TYPE_CHECKING:
    from evals.evidence import Evidence
    from prune.runs.directory import RunDirectory
    from prune.runs.pipeline import Pipeline
    from prune.runs.verdict import CandidateKey, Choice, ClassVerdict, DraftTrial


def export(
    pipeline: Pipeline,
    run: RunDirectory,
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
    evidence.save(pipeline.root / "evidence")
    overrides = [english(reason) for reason in override_reasons(choice, pipeline.recipe.export.override, {})]
    healing = pipeline.root / key.path / HEALING
    facts = {
        "source": pipeline.recipe.model,
        "revision": pipeline.recipe.revision,
        "source_sha256": pipeline.source_hash,
        "label": choice.label,
        # What the scores took depends on what was cached, and is no fact about the checkpoint.
        "plan": candidate_plan(pipeline.root, pipeline.recipe, key).model_dump(exclude={"evaluations"}),
        "data": {name: d.describe() for name, d in pipeline.domains.items()},
        "seed": pipeline.recipe.seed,
        "healing": json.loads(healing.read_text(encoding="utf8")) if healing.is_file() else None,
        "overrides": overrides[:-1],
        "task_classes": [_task_class(recommend(judged, suite.name, drafts)) for suite in evidence.suites],
        "drafts": draft_facts(drafts),
    }

    def work(staging: Path) -> None:
        from prune.packaging.export import export_checkpoint

        staging.rmdir()
        export_checkpoint(
            pipeline.root / key.path,
            staging,
            evidence=evidence,
            facts=facts,
            override=overrides[-1] if overrides else None,
            max_shard_size=pipeline.recipe.export.max_shard_size,
        )

    inputs = {
        "checkpoint": checkpoints[key],
        "evidence": evidence.model_dump(mode="json", exclude={"samples"}),
        "facts": facts,
        "shards": pipeline.recipe.export.max_shard_size,
    }
    run.stage("export", "export", inputs, work)


def _task_class(found: ClassVerdict) -> dict[str, Any]:
    """One task class's verdict for the manifest."""
    key = None if found.key is None else {"num_layers": found.key.num_layers, "stage": found.key.stage}
    return {
        "suite": found.suite, "recommendation": found.recommendation, "key": key, "reason": english(found.reason),
    }  # fmt: skip
