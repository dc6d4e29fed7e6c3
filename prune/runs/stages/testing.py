"""Every test of a run goes through here: the recipe's `eval` section, applied to one model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.errors import PruneError

if TYPE_CHECKING:
    from evals.harness import Results
    from evals.suite import Suite
    from prune.runs.inputs import RunInputs


def run_suites(
    inputs: RunInputs, model: Any, suites: Sequence[Suite], *, limit: int | None, cache_dir: Path | None = None
) -> Results:
    """Every task of the suites on one loaded model; see `evals.harness.run_tasks` for errors."""
    from evals.harness import run_tasks

    return run_tasks(
        model,
        inputs.tokenizer,
        [task for suite in suites for task in suite.tasks],
        **{**inputs.recipe.eval.options(), "limit": limit},
        seed=inputs.recipe.seed,
        cache_dir=cache_dir,
        progress=inputs.progress,
    )


def require_all(results: Results, name: str) -> None:
    """A stage in which a task failed is not done: it would stand as its result for good.

    Args:
        results: of one model on every task.
        name: what messages call the model.

    Raises:
        PruneError: naming the tasks and why; finished ones are kept for the resumed run.
    """
    if not results.failures:
        return
    reasons = "; ".join(f"{task}: {reason}" for task, reason in results.failures.items())
    kept = f"; the other {len(results)} finished and are kept" if results else ""
    raise PruneError(
        f"testing {name} is not done{kept}: {reasons}; mend that, or take the task out of the recipe, and --resume"
    )
