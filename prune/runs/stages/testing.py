"""Every test of a run goes through here: the recipe's `eval` section, applied to one model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.sealed import tree_hashes
from prune.errors import PruneError
from prune.files import sha256_json

if TYPE_CHECKING:
    from evals.harness import Results
    from evals.suite import Suite
    from prune.runs.inputs import RunInputs


def scoring_inputs(inputs: RunInputs, suites: Sequence[Suite]) -> dict[str, Any]:
    """Everything but the model that scores on these suites depend on and that is known before they are made.

    What tasks read elsewhere is known once they have read it: `files_read`. The batch size moves no more than the last
    bits, and a run that ran out of memory goes on with another.
    """
    options = inputs.recipe.eval
    apart = {"suites", "include_path", "local_data", "alpha", "size", "num_fewshot", "batch_size"}  # in `suites`, or no
    return {
        "suites": [suite.model_dump() for suite in suites],
        "definitions": [_tree(folder) for folder in options.folders],
        "local_data": options.replacements and _tree(options.replacements),
        "settings": options.model_dump(exclude=apart),
        **inputs.arithmetic,
        "seed": inputs.recipe.seed,
        "versions": inputs.versions,
    }


def files_read(inputs: RunInputs) -> dict[str, str]:
    """Path -> SHA-256 of what the recipe's tasks have read outside of their folders."""
    from evals.reads import files_read

    return files_read(inputs.recipe.eval.folders, inputs.recipe.eval.replacements)


def _tree(folder: Path) -> str:
    """Hash of a folder's files; what Python compiles there, when a task runs, is no change."""
    hashes = tree_hashes(folder) if folder.is_dir() else {}
    return sha256_json({name: digest for name, digest in hashes.items() if "__pycache__" not in name})


def run_suites(
    inputs: RunInputs, model: Any, suites: Sequence[Suite], *, limit: int | None, cache_dir: Path | None = None
) -> Results:
    """Every task of the suites on one loaded model; see `evals.harness.run_tasks` for errors."""
    from evals.harness import run_tasks

    results = run_tasks(
        model,
        inputs.tokenizer,
        [task for suite in suites for task in suite.tasks],
        **{**inputs.recipe.eval.options(), "limit": limit},
        seed=inputs.recipe.seed,
        cache_dir=cache_dir,
    )
    return inputs.processes.from_first(results)  # each of several processes has answered its share


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
