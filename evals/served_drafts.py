"""Speculative decoding in another runtime: the original in one process, the pair in a second, each prompt put to both.

The cost of the draft is measured there too, before the pair is started: the number of proposed tokens hangs on it.
Assumption: the processes take turns, so that none works while another is timed.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evals.draft_costs import PROPOSED, Answering, Timing, measure_costs
from evals.draft_trials import DraftResult, Mismatch, Trial, TrialLog, result_of
from evals.errors import EvalError
from evals.progress import stage
from evals.speculation import Costs, median_interval
from evals.worker import Worker

SERVED = ("vllm", "llama.cpp")
"""Runtimes whose workers take a draft."""
COST_TOKENS = 24
Parting = Callable[[int, list[int], list[int], int], Mismatch]
"""(number, plain ids, assisted ids, tokens of the prompt), both with the prompt -> where they part."""


class ServedPair(contextlib.ExitStack):
    """The original in a runtime, and what a draft does for it there; its processes end with the `with` block.

    Args:
        original, draft: what the runtime loads: directories, or GGUF files.
        options: of both workers.

    Raises:
        EvalUsageError: the runtime is not installed.
        EvalError: it cannot load them.
    """

    def __init__(self, runtime: str, original: Path, draft: Path, options: Mapping[str, Any]) -> None:
        super().__init__()
        self._runtime, self._original, self._draft, self._options = runtime, original, draft, dict(options)
        self._plain = self.enter_context(Worker(runtime, original, self._options))
        self.version = self._plain.version

    def cost(self, prompts: Sequence[Sequence[int]], *, ignore_eos: bool = True) -> tuple[float, float, float]:
        """c with its 95 % interval: seconds of a draft's step over those of a step of the original, in turn.

        Prefills are taken out: of every prompt one token is asked for as well.
        """
        ratios = []
        with Worker(self._runtime, self._draft, self._options) as draft:
            for number, prompt in enumerate([prompts[0], *prompts]):
                workers = (self._plain, draft)
                steps = {id(w): _step(w, prompt) for w in (workers if number % 2 else workers[::-1])}
                ratios.append(steps[id(draft)] / steps[id(self._plain)])
        ratios = ratios[1:]  # the first warmed up
        return statistics.median(ratios), *median_interval(ratios)

    def costs(self, prompts: Sequence[Sequence[int]], cost: float) -> Costs:
        """What rounds cost with this draft, whatever it proposes.

        Args:
            cost: c.
        """
        with contextlib.ExitStack() as stack:
            pairs = {
                gamma: stack.enter_context(Worker(self._runtime, self._original, self._paired(gamma)))
                for gamma in PROPOSED
            }
            assisted = {gamma: _answering(pair) for gamma, pair in pairs.items()}
            return measure_costs(_answering(self._plain), assisted, prompts, cost)

    def _paired(self, tokens: int) -> dict[str, Any]:
        return {**self._options, "draft": str(self._draft), "num_assistant_tokens": tokens}

    def measure(
        self,
        prompts: Mapping[str, Sequence[Sequence[int]]],
        tokens: Mapping[str, int],
        *,
        costs: Costs,
        max_new_tokens: int,
        ignore_eos: bool,
        logs: Mapping[str, TrialLog],
        parting: Parting,
    ) -> dict[str, DraftResult]:
        """Every prompt plainly and assisted, in turn.

        Args:
            prompts, tokens: by domain: token ids, and how many are proposed at a time.
            costs: as measured before.
            logs: take each prompt's trial, and may hold those that a killed process made.

        Raises:
            EvalError: a runtime failed.
        """
        results = {}
        for name, members in prompts.items():
            log = logs[name]
            with (
                Worker(self._runtime, self._original, self._paired(tokens[name])) as pair,
                stage(
                    f"speculative decoding in {self._runtime}", len(members), "prompts", done=len(log.trials)
                ) as going,
            ):
                for worker in (self._plain, pair):
                    worker.timed(members[0], 2, ignore_eos=ignore_eos)  # warm-up
                for number in range(len(log.trials), len(members)):
                    workers, ids = (self._plain, pair), list(members[number])
                    found = {
                        id(w): w.timed(ids, max_new_tokens, ignore_eos=ignore_eos)
                        for w in (workers[::-1] if number % 2 else workers)
                    }
                    log.add(_trial(found[id(self._plain)], found[id(pair)], ids, number, parting))
                    going.advance()
            dtype = str(self._options.get("dtype", "float32"))
            device = f"cpu, {self._runtime} {self.version}"
            results[name] = result_of(
                log.trials,
                num_assistant_tokens=tokens[name],
                device=device,
                dtype=dtype,
                draft_cost=costs.draft,
                costs=costs,
            )
        return results


def _answering(worker: Worker) -> Answering:
    def answer(prompt: Sequence[int], new_tokens: int) -> Timing:
        found = worker.timed(prompt, new_tokens, ignore_eos=True)
        return Timing(found["seconds"], found["passes"])

    return answer


def _step(worker: Worker, prompt: Sequence[int]) -> float:
    """Seconds a token, the prompt's taken out."""
    first = worker.timed(prompt, 1, ignore_eos=True)["seconds"]
    whole = worker.timed(prompt, COST_TOKENS, ignore_eos=True)
    if whole["new_tokens"] < 2:
        raise EvalError(f"{worker.runtime}: it ended after one token, although it was told not to")
    return float(max(1e-9, whole["seconds"] - first) / (whole["new_tokens"] - 1))


def _trial(plain: Mapping[str, Any], helped: Mapping[str, Any], ids: list[int], number: int, parting: Parting) -> Trial:
    same = plain["ids"] == helped["ids"]
    return Trial(
        new_tokens=plain["new_tokens"],
        plain_s=plain["seconds"],
        assisted_s=helped["seconds"],
        kept=helped["kept"],
        tried=helped["tried"],
        passes=helped["passes"],
        mismatch=None if same else parting(number, ids + plain["ids"], ids + helped["ids"], len(ids)),
    )
