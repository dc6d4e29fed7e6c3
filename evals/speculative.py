"""Lossless use of a weaker model: as the draft of the stronger one in speculative decoding, measured and proven.

The draft proposes a few tokens, the original checks them in one pass and keeps the longest prefix that it would have
said itself (Leviathan et al. 2023, arXiv 2211.17192), so greedy output is the original's own. Runs transformers'
assisted generation and compares token by token with the original's plain greedy decoding of every prompt. Assumptions:
both models share a tokenizer; prompts are decoded one at a time, as assisted generation does.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from evals.draft_costs import PROPOSED, Answering, Timing, measure_costs
from evals.draft_trials import DraftResult, Mismatch, Trial, TrialLog, result_of
from evals.errors import EvalUsageError
from evals.progress import stage
from evals.speculation import Costs, median_interval

ROUNDING = 64
"""Units in the last place by which a logit may differ between two orders of summation."""


def try_as_draft(
    original: Any,
    draft: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    num_assistant_tokens: int = 4,
    alone: int = 8,
    ignore_eos: bool = False,
    log: TrialLog | None = None,
    costs: Costs | None = None,
) -> DraftResult:
    """Decode every prompt plainly and with the draft's help, and compare.

    Args:
        original, draft: causal `transformers` models with one vocabulary, in evaluation mode.
        prompts: token ids, each at least one.
        max_new_tokens: of every prompt.
        num_assistant_tokens: γ.
        alone: prompts that the draft answers alone too, for its cost; the first ones.
        ignore_eos: go on past ends of text, to max_new_tokens.
        log: takes each prompt's trial, and may hold those that a killed process made.
        costs: measured beforehand, for the prediction.

    Raises:
        EvalUsageError: no prompts, different vocabularies, or a prompt too long for either model.
    """
    import torch

    _check(original, draft, prompts, max_new_tokens)
    log = log or TrialLog()
    with (
        _drafting(draft, num_assistant_tokens),
        _endless(original, draft) if ignore_eos else nullcontext(),
        torch.inference_mode(),
        stage("speculative decoding", len(prompts), "prompts", done=len(log.trials)) as going,
    ):
        first = torch.tensor([list(prompts[0])])  # [1, P]
        _plain_and_assisted(original, draft, first, 2, _Tally())  # warm-up
        _timed(draft, first, 2)
        for number in range(len(log.trials), len(prompts)):
            log.add(_trial(original, draft, prompts[number], max_new_tokens, number, asked_alone=number < alone))
            going.advance()
    dtype = str(original.dtype).removeprefix("torch.")
    return result_of(
        log.trials, num_assistant_tokens=num_assistant_tokens, device=str(original.device), dtype=dtype, costs=costs
    )  # fmt: skip


def _trial(
    original: Any, draft: Any, prompt: Sequence[int], max_new_tokens: int, number: int, *, asked_alone: bool
) -> Trial:
    import torch

    ids = torch.tensor([list(prompt)], device=original.device)  # [1, P]
    tally = _Tally()
    (plain, plain_s), (helped, helped_s) = _plain_and_assisted(
        original, draft, ids, max_new_tokens, tally, assisted_first=number % 2 == 1
    )
    alone = None
    if asked_alone:
        answer, seconds = _timed(draft, ids.to(draft.device), max_new_tokens)
        alone = seconds / (len(answer) - len(prompt))
    return Trial(
        new_tokens=len(plain) - len(prompt),
        plain_s=plain_s,
        assisted_s=helped_s,
        kept=tally.accepted,
        tried=tally.accepted + tally.rejections,
        passes=tally.passes,
        original_s=tally.original_s,
        draft_s=tally.draft_s,
        alone_s=alone,
        mismatch=None if plain == helped else find_mismatch(original, number, plain, helped, len(prompt)),
    )


def _check(original: Any, draft: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    if not prompts or not all(len(prompt) for prompt in prompts):
        raise EvalUsageError("speculative decoding needs prompts of at least one token")
    if max_new_tokens < 2:
        raise EvalUsageError(f"max_new_tokens {max_new_tokens}: at least 2 are needed")
    configs = [model.config.get_text_config() for model in (original, draft)]
    if configs[0].vocab_size != configs[1].vocab_size:
        sizes = " and ".join(str(config.vocab_size) for config in configs)
        raise EvalUsageError(f"original and draft have vocabularies of {sizes} tokens; they must share a tokenizer")
    longest = max(map(len, prompts)) + max_new_tokens
    for config in configs:
        context = getattr(config, "max_position_embeddings", None)
        if context and longest > context:
            raise EvalUsageError(f"{longest} tokens of prompt and answer exceed a context of {context}")


class _Tally:
    """What the original's passes say about the draft: how many tokens were proposed and kept.

    A pass over n tokens with s already in the cache checks s + n - 1 - (tokens known before) proposals; how many were
    kept shows in the cache's length at the next pass, since rejected ones are cropped away.
    """

    def __init__(self) -> None:
        self.accepted = self.rejections = self.passes = 0
        self.original_s = self.draft_s = 0.0

    @contextmanager
    def watching(self, model: Any, prompt_tokens: int) -> Iterator[list[tuple[int, int]]]:
        """Record (tokens known before the pass, tokens proposed) of every pass."""
        seen: list[tuple[int, int]] = []

        def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
            cached = kwargs["past_key_values"].get_seq_length()
            known = max(prompt_tokens, cached + 1)  # the newest token is never in the cache yet
            seen.append((known, cached + ids.shape[1] - known))

        handle = model.register_forward_pre_hook(before, with_kwargs=True)
        try:
            yield seen
        finally:
            handle.remove()

    def close(self, seen: list[tuple[int, int]], final_length: int) -> None:
        """Add one prompt's passes."""
        ends = [known for known, _ in seen[1:]] + [final_length]
        for (known, proposed), end in zip(seen, ends, strict=True):
            kept = min(proposed, max(0, end - known - 1))
            self.accepted += kept
            # The last pass may end because the text does; tokens cut off there were not rejected.
            self.rejections += kept < proposed and end != final_length
            self.passes += 1

    @contextmanager
    def timing(self, original: Any, draft: Any) -> Iterator[None]:
        """Add up the seconds of every pass of either model."""
        began: dict[int, float] = {}

        def before(model: Any, *_: Any) -> None:
            _wait(model)
            began[id(model)] = time.perf_counter()

        def after(model: Any, *_: Any) -> None:
            _wait(model)
            spent = time.perf_counter() - began[id(model)]
            if model is original:
                self.original_s += spent
            else:
                self.draft_s += spent

        handles = [m.register_forward_pre_hook(before) for m in (original, draft)]
        handles += [m.register_forward_hook(after) for m in (original, draft)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _plain_and_assisted(
    original: Any, draft: Any, ids: Any, max_new_tokens: int, tally: _Tally, *, assisted_first: bool = False
) -> tuple[tuple[list[int], float], tuple[list[int], float]]:
    """`_timed` without and with the draft; callers alternate which goes first, since the second finds caches warm."""
    found = {}
    for assisted in (assisted_first, not assisted_first):
        if assisted:
            with tally.watching(original, ids.shape[1]) as seen, tally.timing(original, draft):
                found[True] = _timed(original, ids, max_new_tokens, assistant_model=draft)
            tally.close(seen, len(found[True][0]))
        else:
            found[False] = _timed(original, ids, max_new_tokens)
    return found[False], found[True]


@contextmanager
def _drafting(draft: Any, num_assistant_tokens: int) -> Iterator[None]:
    """γ tokens every time: no schedule, no stopping when the draft is unsure, so that α and γ mean what they say."""
    config = draft.generation_config
    wanted = {
        "num_assistant_tokens": num_assistant_tokens,
        "num_assistant_tokens_schedule": "constant",
        "assistant_confidence_threshold": 0.0,
    }
    before = {name: getattr(config, name, None) for name in wanted}
    try:
        for name, value in wanted.items():
            setattr(config, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(config, name, value)


@contextmanager
def _endless(*models: Any) -> Iterator[None]:
    """No end of text: answers go on behind it, as with vLLM's option of that name."""
    before = [model.generation_config for model in models]
    try:
        for model, config in zip(models, before, strict=True):
            model.generation_config = copy.deepcopy(config)
            model.generation_config.pad_token_id = _pad(model)
            model.generation_config.eos_token_id = None
        yield
    finally:
        for model, config in zip(models, before, strict=True):
            model.generation_config = config


def _timed(model: Any, ids: Any, max_new_tokens: int, **options: Any) -> tuple[list[int], float]:
    """All tokens after greedy decoding, and the seconds it took."""
    import torch

    _wait(model)
    began = time.perf_counter()
    output = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=torch.ones_like(ids, device=model.device),
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        pad_token_id=_pad(model),
        **options,
    )
    _wait(model)
    return output[0].tolist(), time.perf_counter() - began


def _wait(model: Any) -> None:
    """Until an accelerator has done what it was given."""
    if model.device.type == "cuda":
        import torch

        torch.cuda.synchronize(model.device)


def draft_cost(
    original: Any, draft: Any, prompts: Sequence[Sequence[int]], *, new_tokens: int = 24
) -> tuple[float, float, float]:
    """c with its 95 % interval: seconds of a draft step over those of a step of the original, in turn, head included.

    Args:
        prompts: each is decoded by both, alternating which goes first, to `new_tokens` whatever ends an answer.
    """
    import torch

    ratios = []
    with torch.inference_mode():
        for number, prompt in enumerate([prompts[0], *prompts]):
            ids, seconds = torch.tensor([list(prompt)]), {}  # [1, P]
            for model in (original, draft) if number % 2 else (draft, original):
                seconds[id(model)] = _timed(model, ids, new_tokens, min_new_tokens=new_tokens)[1]
            ratios.append(seconds[id(draft)] / seconds[id(original)])
    ratios = ratios[1:]  # the first warmed up
    return statistics.median(ratios), *median_interval(ratios)


def round_costs(original: Any, draft: Any, prompts: Sequence[Sequence[int]], cost: float) -> Costs:
    """What rounds of assisted generation cost here.

    Args:
        prompts: each is answered at two lengths, plainly and with several γ.
        cost: c.
    """
    import torch

    def plain(prompt: Sequence[int], new_tokens: int) -> Timing:
        return Timing(_timed(original, torch.tensor([list(prompt)]), new_tokens)[1])

    def assisted(gamma: int) -> Answering:
        def answer(prompt: Sequence[int], new_tokens: int) -> Timing:
            tally, ids = _Tally(), torch.tensor([list(prompt)])  # [1, P]
            with _drafting(draft, gamma), tally.watching(original, len(prompt)) as seen:
                found, seconds = _timed(original, ids, new_tokens, assistant_model=draft)
            tally.close(seen, len(found))
            return Timing(seconds, tally.passes)

        return answer

    with _endless(original, draft), torch.inference_mode():
        return measure_costs(plain, {gamma: assisted(gamma) for gamma in PROPOSED}, prompts, cost)


def _pad(model: Any) -> int:
    config = model.generation_config
    eos = config.eos_token_id
    eos = eos[0] if isinstance(eos, list) else eos
    return next(int(token) for token in (config.pad_token_id, eos, 0) if token is not None)


def find_mismatch(model: Any, number: int, plain: list[int], helped: list[int], prompt: int) -> Mismatch:
    """Where two outputs part, and how near the original was to a tie there."""
    import torch

    shorter = min(len(plain), len(helped))
    at = next((i for i in range(prompt, shorter) if plain[i] != helped[i]), shorter)
    ids = torch.tensor([plain[:at]], device=model.device)
    best = model(ids, use_cache=False).logits[0, -1].float().topk(2).values
    gap = float(best[0] - best[1])
    tie = gap <= ROUNDING * torch.finfo(original_dtype(model)).eps * max(1.0, abs(float(best[0])))
    return Mismatch(number, at - prompt, gap, tie)


def original_dtype(model: Any) -> Any:
    """Of the computation."""
    return next(p.dtype for p in model.parameters() if p.is_floating_point())
