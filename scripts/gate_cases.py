"""The experiments that `simulate_gate.py` draws: populations at the floor and above it, suites, candidates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from evals.population import Kind, Mixed, Scenario, losing


def scenarios() -> Iterator[Scenario]:
    """True retention at the floor: small and large n, independent to almost equal answers, every kind of score."""
    for n in (30, 100, 400, 1319):
        for correlation in (0.0, 0.8, 1.0):
            yield Scenario("right or wrong", n, 0.7, 0.0, 0.95, correlation)
    yield Scenario("right or wrong", 100, 0.98, 0.0, 0.95, 0.8)
    yield Scenario("right or wrong", 400, 0.15, 0.0, 0.95, 0.8)
    yield Scenario("right or wrong", 400, 0.6, 0.25, 0.95, 0.8)
    yield Scenario("right or wrong", 1000, 0.35, 0.25, 0.95, 0.8)
    yield Scenario("right or wrong", 50, 0.7, 0.0, 0.6, 0.8, floor=0.6)
    yield Scenario("right or wrong", 30, 0.7, 0.25, 0.95, 0.8, tasks=4)
    yield Scenario("right or wrong", 400, 0.7, 0.25, 0.95, 0.8, tasks=4)
    for n in (30, 400):
        yield Scenario("graded", n, 0.7, 0.0, 0.95, 0.8)
    for n in (30, 300):
        yield Scenario("bits per byte", n, 0.6, 0.0, 0.95, 1.0)


def cluster_scenarios() -> Iterator[Scenario]:
    """Few and many clusters, loosely and fully dependent, equal and unequal, every kind of score."""
    kind: Kind = "right or wrong"
    for n, cluster in ((40, 5), (150, 5), (500, 5), (1200, 3), (2000, 5)):
        for within in (0.1, 0.3, 1.0):
            yield Scenario(kind, n, 0.7, 0.0, 0.95, 0.8, cluster=cluster, within=within)
    yield Scenario(kind, 1200, 0.7, 0.0, 0.95, 0.0, cluster=3, within=0.3)
    yield Scenario(kind, 1200, 0.7, 0.0, 0.95, 1.0, cluster=3, within=0.3)
    yield Scenario(kind, 1200, 0.7, 0.25, 0.95, 0.8, cluster=3, within=0.3)
    for n in (150, 2000):
        yield Scenario(kind, n, 0.7, 0.0, 0.95, 0.8, cluster=5, within=0.3, unequal=True)
    yield Scenario("graded", 1200, 0.7, 0.0, 0.95, 0.8, cluster=3, within=0.3)
    yield Scenario("bits per byte", 300, 0.6, 0.0, 0.95, 1.0, cluster=5, within=0.3)


def unequal_cells() -> Iterator[tuple[str, Mixed]]:
    """Where the loss is, and suites at their floor whose tasks differ in size."""
    common = {"kind": "right or wrong", "chance": 0.0, "original": 0.7, "correlation": 1.0}
    for sizes in ([10, 500, 500, 500], [20, 500, 500], [30, 1000], [8, 9, 5000], [50, 200, 1000, 5000], [8] * 20):
        yield "the first task", losing(sizes, [1.0] + [0.0] * (len(sizes) - 1), **common)
    yield "all tasks", losing([10, 500, 500, 500], [1.0] * 4, **common)
    yield "the first task, gains in the others", losing([100, 500, 500, 500], [6.0, -1.0, -1.0, -1.0], **common)
    yield "the first task", losing([30, 300, 3000], [1.0, 0.0, 0.0], floor=0.8, **common)
    yield "the first task", losing([40, 40, 400], [1.0, 0.0, 0.0], floor=0.8, **common | {"kind": "graded"})
    yield "the first task", losing([500] * 4, [1.0, 0.0, 0.0, 0.0], **common)
    yield "all tasks", losing([500] * 4, [1.0] * 4, **common | {"correlation": 0.8})


def text_cells() -> Iterator[Scenario]:
    """Texts few of which hold the loss, and lengths with a heavy tail."""
    base = Scenario("bits per byte", 50, 0.6, 0.0, 0.95, 1.0, heavy=0.01, times=5.3)
    for n in (50, 200, 1000):
        yield replace(base, n=n)
    for n in (50, 500):
        yield replace(base, n=n, tail=1.5, heavy=0.0)
        yield replace(base, n=n, tail=1.5, longest=True, times=1.2)
    yield replace(base, n=1000, retention=0.8, floor=0.8, heavy=0.05, times=5.3)


def power_cases() -> Iterator[tuple[list[int], float, float]]:
    """Sizes, floor and share of discordant answers of suites in use."""
    for sizes in ([200], [680], [1319], [200] * 4, [500] * 4, [200] * 7, [10, 500, 500, 500], [100, 500, 500, 500]):
        yield sizes, 0.95, 0.10
    yield [126], 0.95, 0.02
    yield [219], 0.95, 0.02
    yield [55], 0.8, 0.10


@dataclass(frozen=True)
class Suites:
    """Several suites judged together.

    Attributes:
        members: one scenario a suite.
        shared: all suites hold the same items (the strongest dependence); else they are independent.
    """

    name: str
    members: tuple[Scenario, ...]
    shared: bool = False


def suite_cases() -> Iterator[Suites]:
    """All at the floor, some clearly above it, independent and the same items; small and large n."""
    for n in (100, 1000):
        at = Scenario("right or wrong", n, 0.7, 0.0, 0.95, 0.8)
        above = replace(at, retention=1.0)
        yield Suites(f"2 at the floor, {n} items each", (at,) * 2)
        yield Suites(f"5 at the floor, {n} items each", (at,) * 5)
        yield Suites(f"5 at the floor, the same {n} items", (at,) * 5, shared=True)
        yield Suites(f"2 at the floor, 3 that keep everything, {n} items each", (at, at, above, above, above))


@dataclass(frozen=True)
class Candidates:
    """Several candidates of one original, deepest first, judged on the same items.

    Attributes:
        retentions: what each truly keeps.
    """

    name: str
    retentions: tuple[float, ...]
    base: Scenario


def candidate_cases() -> Iterator[Candidates]:
    """Five candidates: all at the floor (the worst case for any choice), falling through it, all good."""
    for n in (200, 1319):
        base = Scenario("right or wrong", n, 0.7, 0.0, 0.95, 0.8)
        yield Candidates(f"5 at the floor, {n} items", (0.95,) * 5, base)
        yield Candidates(f"1.0, 1.0, then 3 at the floor, {n} items", (1.0, 1.0, 0.95, 0.95, 0.95), base)
        yield Candidates(f"1.0, 0.99, 0.98, 0.93, 0.85, {n} items", (1.0, 0.99, 0.98, 0.93, 0.85), base)
