"""`prune.eval`: test a model against its original, and judge it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.api._inputs import load_suites
from prune.errors import UsageError
from prune.files import refuse_non_empty, staged_directory

if TYPE_CHECKING:
    from evals.evidence import Evidence
    from evals.harness import Results
    from evals.suite import Suite
    from prune.checkpoint.source import Source

log = logging.getLogger("prune")


def eval(
    model: str,
    output: str | Path,
    *,
    baseline: str,
    suite: Sequence[str] = (),
    tasks: Sequence[str] = (),
    size: str = "full",
    num_fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int | str = 32,
    gen_kwargs: Mapping[str, Any] | None = None,
    apply_chat_template: bool = False,
    fewshot_as_multiturn: bool | None = None,
    system_instruction: str | None = None,
    include_path: Sequence[str] = (),
    local_data: str | None = None,
    log_samples: bool = False,
    seed: int = 0,
    dtype: str = "float32",
    alpha: float = 0.05,
    revision: str | None = None,
    trust_remote_code: bool = False,
    allow_links: bool = False,
    confirm_run_unsafe_code: bool = False,
    backend: str = "hf",
    model_args: Mapping[str, Any] | None = None,
    progress: bool = False,
    dry_run: bool = False,
) -> Evidence | dict[str, Any]:
    """Test a model against its original on the same items, and judge it.

    A run that was killed goes on where it stopped when it is started again with the same arguments: finished tasks and
    finished batches lie in a hidden folder beside `output`, by the models' fingerprints, until `output` is complete.

    Args:
        model, baseline: candidate and original; directories or hub ids.
        output: new directory for evidence.json and samples.
        suite: names of built-in suites, or YAML files.
        tasks: lm-eval task names; with `suite`, only these of its tasks; others form a suite named `tasks`.
        size: `quick` or `full`, as the suites define them.
        num_fewshot: examples in every prompt; the suite's or task's own when None.
        limit: items per task; wins over `size`.
        batch_size: sequences at a time, or "auto".
        gen_kwargs: generation settings that win over the task's.
        local_data: folder of data files that replace the hub (see evals/local_data/README.md).
        apply_chat_template, fewshot_as_multiturn, system_instruction: how lm-eval words a prompt; examples become turns
            of the conversation with a chat template, unless told otherwise.
        include_path: folders with lm-eval task files of your own; they may run Python.
        seed: of few-shot choices and of the bootstrap.
        dtype: of the computation: `auto`, `float32`, `bfloat16` or `float16`.
        alpha: error rate of the gate over all suites.
        revision: of every hub id that does not name its own (`org/name@revision`).
        trust_remote_code, allow_links: see `prune.checkpoint.source.Source`.
        confirm_run_unsafe_code: allow tasks that run generated code.
        log_samples: keep documents and prompts too, not only hashes, answers and scores.
        backend, model_args: `vllm` and its options, where it is installed; `hf` runs the model in this process.
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
    if not suite and not tasks:
        raise UsageError("--suite or --tasks is missing: name what to test on")
    named = load_suites(suite, size)
    check_backend(backend)
    sources = resolve_all(
        {"baseline": baseline, "model": model}, revision=revision, dtype=dtype, trust_remote_code=trust_remote_code,
        allow_links=allow_links,
    )  # fmt: skip
    folders = [Path(p) for p in include_path]
    data = Path(local_data) if local_data else None
    suites = choose_suites(named, tasks, folders, num_fewshot)
    notes = check_tasks(suites, folders, data, confirm_run_unsafe_code)
    power = power_checks(suites, limit)
    if dry_run:
        planned = {s.name: [t.key for t in s.tasks] for s in suites}
        return {"suites": planned, "notes": notes, "gate_power": [check.message for check in power]}
    for note in [*notes, *(check.message for check in power if not check.decides)]:
        log.warning("%s", note)
    unfinished = target.with_name(f".{target.name}.unfinished")
    options = {
        "include_path": folders,
        "local_data": data,
        "limit": limit,
        "batch_size": batch_size,
        "seed": seed,
        "cache_dir": unfinished,
        "progress": progress,
        "apply_chat_template": apply_chat_template,
        "fewshot_as_multiturn": fewshot_as_multiturn,
        "system_instruction": system_instruction,
        "gen_kwargs": gen_kwargs,
        "log_samples": log_samples,
        "confirm_run_unsafe_code": confirm_run_unsafe_code,
        "backend": backend,
        "model_args": model_args,
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
        return {"suites": {}, "notes": [], "gate_power": []}
    evidence = _judge(results, suites, alpha, seed)
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
