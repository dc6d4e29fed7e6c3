"""lm-eval on a model that is already in memory, one task at a time, item by item, with a cache that cannot lie.

Assumptions: tasks are lm-eval's (built-in, or YAML below an `include_path`, which may run Python: treat it as code);
the model is a causal `transformers` model with its tokenizer; a metric is a mean over items or one of lm-eval's
perplexities, which is checked against lm-eval's own figure on every run. Results are cached under a fingerprint of
weights, config, tokenizer and library versions, the task's definition, its documents and the settings: another model,
or another wording of the task, can never be answered from the cache.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.answers import RecordedModel
from evals.backend import check_backend, in_memory, is_first_process, served
from evals.chat import NotRendered, check_system
from evals.clusters import cluster_field
from evals.errors import EvalError, EvalUsageError
from evals.fingerprint import directory_fingerprint, fingerprint, tokenizer_fingerprint
from evals.finished import FinishedTasks, finished, keep
from evals.kept_pages import pages_kept
from evals.progress import stage
from evals.random_state import random_state_kept
from evals.reachable import is_unreachable
from evals.records import TaskResult
from evals.samples import task_result
from evals.silence import silenced
from evals.suite import TaskSpec
from evals.tasks import find_tasks

if TYPE_CHECKING:
    from lm_eval.api.task import ConfigurableTask


class Results(dict[str, TaskResult]):
    """Finished tasks by name; `failures` names those that failed, each with its reason in one line; `notes` says what
    the user must know about a task's data; `answered_by` is the program that ran the model, with its version."""

    def __init__(self) -> None:
        super().__init__()
        self.failures: dict[str, str] = {}
        self.notes: dict[str, str] = {}
        self.answered_by = ""

    @property
    def scores(self) -> dict[str, float]:
        """Each task's metric."""
        return {name: result.value for name, result in self.items()}


@random_state_kept()
@pages_kept()
def run_tasks(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[TaskSpec],
    *,
    include_path: Sequence[Path] = (),
    local_data: Path | None = None,
    limit: int | None = None,
    batch_size: int | str = "auto",
    seed: int = 0,
    max_length: int | None = None,
    cache_dir: Path | None = None,
    apply_chat_template: bool = False,
    fewshot_as_multiturn: bool | None = None,
    system_instruction: str | None = None,
    gen_kwargs: Mapping[str, Any] | None = None,
    log_samples: bool = False,
    confirm_run_unsafe_code: bool = False,
    backend: str = "hf",
    model_args: Mapping[str, Any] | None = None,
) -> Results:
    """Score a model on tasks, keeping every item.

    Args:
        model: causal `transformers` model (a PeftModel too), on its device; a path for another runtime.
        tokenizer: the model's; special tokens are added as it adds them.
        tasks: what to run; specs that read one task with the same settings share one run, equal ones one result.
        include_path: directories of lm-eval task YAML files; their names win over built-in ones.
        local_data: folder of data files that replace the hub for lm-eval's own tasks (see evals/local_data).
        limit: first N items of each task; wins over the specs' own.
        batch_size: sequences at a time, or "auto": as many as fit into memory (`fitted`).
        seed: of Python, numpy, torch and the few-shot choice, as lm-eval's `--seed`; the caller's own random state is
            left as it was.
        max_length: context in tokens; the model's own when None.
        cache_dir: finished tasks are kept there and re-used by the same model only.
        apply_chat_template: wrap prompts in the tokenizer's chat template.
        fewshot_as_multiturn: examples as turns of the conversation; as lm-eval, true with a chat template when None.
        system_instruction: put before every prompt.
        gen_kwargs: generation settings that win over the task's and the suite's.
        log_samples: keep each item's document and prompts too, not only their hashes.
        confirm_run_unsafe_code: allow tasks that run generated code; refused without it.
        backend: `hf`, or `vllm` (a directory) or `llama.cpp` (a GGUF file) where `scripts/runtime` installed it.
        model_args: options of another runtime: dtype, max_model_len, tensor_parallel_size, threads.

    Returns:
        One `TaskResult` a spec, under `spec.key`; tasks that failed are in `.failures`. With several processes
        (`accelerate launch`) the first has all of it, and the others have nothing.

    Raises:
        EvalUsageError: unknown task, a name used twice, no tasks, a chat template asked for but absent, vLLM asked for
            but not installed, or a task that runs generated code without leave to.
        EvalError: a cache file is damaged, or no task at all could be finished.
    """
    tasks = _distinct(tasks)
    multiturn = apply_chat_template if fewshot_as_multiturn is None else fewshot_as_multiturn
    _check_request(tasks, limit)
    check_prompting(tokenizer, apply_chat_template, multiturn, system_instruction)
    check_backend(backend)
    with silenced():
        found = find_tasks(tasks, include_path, local_data)
        if confirm_run_unsafe_code:
            os.environ["HF_ALLOW_CODE_EVAL"] = "1"  # the same consent, in the words of the metric's library
        else:
            found.refuse_unsafe_code()
        lm = (
            in_memory(model, tokenizer, batch_size, max_length)
            if backend == "hf"
            else served(backend, Path(model), tokenizer, batch_size, max_length, model_args)
        )
    settings = {
        "limit": limit,
        "seed": seed,
        "max_length": lm.max_length,
        "chat": apply_chat_template,
        "multiturn": multiturn,
        "system": system_instruction,
        "gen_kwargs": dict(gen_kwargs or {}),
        "log_samples": log_samples,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "unsafe": confirm_run_unsafe_code,
    }
    cache = FinishedTasks(cache_dir, _identity(model, tokenizer, backend, model_args)) if cache_dir else None
    results = Results()
    results.notes, results.answered_by = found.notes, lm.answered_by
    usage_errors = []
    runs = _shared_runs(tasks)
    for number, group in enumerate(runs, start=1):
        if reason := found.failures.get(group[0].task):
            results.failures.update({spec.key: reason for spec in group})
            continue
        try:
            with stage(f"task {number} of {len(runs)}", item=group[0].task), silenced() as lost:
                leaves = found.load(group[0], seed, gen_kwargs)
                scored = _score(lm, leaves, group, settings | {"limit": limit or group[0].limit}, cache)
            results.update(scored)
            for result in scored.values():
                _note(results, result, lost)
        except Exception as error:  # any task may fail in its own way; the others' hours must not be lost
            reason = _reason(group[0].task, error)
            results.failures.update({spec.key: reason for spec in group})
            usage_errors += [error] if isinstance(error, EvalUsageError) else []
    if not results and is_first_process():
        reasons = "; ".join(sorted(set(results.failures.values())))
        raise usage_errors[0] if usage_errors else EvalError(f"no task could be evaluated: {reasons}")
    return results


def _identity(model: Any, tokenizer: Any, backend: str, model_args: Mapping[str, Any] | None) -> str:
    """What the cache knows a model by: all that its answers depend on."""
    if backend == "hf":
        return fingerprint(model, tokenizer)
    return directory_fingerprint(Path(model), {"backend": backend, **(model_args or {})})


def _score(
    lm: RecordedModel,
    leaves: dict[str, ConfigurableTask],
    group: list[TaskSpec],
    settings: dict[str, Any],
    cache: FinishedTasks | None,
) -> dict[str, TaskResult]:
    """One run of one task: from the cache, or from the model, going on where an earlier run was killed."""
    for leaf, task in leaves.items():
        for spec in group:  # a wrong field is found before the model has worked for hours
            cluster_field(spec, leaf, next(iter(task.eval_docs)))
    entry = cache.entry(group, leaves, settings) if cache else None
    kept = finished(entry, group)
    if kept is not None:
        return kept
    answers = entry.with_name(f"{entry.name}.{lm.rank}.answers.jsonl") if entry else None
    with lm.task(answers):
        scored = _evaluate(lm, leaves, group, settings)
    if entry and scored:
        keep(entry, scored)
    lm.barrier()  # no process may look for the next task's results while they are being written
    if answers:
        answers.unlink(missing_ok=True)
    return scored


def _distinct(tasks: Sequence[TaskSpec]) -> list[TaskSpec]:
    """Specs that ask the same question under the same name, once: two suites may share a task."""
    return list({spec.model_dump_json(exclude={"chance", "report_only", "quick"}): spec for spec in tasks}.values())


def _note(results: Results, result: TaskResult, lost: Sequence[str]) -> None:
    """What the user must know about a finished task, beside its figures."""
    left_out = [f"left out of its prompts: {what}" for what in result.stats.get("left_out", ())]
    told = [results.notes.get(result.task), result.stats.get("looks_clustered"), *left_out, *lost]
    if notes := list(dict.fromkeys(filter(None, told))):
        results.notes[result.task] = "; ".join(notes)


def check_prompting(tokenizer: Any, chat: bool, multiturn: bool, system: str | None) -> None:
    """Refuse ways to prompt that this tokenizer does not have.

    Raises:
        EvalUsageError: no chat template, turns without one, or a template that takes no system message.
    """
    if chat and not getattr(tokenizer, "chat_template", None):
        raise EvalUsageError("apply_chat_template: this tokenizer has no chat template; leave the flag out")
    if multiturn and not chat:
        raise EvalUsageError("fewshot_as_multiturn: turns need a chat template; set apply_chat_template too")
    if chat and system:
        try:
            check_system(tokenizer, system)
        except NotRendered as error:
            raise EvalUsageError(
                f"system_instruction: {error}; leave it out, or put the instruction into the tasks' prompts"
            ) from None


def _check_request(tasks: Sequence[TaskSpec], limit: int | None) -> None:
    keys = [spec.key for spec in tasks]
    if not keys:
        raise EvalUsageError("no tasks to run; name at least one")
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise EvalUsageError(f"{', '.join(twice)}: two results under one name; give one of the tasks another `name`")
    if limit is not None and limit < 1:
        raise EvalUsageError(f"limit {limit}: at least one item a task is needed")


def _shared_runs(tasks: Sequence[TaskSpec]) -> list[list[TaskSpec]]:
    runs: dict[tuple[Any, ...], list[TaskSpec]] = {}
    for spec in tasks:
        runs.setdefault((spec.task, spec.num_fewshot, spec.max_gen_toks, spec.limit), []).append(spec)
    return list(runs.values())


def _evaluate(
    lm: RecordedModel, leaves: dict[str, ConfigurableTask], specs: list[TaskSpec], settings: dict[str, Any]
) -> dict[str, TaskResult]:
    import numpy as np
    import torch
    from lm_eval import evaluate

    started = time.perf_counter()
    random.seed(settings["seed"])
    np.random.seed(settings["seed"])
    torch.manual_seed(settings["seed"])
    # Not simple_evaluate: it spends ten seconds a call on a description of the machine.
    output = evaluate(
        lm,
        {"tasks": leaves, "groups": {}, "group_map": {}},
        limit=settings["limit"],
        bootstrap_iters=0,
        log_samples=True,
        system_instruction=settings["system"],
        apply_chat_template=settings["chat"],
        fewshot_as_multiturn=settings["multiturn"],
        confirm_run_unsafe_code=settings["unsafe"],
    )
    lm.gather_cut_off()
    if output is None:  # the first process has them all
        return {}
    seconds = time.perf_counter() - started
    stats = {"tokenizer": settings["tokenizer"], "seconds": round(seconds, 3)}
    left_out = set(lm.left_out)
    if settings["system"] and any(task.OUTPUT_TYPE == "loglikelihood_rolling" for task in leaves.values()):
        left_out.add("system_instruction: running text is scored as it is")
    if left_out:
        stats["left_out"] = sorted(left_out)
    return {spec.key: task_result(output, leaves, spec, lm, stats, settings["log_samples"]) for spec in specs}


def _reason(task: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if is_unreachable(error):
        return f"task {task}: its data is not here ({reason}); give --local_data a folder that holds it"
    if "requested max tokens to generate" in reason:  # lm-eval's own check, an assertion
        return f"task {task}: {reason} Give --gen_kwargs max_gen_toks=N a smaller N, or leave the task out."
    return reason if isinstance(error, EvalError) else f"task {task}: {type(error).__name__}: {reason}"
