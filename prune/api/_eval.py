"""`prune.eval`: test a model against its original, and judge it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.files import refuse_non_empty

if TYPE_CHECKING:
    from evals.evidence import Evidence


def eval(
    model: str,
    output: str | Path,
    *,
    baseline: str,
    suite: Sequence[str],
    limit: int | None = None,
    batch_size: int = 32,
    seed: int = 0,
    dtype: str = "float32",
    alpha: float = 0.05,
    include_path: Sequence[str] = (),
    progress: bool = False,
    dry_run: bool = False,
) -> Evidence | dict[str, Any]:
    """Test a model against its original on the same items, and judge it.

    Args:
        model, baseline: candidate and original; directories or hub ids.
        output: new directory for evidence.json and samples.
        suite: names of built-in suites, or YAML files.
        limit: items per task; all if None.

    Raises:
        UsageError, PruneError, evals.errors.EvalError: bad input.
    """
    from evals.errors import EvalError
    from evals.gate import judge, power_check
    from evals.harness import run_tasks
    from evals.suite import load_suite
    from prune.files import staged_directory
    from prune.model.loading import load_model, load_tokenizer
    from prune.pipeline import model_directory

    target = Path(output)
    refuse_non_empty(target)
    directories = {"baseline": model_directory(baseline), "model": model_directory(model)}
    suites = [load_suite(name) for name in suite]
    if dry_run:
        power = [power_check(s, limit, suites=len(suites)).message for s in suites] if limit else []
        return {"suites": {s.name: [t.key for t in s.tasks] for s in suites}, "gate_power": power}
    results = {}
    for name, directory in directories.items():
        results[name] = run_tasks(
            load_model(directory, dtype=dtype),
            load_tokenizer(directory),
            [task for s in suites for task in s.tasks],
            include_path=[Path(p) for p in include_path],
            limit=limit,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )
        if not results[name]:
            reasons = "; ".join(f"{task}: {why}" for task, why in results[name].failures.items())
            raise EvalError(f"no task could be run on {directory}: {reasons}")
    evidence = judge(results["baseline"], results["model"], suites, alpha=alpha, seed=seed)
    evidence.original_model, evidence.candidate_model = baseline, model
    with staged_directory(target) as staging:
        for name, found in results.items():
            for result in found.values():
                result.save(staging / name)
        evidence.save(staging)
    return evidence
