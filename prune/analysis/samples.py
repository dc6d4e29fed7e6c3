"""A bounded random sample of tokens, the same whatever the order of documents, the batch size or the number of parts.

Every token has a fixed pseudo-random priority, a hash of its document's place in the domain and of its own place in
the document; a sample is the `capacity` tokens of lowest priority. So memory does not grow with the number of
documents, two parts merge into exactly the sample of the whole, and a domain with no more tokens than that is used in
full.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


def token_priority(document: np.ndarray, position: np.ndarray, salt: int = 0) -> np.ndarray:
    """[n] uint64: a hash of document and position [n] (the finaliser of splitmix64).

    Args:
        document: places of the documents in their domain.
        position: places of the tokens in their documents.
        salt: draws the same token more than once (one priority each).
    """
    key = (document.astype(np.uint64) << np.uint64(32)) + (position.astype(np.uint64) << np.uint64(8)) + np.uint64(salt)
    key = key + np.uint64(0x9E3779B97F4A7C15)  # wraps, as it should
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))


@dataclass
class TokenSample:
    """The tokens of lowest priority of one domain, with what was measured at them.

    Attributes:
        capacity: tokens kept at most.
        seen: tokens offered so far.
        priority: [n] uint64, ascending.
        group: [n] the resampling group of each token's document.
        stored: name -> [n, *shape]; a newcomer takes the place of the token that it drives out, so these are in no
            order of their own.
        place: [n] where the values of each token lie in `stored`.
    """

    capacity: int
    seen: int = 0
    priority: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))
    group: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    stored: dict[str, np.ndarray] = field(default_factory=dict)
    place: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    def values(self, name: str) -> np.ndarray:
        """[n, *shape] what was measured, in the order of priority; a copy."""
        return self.stored[name][self.place]

    @property
    def tokens_per_sample(self) -> float:
        """How many tokens of the domain one sampled token stands for."""
        return self.seen / max(1, len(self.priority))

    def admits(self, priority: np.ndarray) -> np.ndarray:
        """[n] bool: which tokens of these priorities would be kept if nothing else came; counts none of them."""
        kept = np.zeros(len(priority), dtype=bool)
        kept[np.argsort(priority, kind="stable")[: self.capacity]] = True
        if len(self.priority) == self.capacity:
            kept &= priority < self.priority[-1]
        return kept

    def add(self, priority: np.ndarray, group: np.ndarray, values: Mapping[str, np.ndarray], offered: int) -> None:
        """Fold in tokens that were admitted.

        Args:
            priority: [n].
            group: [n].
            values: name -> [n, *shape].
            offered: how many tokens they were chosen from.
        """
        self.seen += offered
        if not len(priority):
            return
        held, joined = len(self.priority), np.concatenate([self.priority, priority])
        order = np.argsort(joined, kind="stable")[: self.capacity]
        newcomers = np.sort(order[order >= held]) - held
        driven_out = np.setdiff1d(np.arange(held), order)
        places = np.concatenate([self.place[driven_out], np.arange(held, held + len(newcomers) - len(driven_out))])
        place = np.concatenate([self.place, np.zeros(len(priority), dtype=np.int64)])
        place[held + newcomers] = places
        for name, value in values.items():
            reused, entering = len(driven_out), value[newcomers]
            if len(newcomers) > reused:
                old = self.stored.get(name, value[:0])
                self.stored[name] = np.concatenate([old, entering[reused:]])
            self.stored[name][places[:reused]] = entering[:reused]
        self.priority, self.place = joined[order], place[order]
        self.group = np.concatenate([self.group, group])[order]

    def merge(self, other: TokenSample) -> None:
        """Fold in the sample of another part of the same domain."""
        values = {name: other.values(name) for name in other.stored}
        self.add(other.priority, other.group, values, other.seen)
