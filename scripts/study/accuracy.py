"""Accuracy on tasks: of one cut or healed checkpoint, or of every plan of a depth, beside the original."""

from __future__ import annotations

from typing import Any

import prune
from evals.evidence import Evidence
from evals.gate import judge
from evals.harness import Results, run_tasks
from evals.suite import Suite, TaskSpec
from study.bench import Bench
from study.plans import label_of
from study.settings import ITEMS, TASKS

SPECS = [TaskSpec(task=t, metric=m, chance=c, num_fewshot=0, limit=ITEMS) for t, (m, c) in TASKS.items()]


def tasks(bench: Bench, name: str, label: str, wanted: int, checkpoint: str = "") -> dict[str, Any]:
    """Accuracy of a cut (or of a healed checkpoint) and of the original on the same items, with paired intervals."""
    whole = bench.model(name)
    first = _answers(bench, name, whole)
    if checkpoint:
        candidate = bench.model(bench.result(checkpoint)["checkpoint"])
    else:
        candidate = prune.cut(whole, drop_layers=bench.plan(name, label, wanted).drop)
    second = _answers(bench, name, candidate)
    found = {suite.name: suite.model_dump(mode="json") for suite in _judged(first, second).suites}
    return {"failures": {**first.failures, **second.failures}, "tasks": found}


def plan_tasks(bench: Bench, name: str, wanted: int) -> dict[str, Any]:
    """Accuracy of every plan of a depth, and of the original, on the same items; answers are kept by the evaluation."""
    whole = bench.model(name)
    first = _answers(bench, name, whole)
    found = {}
    for key in (key for key in bench.result(f"plans_{name}")["plans"] if label_of(key)[1] == wanted):
        cut = prune.cut(whole, drop_layers=bench.plan(name, *label_of(key)).drop, copy=True)
        evidence = _judged(first, _answers(bench, name, cut))
        found[key] = {suite.name: suite.tasks[0].model_dump(mode="json") for suite in evidence.suites}
    return {"tasks": found}


def _answers(bench: Bench, name: str, model: Any) -> Results:
    keep = bench.folder / "evaluations"
    return run_tasks(model, bench.tokenizer(name), SPECS, local_data=bench.source, batch_size=16, cache_dir=keep)


def _judged(original: Results, candidate: Results) -> Evidence:
    """Every task a suite of its own."""
    return judge(original, candidate, [Suite(name=spec.task, title=spec.task, tasks=[spec]) for spec in SPECS])
