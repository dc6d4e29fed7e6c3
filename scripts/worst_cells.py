"""Populations at their floor, decoded from points of a cube: what the search for the gate's worst cell moves through.

Every family maps a point of [0, 1)^size to a population whose true retention is exactly its floor, or to None where
there is none. `search` is an evolution with successive halving: each generation keeps the points with most false
verdicts at few experiments, tries these again with more, and varies them. What it finds is judged with fresh draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from evals.population import GIANT, Mixed, Scenario, losing

Population = Scenario | Mixed
Rate = Callable[[Population, int, int], float]
"""Share of wrong verdicts, given the number of experiments and a seed."""

FLOORS = (0.98, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)
LOST_TIMES = 9.2
"""Nats of a candidate that knows nothing (8 bits a byte) over those of an original with 0.6 a byte."""


def _pick(options: Sequence[float], at: float) -> float:
    return options[int(at * len(options))]


def _sizes(at: np.ndarray, smallest: int, largest: float) -> list[int]:
    return [round(smallest * (largest / smallest) ** u) for u in at]


def _suite(sizes: list[int], losses: np.ndarray, floor: float, **common: object) -> Mixed | None:
    if not losses.sum():
        return None
    try:
        return losing(sizes, losses.tolist(), floor=floor, **common)
    except ValueError:
        return None


def answers(at: np.ndarray) -> Mixed | None:
    """One to eight tasks of 8 to 5000 answers, right or wrong; the loss anywhere, gains among them."""
    tasks, chance = 1 + int(at[0] * 8), _pick((0.0, 0.25, 0.5), at[2])
    losses = np.where(at[14 : 14 + tasks] < 0.4, 0, at[14 : 14 + tasks] - 0.4) ** 2
    if at[22] > 0.7:
        losses = losses - at[23 : 23 + tasks] * losses.max() / 2
    return _suite(
        _sizes(at[6 : 6 + tasks], 8, _pick((12, 60, 5000), at[5])), losses, _pick(FLOORS, at[1]),
        kind="right or wrong", chance=chance, original=chance + (1 - chance) * (0.1 + 0.89 * at[4]),
        correlation=_pick((0.0, 0.5, 0.8, 1.0), at[3]),
    )  # fmt: skip


def grades(at: np.ndarray) -> Mixed | None:
    """One to four tasks of 8 to 800 graded answers."""
    tasks = 1 + int(at[0] * 4)
    losses = np.where(at[8 : 8 + tasks] < 0.3, 0, at[8 : 8 + tasks])
    suite = _suite(
        _sizes(at[4 : 4 + tasks], 8, 800), losses, _pick(FLOORS, at[1]), kind="graded", chance=0.0,
        original=0.05 + 0.9 * at[2], correlation=_pick((0.0, 0.8, 1.0), at[3]),
    )  # fmt: skip
    return suite if suite and all(0.01 < member.candidate < 0.99 for member in suite.members) else None


def clusters(at: np.ndarray) -> Scenario | None:
    """Four to 600 clusters: equal, geometric, or with few giants in which all is lost (four of them on average)."""
    size, count, shape = int(_pick((2, 3, 5, 10, 30), at[0])), _sizes(at[1:2], 4, 600)[0], int(at[6] * 3)
    giant = min(0.3, max(4 / count, 0.01 * 30 ** at[7])) if shape == 2 else 0.0
    floor = _pick(FLOORS, at[2])
    if giant and 1 - floor > GIANT * giant / (GIANT * giant + 1 - giant):
        return None
    return Scenario(
        "right or wrong", size * count, 0.1 + 0.89 * at[3], 0.0, floor, _pick((0.0, 0.8, 1.0), at[4]), floor=floor,
        cluster=size, within=_pick((0.1, 0.5, 1.0), at[5]), unequal=shape == 1, giant=giant,
    )  # fmt: skip


def texts(at: np.ndarray) -> Scenario | None:
    """30 to 1500 documents; up to a fifth of them, any or the longest, hold 0.3 to 1.2 times the loss."""
    floor, share = _pick((0.95, 0.9, 0.8, 0.6), at[0]), 0.0005 * 400 ** at[2]
    base = Scenario(
        "bits per byte", _sizes(at[1:2], 30, 1500)[0], 0.6, 0.0, floor, _pick((1.0, 0.9), at[6]), floor=floor,
        heavy=share, longest=bool(at[3] > 0.6), tail=_pick((0.0, 0.0, 1.5, 2.5), at[4]),
    )  # fmt: skip
    held = base.heavy_bytes
    times = 1 + (1 / floor - 1) / held * (0.3 + 0.9 * at[5])
    return replace(base, times=times) if times <= LOST_TIMES and times * held < 1 / floor else None


@dataclass(frozen=True)
class Family:
    """A space of populations: points of [0, 1)^size.

    Attributes:
        points: that a generation tries.
        experiments: of each point, of the better quarter, and of the six best so far.
    """

    size: int
    decode: Callable[[np.ndarray], Population | None]
    points: int = 32
    experiments: tuple[int, int, int] = (50, 200, 600)


FAMILIES = {
    "answers": Family(31, answers),
    "clusters": Family(8, clusters),
    # An experiment on scores that all differ takes ten times as long.
    "graded": Family(12, grades, points=12, experiments=(25, 60, 150)),
    "texts": Family(7, texts, points=12, experiments=(25, 60, 150)),
}


def search(family: Family, rate: Rate, *, generations: int, seed: int) -> Iterator[Population]:
    """The three populations with most wrong verdicts, worst first as far as few experiments tell."""
    first, second, third = family.experiments
    rng = np.random.default_rng(seed)
    kept: list[tuple[float, np.ndarray]] = []

    def best(tried: list[np.ndarray], experiments: int, count: int) -> list[tuple[float, np.ndarray]]:
        rated = [(rate(_decoded(family, at), experiments, int(rng.integers(2**31))), at) for at in tried]
        return sorted(rated, key=lambda pair: -pair[0])[:count]

    for _ in range(generations):
        found = best(_generation(family, [at for _, at in kept], rng), first, family.points // 4)
        kept += best([at for _, at in found], second, family.points // 4)
        kept = best([at for _, at in sorted(kept, key=lambda pair: -pair[0])[:6]], third, 6)
    yield from (_decoded(family, at) for _, at in kept[:3])


def _generation(family: Family, parents: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """Points that decode: three in four vary a quarter of a parent's coordinates, the others are drawn anew."""
    found: list[np.ndarray] = []
    while len(found) < family.points:
        at = rng.random(family.size)
        if parents and rng.random() < 0.75:
            parent = parents[rng.integers(len(parents))]
            moved = np.clip(parent + rng.normal(0, 0.2, family.size), 0, 1 - 1e-9)
            at = np.where(rng.random(family.size) < 0.25, moved, parent)
        if family.decode(at) is not None:
            found.append(at)
    return found


def _decoded(family: Family, at: np.ndarray) -> Population:
    population = family.decode(at)
    assert population is not None
    return population
