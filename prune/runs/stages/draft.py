"""The stage that looks for a lossless way out: where no candidate passes, the shallowest one is tried as a draft.

Reads the gate's answers, measures with `evals.speculative`, and writes `evidence/drafts.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from prune.errors import UsageError, nearest
from prune.files import write_json
from prune.runs.outputs import DRAFTS, read_drafts
from prune.runs.stages.testing import files_read, scoring_inputs

if TYPE_CHECKING:
    from evals.evidence import Evidence
    from prune.runs.following import Directory
    from prune.runs.inputs import RunInputs
    from prune.runs.verdict import CandidateKey, DraftTrial


def try_drafts(
    inputs: RunInputs,
    run: Directory,
    checkpoints: Mapping[CandidateKey, str],
    judged: Mapping[CandidateKey, Evidence],
) -> dict[str, DraftTrial]:
    """Suite -> the trial, for the suites that no candidate passes and those that the recipe names.

    Args:
        checkpoints: candidate -> hash of its directory.
        judged: the gate's evidence.

    Raises:
        UsageError: the recipe names an unknown suite.
    """
    options = inputs.recipe.draft
    names = [s.name for s in next(iter(judged.values())).suites]
    for name in options.suites:
        if name not in names:
            raise UsageError(f"draft.suites: unknown suite {nearest(name, names)}")
    failing = [name for name in names if all(e.suite(name).verdict != "PASS" for e in judged.values())]
    wanted = [name for name in names if name in failing or name in options.suites]
    if not options.enabled or not wanted:
        return {}
    key = min(checkpoints, key=lambda k: (k.num_layers, k.stage != "healed"))

    def work(target: Path) -> dict[str, str]:
        from evals.prompts import suite_prompts
        from evals.speculative import try_as_draft

        tests = inputs.recipe.eval
        draft = inputs.candidate(inputs.root / key.path)
        context = getattr(inputs.original.config.get_text_config(), "max_position_embeddings", None)
        rows = {}
        for suite in inputs.suites:
            if suite.name in wanted:
                prompts = suite_prompts(
                    suite.tasks,
                    inputs.tokenizer,
                    count=options.prompts,
                    include_path=[Path(p) for p in tests.include_path],
                    local_data=Path(tests.local_data) if tests.local_data else None,
                    seed=inputs.recipe.seed,
                    max_tokens=context - options.max_new_tokens if context else None,
                )
                rows[suite.name] = try_as_draft(
                    inputs.original,
                    draft,
                    prompts,
                    max_new_tokens=options.max_new_tokens,
                    num_assistant_tokens=options.num_assistant_tokens,
                ).to_dict()
        write_json(target, {"num_layers": key.num_layers, "stage": key.stage, "suites": rows})
        return files_read(inputs)

    depends_on = {
        "original": inputs.source_hash,
        "draft": checkpoints[key],
        **scoring_inputs(inputs, [s for s in inputs.suites if s.name in wanted]),
        "options": options.model_dump(),
    }
    run.stage("draft", DRAFTS, depends_on, work)
    return read_drafts(inputs.root, wanted)
