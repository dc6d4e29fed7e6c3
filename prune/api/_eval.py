"""`prune.eval`: test a model against its original, and judge it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from pydantic import Field

from evals.settings import BackendSettings, EvalSettings, Names
from prune.api._inputs import DryRun, load_suites
from prune.errors import UsageError
from prune.files import refuse_non_empty, staged_directory
from prune.model.settings import ModelSettings
from prune.settings import Seeded, fields_of, takes, validated

if TYPE_CHECKING:
    from evals.evidence import Evidence
    from evals.harness import Results
    from evals.suite import Suite
    from prune.checkpoint.source import Source

log = logging.getLogger("prune")


class EvalArguments(BackendSettings, ModelSettings, Seeded, EvalSettings):
    """Everything that `prune eval` can be told beside the models and the output."""

    suite: Names = Field([], description="Names of built-in suites, or YAML files, with commas.")
    tasks: Names = Field(
        [], description="lm-eval tasks, with commas; with suite, only these of its tasks; others form a suite `tasks`."
    )


@overload
def eval(
    model: str,
    output: str | Path,
    *,
    baseline: str,
    progress: bool = False,
    dry_run: Literal[False] = False,
    **settings: Any,
) -> Evidence: ...


@overload
def eval(
    model: str, output: str | Path, *, baseline: str, dry_run: Literal[True], progress: bool = False, **settings: Any
) -> DryRun: ...


@takes(EvalArguments)
def eval(
    model: str,
    output: str | Path,
    *,
    baseline: str,
    progress: bool = False,
    dry_run: bool = False,
    **settings: Any,
) -> Evidence | DryRun:
    """Test a model against its original on the same items, and judge it.

    A run that was killed goes on where it stopped when it is started again with the same arguments: finished tasks and
    finished batches lie in a hidden folder beside `output`, by the models' fingerprints, until `output` is complete.

    Args:
        model, baseline: candidate and original; directories or hub ids.
        output: new directory for evidence.json and samples.
        progress: show progress bars.
        dry_run: check the input and return the tasks, notes on their data, and what the gate can decide.

    Returns:
        The evidence: figures per suite and task, and the verdict `overall`.

    Raises:
        UsageError, PruneError, evals.errors.EvalError: bad input.
    """
    from evals.backend import check_backend, is_first_process
    from evals.power import power_checks
    from evals.suite_choice import check_tasks, choose_suites
    from prune.checkpoint.source import resolve_all
    from prune.packaging.manifest import weights_sha256

    target = Path(output)
    refuse_non_empty(target)
    asked = validated(EvalArguments, settings)
    if not asked.suite and not asked.tasks:
        raise UsageError("--suite or --tasks is missing: name what to test on")
    named = load_suites(asked.suite, asked.size)
    check_backend(asked.backend)
    sources = resolve_all({"baseline": baseline, "model": model}, **fields_of(ModelSettings, asked))
    suites = choose_suites(named, asked.tasks, asked.folders, asked.num_fewshot)
    notes = check_tasks(suites, asked.folders, asked.replacements, asked.confirm_run_unsafe_code)
    power = power_checks(suites, asked.limit)
    if dry_run:
        planned = {s.name: [t.key for t in s.tasks] for s in suites}
        return DryRun(suites=planned, notes=notes, gate_power=[check.message for check in power])
    for note in [*notes, *(check.message for check in power if not check.decides)]:
        log.warning("%s", note)
    unfinished = target.with_name(f".{target.name}.unfinished")
    options = {
        **asked.options(),
        **fields_of(BackendSettings, asked),
        "seed": asked.seed,
        "cache_dir": unfinished,
        "progress": progress,
    }
    results = {}
    for name, source in sources.items():
        results[name] = _score(source, suites, options)
        source.require_unchanged()
        for task, reason in results[name].failures.items():
            log.warning("%s on %s: %s", task, name, reason)
    for note in results["baseline"].notes.values():
        if not any(note in told for told in notes):
            log.warning("%s", note)
    if not is_first_process():
        return DryRun(suites={}, notes=[], gate_power=[])
    evidence = _judge(results, suites, asked.alpha, asked.seed)
    evidence.original_model, evidence.candidate_model = baseline, model
    evidence.candidate_sha256 = weights_sha256(sources["model"].directory)
    _save(evidence, results, target)
    shutil.rmtree(unfinished, ignore_errors=True)
    return evidence


def _score(source: Source, suites: Sequence[Suite], options: Mapping[str, Any]) -> Results:
    """One model on every task of the suites; the model is freed on return, before the other one is loaded."""
    from evals.harness import run_tasks
    from prune.model.loading import load_model, load_tokenizer

    in_process = options["backend"] == "hf"
    return run_tasks(
        load_model(source) if in_process else str(source.directory),
        load_tokenizer(source),
        [task for s in suites for task in s.tasks],
        **options,
    )


def _judge(results: Mapping[str, Results], suites: Sequence[Suite], alpha: float, seed: int) -> Evidence:
    from evals.errors import EvalError
    from evals.gate import judge
    from evals.suite_choice import with_measured_chance

    original, candidate = results["baseline"], results["model"]
    if not original.keys() & candidate.keys():
        reasons = {why for found in results.values() for why in found.failures.values()}
        raise EvalError(f"no task was finished on both models: {'; '.join(sorted(reasons))}")
    return judge(original, candidate, with_measured_chance(suites, original), alpha=alpha, seed=seed)


def _save(evidence: Evidence, results: Mapping[str, Results], target: Path) -> None:
    with staged_directory(target) as staging:
        for name, found in results.items():
            for result in found.values():
                result.save(staging / name)
        evidence.save(staging)
