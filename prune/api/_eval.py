"""`prune.eval`: test a model against its original, and judge it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from pydantic import Field

from evals.progress import stage
from evals.settings import BackendSettings, EvalSettings, Names
from prune.api._given import Given, Model, all_given, at_rest
from prune.api._inputs import DryRun, load_suites
from prune.errors import UsageError
from prune.files import refuse_non_empty, sha256_file, staged_directory
from prune.model.settings import PlacedSettings
from prune.settings import Seeded, fields_of, takes, validated

if TYPE_CHECKING:
    from evals.evidence import Evidence
    from evals.harness import Results
    from evals.suite import Suite

log = logging.getLogger("prune")


class EvalArguments(BackendSettings, PlacedSettings, Seeded, EvalSettings):
    """Everything that `prune eval` can be told beside the models and the output."""

    suite: Names = Field([], description="Names of built-in suites, or YAML files, with commas.")
    tasks: Names = Field(
        [], description="lm-eval tasks, with commas; with suite, only these of its tasks; others form a suite `tasks`."
    )


@overload
def eval(
    model: Model,
    output: str | Path | None = None,
    *,
    baseline: Model,
    tokenizer: Any = None,
    dry_run: Literal[False] = False,
    **settings: Any,
) -> Evidence: ...


@overload
def eval(
    model: Model,
    output: str | Path | None = None,
    *,
    baseline: Model,
    tokenizer: Any = None,
    dry_run: Literal[True],
    **settings: Any,
) -> DryRun: ...


@takes(EvalArguments)
def eval(
    model: Model,
    output: str | Path | None = None,
    *,
    baseline: Model,
    tokenizer: Any = None,
    dry_run: bool = False,
    **settings: Any,
) -> Evidence | DryRun:
    """Test a model against its original on the same items, and judge it.

        evidence = prune.eval(healed, baseline=model, tokenizer=tokenizer, suite="math")

    A run with `output` that was killed goes on where it stopped when it is started again with the same arguments:
    finished tasks and finished batches lie in a hidden folder beside `output`, by the models' fingerprints, until
    `output` is complete.

    Args:
        model, baseline: candidate and original; directories, hub ids, or loaded models, which stay as they are; GGUF
            files with `backend="llama.cpp"`.
        output: new directory for evidence.json and samples; nothing is written if None.
        tokenizer: of both; a checkpoint's own if None.
        dry_run: check the input and return the tasks, notes on their data, and what the gate can decide.

    Returns:
        The evidence: figures per suite and task, and `verdict`: PASS, FAIL or INCONCLUSIVE. Its candidate has a hash,
        by which `prune.export` knows its weights, only where it was a checkpoint.

    Raises:
        UsageError, PruneError, evals.errors.EvalError: bad input.
    """
    from evals.backend import check_backend, is_first_process
    from evals.power import power_checks
    from evals.suite_choice import check_tasks, choose_suites

    target = None if output is None else Path(output)
    if target is not None:
        refuse_non_empty(target)
    asked = validated(EvalArguments, settings)
    if not asked.suite and not asked.tasks:
        raise UsageError("--suite or --tasks is missing: name what to test on")
    named = load_suites(asked.suite, asked.size)
    check_backend(asked.backend)
    addresses = _addresses(asked.backend, asked.base_url)
    models = {"baseline": baseline, "model": model}
    for name in ("device_map", "attn_implementation"):
        if asked.backend != "hf" and getattr(asked, name) is not None:
            raise UsageError(f"--{name}: is of models in this process; {asked.backend} has --model_args")
    files = _gguf_files(models, asked.backend)
    others = {name: other for name, other in models.items() if name not in files}
    subjects = all_given(others, dict.fromkeys(others, tokenizer), **fields_of(PlacedSettings, asked))
    for subject in subjects.values():
        if subject.source is None:
            subject.require_tokenizer()
            if asked.backend in ("vllm", "openai"):
                raise UsageError(f"--backend {asked.backend!r}: reads checkpoints; give directories or hub ids")
    _check_prompting(asked, subjects.values())
    suites = choose_suites(named, asked.tasks, asked.folders, asked.num_fewshot)
    notes = check_tasks(suites, asked.folders, asked.replacements, asked.confirm_run_unsafe_code)
    power = power_checks(suites, asked.limit)
    if dry_run:
        planned = {s.name: [t.key for t in s.tasks] for s in suites}
        return DryRun(suites=planned, notes=notes, gate_power=[check.message for check in power])
    for note in [*notes, *(check.message for check in power if not check.decides)]:
        log.warning("%s", note)
    unfinished = None if target is None else target.with_name(f".{target.name}.unfinished")
    options = {
        **asked.options(),
        "backend": asked.backend,
        "seed": asked.seed,
        "cache_dir": unfinished,
    }
    options["model_args"] = asked.model_args
    if asked.backend == "vllm":
        from prune.model.loading import resolve_dtype

        options["model_args"] = {"dtype": str(resolve_dtype(asked.dtype)).removeprefix("torch."), **asked.model_args}
    results = {}
    for name in models:
        with stage(f"{name} {_named(name, models[name], subjects)}"):
            if name in files:
                results[name] = _score_file(files[name], tokenizer, suites, options)
            else:
                if addresses:
                    options["model_args"] = {
                        "base_url": addresses[name], "name": str(models[name]), **asked.model_args
                    }  # fmt: skip
                results[name] = _score(subjects[name], suites, options)
                subjects[name].require_unchanged()
    _warn(results, notes)
    if not is_first_process():
        return DryRun(suites={}, notes=[], gate_power=[])
    evidence = _judge(results, suites, asked.alpha, asked.seed)
    evidence.original_model, evidence.candidate_model = (_named(name, models[name], subjects) for name in models)
    evidence.original_backend, evidence.candidate_backend = (results[name].answered_by for name in models)
    evidence.candidate_sha256 = _weights_sha256(files.get("model"), subjects.get("model"))
    if target is not None and unfinished is not None:
        _save(evidence, results, target)
        shutil.rmtree(unfinished, ignore_errors=True)
    return evidence


def _addresses(backend: str, given: str | None) -> dict[str, str]:
    """Where each model is served.

    Raises:
        UsageError: an address without such a backend, the backend without an address, or more than two.
    """
    if backend != "openai":
        if given is not None:
            raise UsageError(f"--base_url: is for --backend openai, not {backend}; leave it out, or change that")
        return {}
    addresses = [address.strip() for address in (given or "").split(",") if address.strip()]
    if len(addresses) not in (1, 2):
        raise UsageError("--base_url: give the address of the server, or with a comma those of model and baseline")
    return {"model": addresses[0], "baseline": addresses[-1]}


def _warn(results: Mapping[str, Results], told: Sequence[str]) -> None:
    """Of tasks that failed, and of notes that nobody has been told yet."""
    for name, found in results.items():
        for task, reason in found.failures.items():
            log.warning("%s on %s: %s", task, name, reason)
    for note in dict.fromkeys(note for found in results.values() for note in found.notes.values()):
        if not any(note in line for line in told):
            log.warning("%s", note)


def _weights_sha256(file: Path | None, subject: Given | None) -> str:
    """By which `prune.export` knows the weights; empty for a model in memory."""
    from prune.packaging.manifest import weights_sha256

    if file is not None:
        return sha256_file(file)
    return weights_sha256(subject.source.directory) if subject is not None and subject.source else ""


def _named(name: str, model: Model, subjects: Mapping[str, Given]) -> str:
    """A model as the caller wrote it; one in memory by where it says it came from."""
    return str(model) if isinstance(model, str | Path) else subjects[name].label


def _check_prompting(asked: EvalArguments, subjects: Iterable[Given]) -> None:
    """What the tokenizers' chat templates would refuse or leave out, before a model is loaded."""
    from evals.harness import check_prompting

    options = asked.options()
    chat, multiturn = options["apply_chat_template"], options["fewshot_as_multiturn"]
    if chat or multiturn:
        for subject in subjects:
            check_prompting(subject.tokenizer, chat, bool(multiturn), options["system_instruction"])


def _score(subject: Given, suites: Sequence[Suite], options: Mapping[str, Any]) -> Results:
    """One model on every task of the suites; one loaded here is freed on return, before the other one is loaded."""
    from evals.harness import run_tasks

    served = subject.source if options["backend"] in ("vllm", "openai") else None
    options = {**options, "backend": options["backend"] if served else "hf"}
    model: Any = str(served.directory) if served else subject.model()
    with at_rest(subject.in_memory):
        return run_tasks(model, subject.tokenizer, [task for s in suites for task in s.tasks], **options)


def _gguf_files(models: Mapping[str, Model], backend: str) -> dict[str, Path]:
    """Which of the models are GGUF files, for llama.cpp; the others run in this process beside it.

    Raises:
        UsageError: a GGUF file for another backend, or the backend without one.
    """
    from prune.gguf.cut import is_gguf

    files = {name: Path(str(model)) for name, model in models.items() if is_gguf(model)}
    if files and backend != "llama.cpp":
        file = next(iter(files.values()))
        raise UsageError(
            f"{file}: --backend llama.cpp tests it as it is served; `prune import` makes a checkpoint of it"
        )
    if backend == "llama.cpp" and not files:
        raise UsageError("--backend llama.cpp: runs GGUF files; give one as the model or the baseline")
    for file in files.values():
        if not file.is_file():
            raise UsageError(f"{file}: no such file")
    return files


def _score_file(file: Path, tokenizer: Any, suites: Sequence[Suite], options: Mapping[str, Any]) -> Results:
    """One GGUF file on every task of the suites, run by llama.cpp with the tokens of the file's own tokenizer."""
    from evals.harness import run_tasks
    from prune.gguf.header import read_header
    from prune.gguf.tokenizers import read_tokenizer

    read_header(file)
    chosen = tokenizer if tokenizer is not None else read_tokenizer(file.resolve(), str(file))
    return run_tasks(str(file.resolve()), chosen, [task for s in suites for task in s.tasks], **options)


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
