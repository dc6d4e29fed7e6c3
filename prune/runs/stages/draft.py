"""The stages that look for a lossless way out, where no candidate passes: a draft is made, if asked for, and tried.

`draft-train` writes a pair as `prune draft` does, into `draft/`. `draft` reads the gate's answers, tries that or the
shallowest candidate on the prompts of the suites with `evals.speculative`, and writes `evidence/drafts.json`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from prune.drafting import RECORD
from prune.drafting.settings import DraftSettings
from prune.errors import UsageError, nearest
from prune.files import sha256_json, write_json
from prune.model.loading import load_config
from prune.runs.outputs import DRAFTS, read_drafts
from prune.runs.stages.testing import files_read, scoring_inputs
from prune.runs.verdict import DRAFT, CandidateKey
from prune.settings import fields_of

if TYPE_CHECKING:
    from evals.evidence import Evidence
    from prune.runs.following import Directory
    from prune.runs.inputs import RunInputs
    from prune.runs.recipe import DraftTraining
    from prune.runs.verdict import DraftTrial


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
    tokens = options.num_assistant_tokens
    if options.train is not None:
        checkpoint = train_draft(inputs, run, options.train)
        made = json.loads((inputs.root / DRAFT / RECORD).read_text(encoding="utf8"))
        key, tokens = CandidateKey(made["num_layers"], "trained"), made["num_assistant_tokens"]
    else:
        key = min(checkpoints, key=lambda k: (k.num_layers, k.stage != "healed"))
        checkpoint = checkpoints[key]

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
                    num_assistant_tokens=tokens,
                ).to_dict()
        write_json(target, {"num_layers": key.num_layers, "stage": key.stage, "suites": rows})
        return files_read(inputs)

    depends_on = {
        "original": inputs.source_hash,
        "draft": checkpoint,
        **scoring_inputs(inputs, [s for s in inputs.suites if s.name in wanted]),
        "options": options.model_dump(exclude={"train"}),
    }
    run.stage("draft", DRAFTS, depends_on, work)
    return read_drafts(inputs.root, wanted)


def train_draft(inputs: RunInputs, run: Directory, options: DraftTraining) -> str:
    """The stage `draft-train`: the hash of `draft/`, a checkpoint with `draft.json` and a card.

    Raises:
        UsageError, PruneError: see `prune.draft`.
    """
    from prune.drafting.reading import draft_prompts

    settings = DraftSettings(**fields_of(DraftSettings, options))
    prompts = {
        name: draft_prompts(name, path, inputs.tokenizer, settings, load_config(inputs.source))
        for name, path in options.prompts.items()
    }

    def work(staging: Path) -> None:
        from prune.drafting.pair import make_pair, write_pair

        working = inputs.root / "work" / "draft-train"
        working.mkdir(parents=True, exist_ok=True)
        pair = make_pair(
            inputs.original,
            inputs.tokenizer,
            prompts,
            settings,
            pad_token_id=inputs.pad,
            identity=f"{inputs.source_hash}/{inputs.original.dtype}",
            directory=working,
            source=inputs.source,
        )
        pair.facts |= {"source": inputs.source.label, "revision": inputs.source.revision}
        pair.facts["source_sha256"] = inputs.source_hash
        staging.rmdir()
        write_pair(pair, staging)

    depends_on = {
        "original": inputs.source_hash,
        "prompts": {name: sha256_json([p.input_ids for p in members]) for name, members in prompts.items()},
        "settings": settings.model_dump(exclude={"save_steps"}),
        **inputs.arithmetic,
        "versions": inputs.versions,
    }
    found = run.stage("draft-train", DRAFT, depends_on, work)
    shutil.rmtree(inputs.root / "work" / "draft-train", ignore_errors=True)
    return found
