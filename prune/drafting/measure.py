"""The pair at work: every held-out prompt decoded with and without the draft, output compared token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.draft_trials import DraftResult, TrialLog
from evals.speculative import try_as_draft
from prune.drafting.search import Found
from prune.drafting.settings import DraftSettings
from prune.wording import Message, message

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prune.healing.prompts import Prompt

ENOUGH = 200
"""Prompts per domain below which the proof is said to be thin."""


def measure(
    original: PreTrainedModel,
    found: Found,
    prompts: Mapping[str, Sequence[Prompt]],
    settings: DraftSettings,
    directory: Path,
    key: str,
) -> dict[str, DraftResult]:
    """By domain, with transformers in this process.

    Args:
        directory: keeps every prompt's trial.
        key: what decides them.
    """
    results = {}
    for name, members in prompts.items():
        tokens = tokens_of(found, name, settings)
        results[name] = try_as_draft(
            original,
            found.draft.model,
            [p.input_ids for p in members],
            max_new_tokens=settings.max_new_tokens,
            num_assistant_tokens=tokens,
            ignore_eos=settings.ignore_eos,
            costs=found.chosen.costs,
            log=TrialLog(directory / f"trials-{name}.jsonl", [key, "transformers", tokens]),
        )
    return results


def tokens_of(found: Found, domain: str, settings: DraftSettings) -> int:
    """γ of a domain: the one that suits its acceptance and is smaller than its answers, unless one is given."""
    if settings.num_assistant_tokens:
        return settings.num_assistant_tokens
    length = found.answers[domain]
    best = found.chosen.costs.best_tokens(found.acceptance[domain].greedy, length)
    return max(1, min(best, int(length) - 1))


def warnings_of(found: Found, results: Mapping[str, DraftResult]) -> list[Message]:
    """What to beware of in the figures."""
    told = []
    for name, result in results.items():
        median = result.median_new_tokens or 0
        if result.num_assistant_tokens >= median:
            told.append(
                message("draft_short_answers", domain=name, median=int(median), tokens=result.num_assistant_tokens)
            )
        if result.prompts < ENOUGH:
            told.append(message("draft_few_prompts", domain=name, prompts=result.prompts, enough=ENOUGH))
    return told


def facts_of(found: Found, results: Mapping[str, DraftResult]) -> dict[str, Any]:
    """Everything measured, as JSON: `domains` with α, γ, expected and measured speed-up."""
    domains = {}
    for name, result in results.items():
        accepted = found.acceptance[name]
        domains[name] = {
            **result.to_dict(),
            "ties": result.ties,
            "predicted_shares": _shares(found, result),
            "lossless": result.lossless,
            "faster": result.faster,
            "held_out_acceptance": accepted.greedy,
            "held_out_acceptance_interval": list(accepted.greedy_interval),
            "untrained_acceptance": accepted.untrained,
            "sampled_acceptance": accepted.sampled,
            "sampled_acceptance_interval": list(accepted.sampled_interval),
            "sampled_prompts": accepted.sampled_prompts,
        }
    return {
        "keep": list(found.draft.keep),
        "num_layers": len(found.draft.keep),
        "trained": list(found.draft.trained),
        "draft_cost": found.chosen.cost,
        "draft_cost_interval": [found.chosen.cost_lo, found.chosen.cost_hi],
        "ceiling": found.chosen.ceiling,
        "costs": asdict(found.chosen.costs),
        "num_assistant_tokens": found.chosen.num_assistant_tokens,
        "candidates": [candidate.to_dict() for candidate in found.candidates],
        "domains": domains,
    }


def _shares(found: Found, result: DraftResult) -> dict[str, float] | None:
    """Where the costs say that the pair's time goes."""
    if result.acceptance_rate is None or not result.median_new_tokens:
        return None
    return found.chosen.costs.shares(result.acceptance_rate, result.num_assistant_tokens, result.median_new_tokens)
