"""Every test of a run goes through here: the recipe's `eval` section, applied to one model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evals.harness import Results
    from evals.suite import Suite
    from prune.runs.inputs import RunInputs


def run_suites(
    inputs: RunInputs, model: Any, suites: Sequence[Suite], *, limit: int | None, cache_dir: Path | None = None
) -> Results:
    """Every task of the suites on one loaded model; see `evals.harness.run_tasks` for errors."""
    from evals.harness import run_tasks

    options = inputs.recipe.eval
    return run_tasks(
        model,
        inputs.tokenizer,
        [task for suite in suites for task in suite.tasks],
        include_path=[Path(p) for p in options.include_path],
        local_data=Path(options.local_data) if options.local_data else None,
        limit=limit,
        batch_size=options.batch_size,
        apply_chat_template=options.apply_chat_template,
        gen_kwargs=options.gen_kwargs,
        confirm_run_unsafe_code=options.confirm_run_unsafe_code,
        seed=inputs.recipe.seed,
        cache_dir=cache_dir,
        progress=inputs.progress,
    )
