"""The stage that looks for a lossless way out: where no candidate passes, the shallowest one is tried as a draft.

Reads the gate's answers, measures with `evals.speculative`, and writes `evidence/drafts.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.errors import UsageError, nearest
from prune.files import write_json
from prune.model.loading import load_model
from prune.runs.verdict import CandidateKey, DraftTrial

if TYPE_CHECKING:
    from evals.evidence import Evidence
    from prune.runs.directory import RunDirectory
    from prune.runs.pipeline import Pipeline

DRAFTS = "evidence/drafts.json"


def try_drafts(
    pipeline: Pipeline,
    run: RunDirectory,
    checkpoints: Mapping[CandidateKey, str],
    judged: Mapping[CandidateKey, Evidence],
    versions: Mapping[str, str],
) -> dict[str, DraftTrial]:
    """Suite -> the trial, for the suites that no candidate passes and those that the recipe names.

    Args:
        checkpoints: candidate -> hash of its directory.
        judged: the gate's evidence.

    Raises:
        UsageError: the recipe names an unknown suite.
    """
    options = pipeline.recipe.draft
    names = [s.name for s in next(iter(judged.values())).suites]
    for name in options.suites:
        if name not in names:
            raise UsageError(f"draft.suites: unknown suite {nearest(name, names)}")
    failing = [name for name in names if all(e.suite(name).verdict != "PASS" for e in judged.values())]
    wanted = [name for name in names if name in failing or name in options.suites]
    if not options.enabled or not wanted:
        return {}
    key = min(checkpoints, key=lambda k: (k.num_layers, k.stage != "healed"))

    def work(target: Path) -> None:
        from evals.prompts import suite_prompts
        from evals.speculative import try_as_draft

        tests = pipeline.recipe.eval
        draft = load_model(str(pipeline.root / key.stage / str(key.num_layers)), dtype=pipeline.recipe.dtype)
        context = getattr(pipeline.original.config.get_text_config(), "max_position_embeddings", None)
        rows = {}
        for suite in pipeline.suites:
            if suite.name in wanted:
                prompts = suite_prompts(
                    suite.tasks,
                    pipeline.tokenizer,
                    count=options.prompts,
                    include_path=[Path(p) for p in tests.include_path],
                    local_data=Path(tests.local_data) if tests.local_data else None,
                    seed=pipeline.recipe.seed,
                    max_tokens=context - options.max_new_tokens if context else None,
                )
                rows[suite.name] = try_as_draft(
                    pipeline.original,
                    draft,
                    prompts,
                    max_new_tokens=options.max_new_tokens,
                    num_assistant_tokens=options.num_assistant_tokens,
                ).to_dict()
        write_json(target, {"num_layers": key.num_layers, "stage": key.stage, "suites": rows})

    inputs = {
        "original": pipeline.source_hash,
        "draft": checkpoints[key],
        "suites": [s.model_dump() for s in pipeline.suites if s.name in wanted],
        "options": options.model_dump(),
        "seed": pipeline.recipe.seed,
        "versions": dict(versions),
    }
    run.stage("draft", DRAFTS, inputs, work)
    return read_drafts(pipeline.root, wanted)


def draft_facts(drafts: Mapping[str, DraftTrial]) -> dict[str, Any] | None:
    """For manifest and card: which candidate was the draft, and the figures by suite."""
    if not drafts:
        return None
    key = next(iter(drafts.values())).key
    rows = {name: trial.result.to_dict() for name, trial in drafts.items()}
    return {"num_layers": key.num_layers, "stage": key.stage, "suites": rows}


def read_drafts(root: Path, suites: list[str]) -> dict[str, DraftTrial]:
    """The trials of a run, of those suites; empty when there were none."""
    from evals.speculative import DraftResult

    if not (root / DRAFTS).is_file():
        return {}
    values: dict[str, Any] = json.loads((root / DRAFTS).read_text(encoding="utf8"))
    key = CandidateKey(values["num_layers"], values["stage"])
    rows = {name: row for name, row in values["suites"].items() if name in suites}
    return {name: DraftTrial(key, DraftResult.from_dict(row)) for name, row in rows.items()}
