"""Scoring many layer subsets over one batch, each from the first layer where it leaves an already evaluated one.

The subsets form a tree of prefixes: a shared prefix is run once, a prefix of the full model is not run at all (the
clean pass has it), and the branching points of one call are remembered for the next, because a greedy search goes on
from a subset it has just scored. Assumption: a layer's output depends on the stream and the batch alone.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence, Set

import torch

from prune.model.tracing import Walk

Keep = tuple[int, ...]
Read = Callable[[torch.Tensor], torch.Tensor]


def shared_length(first: Keep, second: Keep) -> int:
    """Number of leading layers that two subsets have in common."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def prefixes(keep: Keep) -> set[Keep]:
    """Every beginning of a subset, the empty one and itself included."""
    return {keep[:length] for length in range(len(keep) + 1)}


def longest_known(keep: Keep, known: Set[Keep]) -> int:
    """Length of the longest beginning of a subset that is among `known`, which holds every beginning of its members."""
    return bisect.bisect_left(range(1, len(keep) + 1), True, key=lambda length: keep[:length] not in known)


def _is_clean(keep: Keep, length: int) -> bool:
    """Whether a subset begins with the first `length` layers of the full model: the clean pass holds that state."""
    return keep[:length] == tuple(range(length))


class PrefixTree:
    """Subsets of the layers of one `Walk`, each the steps that the walk runs: layers, or parts of layers.

    Attributes:
        walk: the batch's clean pass; step l of the full model is layer l.
        known: states [B, T, d] after prefixes that leave the full model, from the last call.
    """

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.known: dict[Keep, torch.Tensor] = {}
        self._branches: dict[Keep, torch.Tensor] = {}
        self._spare = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the stored streams."""
        states = [*self.walk.resid_pre, *self.known.values()]
        return sum(state.numel() * state.element_size() for state in states)

    def measure(self, keeps: Sequence[Keep], read: Read, spare_bytes: int = 0) -> dict[Keep, torch.Tensor]:
        """What `read` says of the final stream [B, T, d] of each subset.

        Args:
            keeps: the steps of each.
            read: of a stream after the last layer, one figure a document, such as `Walk.nll`.
            spare_bytes: how much may be spent on remembering branching points for the next call.

        Returns:
            subset -> [B] float64.
        """
        results: dict[Keep, torch.Tensor] = {}
        self._branches, self._spare = {}, spare_bytes
        self._visit(0, self.walk.resid_pre[0], sorted(set(keeps), reverse=True), read, results)
        self.known, self._branches = self._branches, {}
        return results

    def _visit(
        self, depth: int, hidden: torch.Tensor, group: list[Keep], read: Read, results: dict[Keep, torch.Tensor]
    ) -> None:
        """Score `group`, whose members share their first `depth` layers; `hidden` [B, T, d] is the state after them."""
        for _, same in itertools.groupby(group, key=lambda keep: keep[depth] if depth < len(keep) else None):
            members = list(same)
            end = shared_length(members[0], members[-1])
            state = self._advance(members[0], depth, end, hidden)  # [B, T, d]
            if len(members) == 1:
                results[members[0]] = read(state)  # [B]
                continue
            size = state.numel() * state.element_size()
            if not _is_clean(members[0], end) and size <= self._spare:
                self._branches[members[0][:end]] = state
                self._spare -= size
            self._visit(end, state, members, read, results)

    def _advance(self, keep: Keep, depth: int, end: int, hidden: torch.Tensor) -> torch.Tensor:
        """The state after `keep[:end]`, from the longest prefix at hand; `hidden` is the state after `keep[:depth]`."""
        for length in range(end, depth, -1):
            state = self.walk.resid_pre[length] if _is_clean(keep, length) else self.known.get(keep[:length])
            if state is not None:
                return self.walk.run(state, keep[length:end])
        return self.walk.run(hidden, keep[depth:end])
