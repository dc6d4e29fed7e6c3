"""The stages that test the original and every candidate, and judge them: `evidence/NAME/`, then `evidence/gate/`."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.files import sha256_tree
from prune.model.loading import load_model
from prune.packaging.manifest import weights_sha256
from prune.runs.stages.testing import run_suites

if TYPE_CHECKING:
    from evals.evidence import Evidence
    from prune.runs.directory import RunDirectory
    from prune.runs.pipeline import Pipeline
    from prune.runs.verdict import CandidateKey

log = logging.getLogger("prune")

UNFINISHED_ANSWERS = ".answers"
"""Finished tasks and batches of an evaluation that is still running; gone when the gate has judged."""


def judge_candidates(
    pipeline: Pipeline, run: RunDirectory, checkpoints: dict[CandidateKey, str], versions: dict[str, str]
) -> dict[CandidateKey, Evidence]:
    """Run every task on the original and on every candidate as it lies on disk; the gate's evidence of each.

    Args:
        checkpoints: candidate -> hash of its directory.
    """
    from evals.evidence import Evidence
    from evals.gate import judge
    from evals.records import load_results

    options = pipeline.recipe.eval
    tasks = {
        "suites": [s.model_dump() for s in pipeline.suites],
        "definitions": {Path(p).name: sha256_tree(Path(p)) for p in options.include_path},
        "local_data": sha256_tree(Path(options.local_data)) if options.local_data else None,
        "limit": options.limit,
        "chat": options.apply_chat_template,
        "gen_kwargs": options.gen_kwargs,
        "seed": pipeline.recipe.seed,
        "versions": versions,
    }
    source = {"model": pipeline.source_hash, **tasks}
    hashes = {"original": _evaluate(pipeline, run, "original", pipeline.source, source)}
    for key, digest in checkpoints.items():
        directory = str(pipeline.root / key.path)
        hashes[str(key)] = _evaluate(pipeline, run, str(key), directory, {"model": digest, **tasks})

    def work(staging: Path) -> None:
        original = load_results(pipeline.root / "evidence" / "original")
        for key in checkpoints:
            evidence = judge(
                original,
                load_results(pipeline.root / "evidence" / str(key)),
                pipeline.suites,
                alpha=options.alpha,
                seed=pipeline.recipe.seed,
            )
            evidence.original_model, evidence.candidate_model = pipeline.recipe.model, str(key)
            evidence.candidate_sha256 = weights_sha256(pipeline.root / key.path)
            evidence.save(staging / str(key))

    gate = {"results": hashes, "suites": tasks["suites"], "alpha": options.alpha, "seed": pipeline.recipe.seed}
    run.stage("gate", "evidence/gate", gate, work)
    shutil.rmtree(pipeline.root / UNFINISHED_ANSWERS, ignore_errors=True)
    return {key: Evidence.load(pipeline.root / "evidence" / "gate" / str(key)) for key in checkpoints}


def _evaluate(pipeline: Pipeline, run: RunDirectory, name: str, directory: str, inputs: dict[str, Any]) -> str:
    def work(staging: Path) -> None:
        model = pipeline.original if name == "original" else load_model(directory, dtype=pipeline.recipe.dtype)
        limit, unfinished = pipeline.recipe.eval.limit, pipeline.root / UNFINISHED_ANSWERS
        results = run_suites(pipeline, model, pipeline.suites, limit=limit, cache_dir=unfinished)
        for failed, reason in results.failures.items():
            log.warning("%s on %s: %s", failed, name, reason)
        if name == "original":
            for note in results.notes.values():
                log.warning("%s", note)
        for result in results.values():
            result.save(staging)

    return run.stage(f"eval-{name}", f"evidence/{name}", inputs, work)
