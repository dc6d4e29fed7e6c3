"""The arithmetic of speculative decoding: how many tokens to propose, and what a speed-up needs.

Leviathan et al. 2023 (arXiv 2211.17192), theorem 3.8, in three directions, and bootstrap intervals of what is measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evals.errors import EvalUsageError

MOST_TOKENS = 16
"""Largest γ that is considered."""
DRAWS = 2000
"""Of each bootstrap."""


@dataclass(frozen=True)
class Costs:
    """What decoding with a draft takes, in seconds over those of one step of the original alone.

    Attributes:
        draft: c, a step of the draft.
        check, check_per_token: v₀ and v₁: a pass over γ proposals takes v₀ + v₁γ, the loop around it included.
        prefill, assisted_prefill: the prompt's pass, of the original and of both.
    """

    draft: float
    check: float = 1.0
    check_per_token: float = 0.0
    prefill: float = 0.0
    assisted_prefill: float = 0.0

    def round(self, num_assistant_tokens: int) -> float:
        """γ steps of the draft and the pass that checks them."""
        return num_assistant_tokens * (self.draft + self.check_per_token) + self.check

    def speedup(self, acceptance_rate: float, num_assistant_tokens: int, new_tokens: float | None = None) -> float:
        """Steps of the original over what the pair takes: (P + n) / (P' + R·round(γ)), R rounds for n tokens.

        R is `rounds`, of endless answers n / E with E = (1 - α^(γ+1)) / (1 - α) (Leviathan et al. 2023, equation 1);
        their theorem 3.8 is v₀ = 1, v₁ = 0, n infinite.

        Args:
            new_tokens: n, length of the answers; endless if None.

        Raises:
            EvalUsageError: α outside [0, 1], γ below 1, or a negative c.
        """
        alpha, gamma = acceptance_rate, num_assistant_tokens
        if not 0 <= alpha <= 1 or gamma < 1 or self.draft < 0:
            raise EvalUsageError(f"acceptance {alpha}, {gamma} draft tokens, draft cost {self.draft}: out of range")
        if new_tokens is None:
            tokens = gamma + 1 if alpha == 1 else (1 - alpha ** (gamma + 1)) / (1 - alpha)
            return tokens / self.round(gamma)
        taken = self.assisted_prefill + rounds(alpha, gamma, new_tokens) * self.round(gamma)
        return (self.prefill + new_tokens) / taken

    def best_tokens(self, acceptance_rate: float, new_tokens: float | None = None, most: int = MOST_TOKENS) -> int:
        """The γ from 1 to `most` with the largest speed-up for answers of this length; the smallest of equal ones."""
        return max(range(1, most + 1), key=lambda g: (self.speedup(acceptance_rate, g, new_tokens), -g))

    def shares(self, acceptance_rate: float, num_assistant_tokens: int, new_tokens: float) -> dict[str, float]:
        """Of the pair's time on one answer: the prompt's passes, the draft's steps, the checking passes."""
        gamma = num_assistant_tokens
        count = rounds(acceptance_rate, gamma, new_tokens)
        drafting = count * gamma * self.draft
        whole = self.assisted_prefill + count * self.round(gamma)
        return {
            "prompt": self.assisted_prefill / whole,
            "draft": drafting / whole,
            "checks": (whole - self.assisted_prefill - drafting) / whole,
        }


def rounds(acceptance_rate: float, num_assistant_tokens: int, new_tokens: float) -> float:
    """Rounds until an answer of n tokens is there, on average; the last one mostly runs past its end.

    A round gives k tokens with the chance α^(k-1) (1 - α), k = 1 to γ, or γ + 1 with the chance α^γ; the mean count is
    that of a renewal process, n / E and about half a round more.
    """
    alpha, gamma = acceptance_rate, num_assistant_tokens
    chances = [alpha ** (k - 1) * (1 - alpha) for k in range(1, gamma + 1)] + [alpha**gamma]
    taken = [0.0]  # for 0, 1, 2 ... tokens
    for n in range(1, math.ceil(new_tokens) + 1):
        taken.append(1 + sum(chance * taken[max(n - k, 0)] for k, chance in enumerate(chances, start=1)))
    below, share = math.floor(new_tokens), new_tokens % 1
    return taken[below] + (share * (taken[below + 1] - taken[below]) if share else 0.0)


def expected_speedup(acceptance_rate: float, num_assistant_tokens: int, draft_cost: float) -> float:
    """(1 - α^(γ+1)) / ((1 - α)(γ·c + 1)): Leviathan et al. 2023, theorem 3.8.

    Raises:
        EvalUsageError: α outside [0, 1], γ below 1, or a negative c.
    """
    return Costs(draft_cost).speedup(acceptance_rate, num_assistant_tokens)


def best_tokens(acceptance_rate: float, draft_cost: float, most: int = MOST_TOKENS) -> int:
    """The γ from 1 to `most` with the largest expected speed-up; the smallest of equal ones."""
    return Costs(draft_cost).best_tokens(acceptance_rate, most=most)


def needed_acceptance(draft_cost: float, speedup: float, most: int = MOST_TOKENS) -> float | None:
    """The smallest α, to three decimals, whose best γ is expected to give `speedup`; None where none does."""
    low, high = 0.0, 1.0
    if _best(1.0, draft_cost, most) < speedup:
        return None
    while high - low > 5e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if _best(middle, draft_cost, most) >= speedup else (middle, high)
    return math.ceil(high * 1000) / 1000


def _best(alpha: float, cost: float, most: int) -> float:
    return expected_speedup(alpha, best_tokens(alpha, cost, most), cost)


def median_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of a median."""
    data = np.asarray(values, dtype=float)
    drawn = data[np.random.default_rng(seed).integers(len(data), size=(DRAWS, len(data)))]  # [draws, n]
    low, high = np.quantile(np.median(drawn, axis=1), (0.025, 0.975))
    return float(low), float(high)


def share_interval(kept: Sequence[float], tried: Sequence[float], seed: int = 0) -> tuple[float, float] | None:
    """95 % interval of Σ kept / Σ tried, prompts drawn with replacement; None where nothing was tried."""
    kept_, tried_ = np.asarray(kept, dtype=float), np.asarray(tried, dtype=float)
    if tried_.sum() == 0:
        return None
    drawn = np.random.default_rng(seed).integers(len(tried_), size=(DRAWS, len(tried_)))  # [draws, n]
    totals = tried_[drawn].sum(axis=1)  # [draws]
    shares = kept_[drawn].sum(axis=1)[totals > 0] / totals[totals > 0]
    low, high = np.quantile(shares, (0.025, 0.975))
    return float(low), float(high)
