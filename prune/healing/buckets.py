"""A distribution by its k most likely tokens, and everything else as one bucket: what distillation needs of a teacher.

With S the k tokens, q their probabilities under the teacher, r = 1 - Σ_S q the mass of the rest, p the student's
probabilities and P_r = 1 - Σ_S p, the divergence between the two coarse distributions is

    Σ_S q_i ln(q_i / p_i) + r ln(r / P_r)

which is what the full divergence of p is from the teacher *completed by the student*: t_i = q_i in S and
t_i = r · p_i / P_r outside. The gradient is the same, too: d/dz_i = p_i - t_i. So `losses` treats a bucketed teacher as
any other, with `Buckets.completed` in place of its logits. It is never above the full divergence (grouping cannot
raise one), and equal to it where S is the vocabulary. Assumption: temperature 1; another one would need the
probabilities inside the bucket.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass

import torch

FLOOR = -80.0
"""Log-probabilities below it are it: e^-80 is nothing in float32, and infinities would make NaN of 0 · ∞."""
CHUNK = 1 << 22  # elements of a float32 copy: 16 MB
PREFIX = "taught_"
"""Of the names under which a batch carries buckets beside its tokens."""


@dataclass(frozen=True)
class Buckets:
    """Distributions over V tokens at N positions.

    Attributes:
        tokens: [N, k] int64, the most likely tokens; None where all V are there, in their order.
        log_probs: [N, k] float32, nats; with `log_rest` they sum to one.
        log_rest: [N] float32, of all other tokens together.
        entropy: [N] float32, of the whole distribution, nats.
    """

    tokens: torch.Tensor | None
    log_probs: torch.Tensor
    log_rest: torch.Tensor
    entropy: torch.Tensor

    def completed(self, rows: slice, log_p: torch.Tensor) -> torch.Tensor:
        """[n, V] log-probabilities at some positions: ours inside the k, the student's in proportion outside.

        Args:
            rows: which positions.
            log_p: [n, V] log-probabilities of the student there.
        """
        if self.tokens is None:
            return self.log_probs[rows]
        tokens = self.tokens[rows]  # [n, k]
        outside = log_p.scatter(1, tokens, -torch.inf).logsumexp(1, keepdim=True)  # [n, 1]
        return (log_p - outside + self.log_rest[rows].unsqueeze(1)).scatter_(1, tokens, self.log_probs[rows])

    def beside(self) -> dict[str, torch.Tensor]:
        """As entries of a batch of tensors."""
        return {f"{PREFIX}{name}": value for name, value in vars(self).items() if value is not None}

    @classmethod
    def taken(cls, batch: MutableMapping[str, torch.Tensor]) -> Buckets | None:
        """Out of a batch what `beside` put in; None where there is nothing."""
        names = ("tokens", "log_probs", "log_rest", "entropy")
        found = {name: batch.pop(f"{PREFIX}{name}", None) for name in names}
        return None if found["log_probs"] is None else cls(**found)  # type: ignore[arg-type]

    def apart(self, counts: Sequence[int]) -> list[Buckets]:
        """The positions in groups of so many, in main memory."""
        split = {name: value.cpu().split(list(counts)) for name, value in vars(self).items() if value is not None}
        groups = zip(*split.values(), strict=True)
        return [Buckets(**{"tokens": None, **dict(zip(split, group, strict=True))}) for group in groups]

    @classmethod
    def joined(cls, parts: Sequence[Buckets]) -> Buckets:
        """The positions of all parts, one after the other."""
        tokens = [part.tokens for part in parts if part.tokens is not None]
        rest = {n: torch.cat([getattr(part, n) for part in parts]) for n in ("log_probs", "log_rest", "entropy")}
        return cls(torch.cat(tokens) if tokens else None, **rest)


def bucketed(logits: torch.Tensor, top_k: int) -> Buckets:
    """The k most likely tokens of each distribution and the rest; of all V tokens, in their order, where k is 0 or V.

    Args:
        logits: [N, V], any float type.
        top_k: k.
    """
    rows = max(1, CHUNK // logits.shape[1])
    return Buckets.joined([_bucketed(part.float().log_softmax(-1), top_k) for part in logits.split(rows)])


def _bucketed(log_q: torch.Tensor, top_k: int) -> Buckets:
    floored = log_q.clamp_min(FLOOR)  # [n, V]
    entropy = -(log_q.exp() * floored).sum(-1).clamp_max(0)  # [n]
    if top_k == 0 or top_k >= log_q.shape[1]:
        return Buckets(None, floored, torch.full_like(entropy, FLOOR), entropy)
    values, tokens = floored.topk(top_k, -1)  # [n, k]
    rest = log_q.scatter(1, tokens, -torch.inf).logsumexp(1).clamp_min(FLOOR)  # [n]
    return Buckets(tokens, values, rest, entropy)


def of_likeliest(tokens: torch.Tensor, log_probs: torch.Tensor) -> Buckets:
    """From the k likeliest tokens alone; `entropy` is that of their bucketed distribution, which is never larger.

    Args:
        tokens: [N, k].
        log_probs: [N, k], nats, of which Σ exp ≤ 1 but for rounding.
    """
    values = log_probs.float().clamp_min(FLOOR)
    mass = values.double().exp().sum(-1).clamp_max(1)  # [N]
    rest = (-mass).log1p().clamp_min(FLOOR)  # [N]
    entropy = -((values.double().exp() * values).sum(-1) + rest.exp() * rest)
    return Buckets(tokens, values, rest.float(), entropy.float())


def normalised(log_probs: torch.Tensor, log_rest: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both so that they sum to one again, which numbers stored in half precision do not quite."""
    total = torch.logaddexp(log_probs.logsumexp(-1), log_rest)  # [N]
    return log_probs - total.unsqueeze(1), log_rest - total
