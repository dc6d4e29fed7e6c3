"""The prompts that a suite's tasks put to a model, as token ids, without scoring anything.

For what needs prompts and no answers (speculative decoding). Assumption: a text that is only scored, not continued, is
a prompt by its first tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evals.errors import EvalError
from evals.silence import silenced
from evals.suite import TaskSpec
from evals.tasks import find_tasks
from evals.text_ids import text_ids

OPENING = 16
"""Tokens of a scored text that serve as a prompt."""


def suite_prompts(
    tasks: Sequence[TaskSpec],
    tokenizer: Any,
    *,
    count: int,
    include_path: Sequence[Path] = (),
    local_data: Path | None = None,
    seed: int = 0,
    max_tokens: int | None = None,
) -> list[list[int]]:
    """Up to `count` distinct prompts, taken in turn from each task.

    Args:
        tasks: of one suite.
        tokenizer: adds the special tokens that it adds.
        seed: of the few-shot choice.
        max_tokens: longer prompts are left out.

    Raises:
        EvalError: no task gives a prompt that fits.
    """
    streams = []
    with silenced():
        found = find_tasks(tasks, include_path, local_data)
        for spec in {spec.task: spec for spec in tasks if spec.task in found.places}.values():
            for task in found.load(spec, seed).values():
                task.build_all_requests(limit=count)
                streams.append([_opening(instance, tokenizer) for instance in task.instances])
    prompts: dict[tuple[int, ...], None] = {}
    for ids in itertools.chain.from_iterable(itertools.zip_longest(*streams)):
        if ids and (max_tokens is None or len(ids) <= max_tokens):
            prompts.setdefault(tuple(ids))
        if len(prompts) == count:
            break
    if not prompts:
        names = ", ".join(spec.task for spec in tasks)
        raise EvalError(f"{names}: no prompt fits into {max_tokens} tokens")
    return [list(prompt) for prompt in prompts]


def _opening(instance: Any, tokenizer: Any) -> list[int]:
    ids = text_ids(tokenizer, instance.args[0])
    return ids[:OPENING] if instance.request_type == "loglikelihood_rolling" else ids
