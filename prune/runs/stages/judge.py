"""The stages that test the original and every candidate, and judge them: `evidence/NAME/`, then `evidence/gate/`."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.packaging.manifest import weights_sha256
from prune.runs.stages.testing import files_read, require_all, run_suites, scoring_inputs

if TYPE_CHECKING:
    from evals.evidence import Evidence
    from prune.runs.following import Directory
    from prune.runs.inputs import RunInputs
    from prune.runs.verdict import CandidateKey

log = logging.getLogger("prune")

UNFINISHED_ANSWERS = ".answers"
"""Finished tasks and batches of an evaluation that is still running; gone when the gate has judged."""


def judge_candidates(
    inputs: RunInputs, run: Directory, checkpoints: dict[CandidateKey, str]
) -> dict[CandidateKey, Evidence]:
    """Run every task on the original and on every candidate as it lies on disk; the gate's evidence of each.

    Args:
        checkpoints: candidate -> hash of its directory.
    """
    from evals.evidence import Evidence
    from evals.gate import judge
    from evals.records import load_results

    options = inputs.recipe.eval
    tasks = scoring_inputs(inputs, inputs.suites)
    source = {"model": inputs.source_hash, **tasks}
    hashes = {"original": _evaluate(inputs, run, "original", inputs.source.directory, source)}
    for key, digest in checkpoints.items():
        directory = inputs.root / key.path
        hashes[str(key)] = _evaluate(inputs, run, str(key), directory, {"model": digest, **tasks})

    def work(staging: Path) -> None:
        original = load_results(inputs.root / "evidence" / "original")
        for key in checkpoints:
            evidence = judge(
                original,
                load_results(inputs.root / "evidence" / str(key)),
                inputs.suites,
                alpha=options.alpha,
                seed=inputs.recipe.seed,
            )
            evidence.original_model, evidence.candidate_model = inputs.recipe.model, str(key)
            evidence.candidate_sha256 = weights_sha256(inputs.root / key.path)
            evidence.save(staging / str(key))

    gate = {"results": hashes, "suites": tasks["suites"], "alpha": options.alpha, "seed": inputs.recipe.seed}
    run.stage("gate", "evidence/gate", gate, work)
    if inputs.processes.first:
        shutil.rmtree(inputs.root / UNFINISHED_ANSWERS, ignore_errors=True)
    return {key: Evidence.load(inputs.root / "evidence" / "gate" / str(key)) for key in checkpoints}


def _evaluate(inputs: RunInputs, run: Directory, name: str, directory: Path, depends_on: dict[str, Any]) -> str:
    def work(staging: Path) -> dict[str, str]:
        model = inputs.original if name == "original" else inputs.candidate(directory)
        limit, unfinished = inputs.recipe.eval.limit, inputs.root / UNFINISHED_ANSWERS
        results = run_suites(inputs, model, inputs.suites, limit=limit, cache_dir=unfinished)
        require_all(results, name)
        if name == "original":
            for note in results.notes.values():
                log.warning("%s", note)
        for result in results.values():
            result.save(staging)
        return files_read(inputs)

    return run.stage(f"eval-{name}", f"evidence/{name}", depends_on, work, shared=True)
