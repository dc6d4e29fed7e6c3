"""How often the gate lets a candidate pass that keeps exactly the floor and no more: its error rates, by simulation.

Each experiment draws the answers of two models whose true retention is known, and judges them with the gate's own
interval and rule. Four tables, which stand in evals/README.md: one suite; items in clusters that depend on each other,
declared to the gate and not; several suites under Holm's procedure; a choice among several candidates, by the
shallowest PASS and by fixed-sequence testing.

    python scripts/simulate_gate.py [--tables suite,clusters,suites,candidates] [--experiments 2000] [--bootstrap 2000]
        [--seed 0] [--output table.md]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evals.gate import confirmed, holm_levels, verdict_of
from evals.population import Kind, Scenario
from evals.retention import retention_interval


@dataclass(frozen=True)
class Rates:
    """Shares of verdicts over the experiments of one scenario."""

    passed: float
    failed: float


def simulate(scenario: Scenario, *, experiments: int, bootstrap: int, alpha: float = 0.05, seed: int = 0) -> Rates:
    """Judge `experiments` independent draws of a scenario at level `alpha`."""
    rng = np.random.default_rng(seed)
    verdicts = []
    for experiment in range(experiments):
        interval = retention_interval(scenario.draw(rng), seed=experiment, bootstrap=bootstrap, alpha=alpha)
        verdicts.append(verdict_of(interval, scenario.floor, alpha))
    return Rates(verdicts.count("PASS") / experiments, verdicts.count("FAIL") / experiments)


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


@dataclass(frozen=True)
class SuiteRates:
    """Shares of experiments in which some suite at its floor got a verdict that it should not have."""

    any_false_pass: float
    any_false_fail: float
    any_false_pass_uncorrected: float
    all_pass: float


def simulate_suites(
    case: Suites, *, experiments: int, bootstrap: int, alpha: float = 0.05, seed: int = 0
) -> SuiteRates:
    """Judge several suites at once, by Holm's procedure and, for comparison, each at the full level."""
    rng = np.random.default_rng(seed)
    counts = np.zeros(4)
    for experiment in range(experiments):
        drawn = [case.members[0].draw(rng)] * len(case.members) if case.shared else [m.draw(rng) for m in case.members]
        intervals = [
            retention_interval(pairs, seed=experiment * 100 + index, bootstrap=bootstrap, alpha=alpha)
            for index, pairs in enumerate(drawn)
        ]
        p_values = {
            str(i): interval.p_value(m.floor)
            for i, (interval, m) in enumerate(zip(intervals, case.members, strict=True))
        }
        levels = holm_levels(p_values, alpha)
        judged = [
            verdict_of(x, m.floor, levels[str(i)]) for i, (x, m) in enumerate(zip(intervals, case.members, strict=True))
        ]
        alone = [verdict_of(x, m.floor, alpha) for x, m in zip(intervals, case.members, strict=True)]
        at_floor = [m.retention <= m.floor for m in case.members]
        counts += [
            any(v == "PASS" and null for v, null in zip(judged, at_floor, strict=True)),
            any(v == "FAIL" and null for v, null in zip(judged, at_floor, strict=True)),
            any(v == "PASS" and null for v, null in zip(alone, at_floor, strict=True)),
            all(v == "PASS" for v in judged),
        ]
    return SuiteRates(*(counts / experiments))


@dataclass(frozen=True)
class Candidates:
    """Several candidates of one original, deepest first, judged on the same items.

    Attributes:
        retentions: what each truly keeps.
    """

    name: str
    retentions: tuple[float, ...]
    base: Scenario


@dataclass(frozen=True)
class ChoiceRates:
    """Shares of experiments that ship a candidate which keeps no more than the floor, and that ship the right one."""

    wrong_by_shallowest_pass: float
    wrong_by_fixed_sequence: float
    best_by_shallowest_pass: float
    best_by_fixed_sequence: float


def simulate_choice(
    case: Candidates, *, experiments: int, bootstrap: int, alpha: float = 0.05, seed: int = 0
) -> ChoiceRates:
    """Choose among candidates in two ways; the best choice is the last of those that keep more than the floor."""
    rng = np.random.default_rng(seed)
    floor = case.base.floor
    good = sum(retention > floor for retention in case.retentions)
    assert list(case.retentions) == sorted(case.retentions, reverse=True)
    counts = np.zeros(4)
    for experiment in range(experiments):
        original = (rng.random(case.base.n) < case.base.original).astype(float)  # [n]
        verdicts = []
        for index, retention in enumerate(case.retentions):
            pairs = replace(case.base, retention=retention).against(original, rng)
            interval = retention_interval([pairs], seed=experiment * 100 + index, bootstrap=bootstrap, alpha=alpha)
            verdicts.append(verdict_of(interval, floor, alpha))
        shallowest = max((i + 1 for i, verdict in enumerate(verdicts) if verdict == "PASS"), default=0)
        in_order = confirmed(verdicts)
        counts += [shallowest > good, in_order > good, shallowest == good, in_order == good]
    return ChoiceRates(*(counts / experiments))


def suite_cases() -> Iterator[Suites]:
    """All at the floor, some clearly above it, independent and the same items; small and large n."""
    for n in (100, 1000):
        at = Scenario("right or wrong", n, 0.7, 0.0, 0.95, 0.8)
        above = replace(at, retention=1.0)
        yield Suites(f"2 at the floor, {n} items each", (at,) * 2)
        yield Suites(f"5 at the floor, {n} items each", (at,) * 5)
        yield Suites(f"5 at the floor, the same {n} items", (at,) * 5, shared=True)
        yield Suites(f"2 at the floor, 3 that keep everything, {n} items each", (at, at, above, above, above))


def candidate_cases() -> Iterator[Candidates]:
    """Five candidates: all at the floor (the worst case for any choice), falling through it, all good."""
    for n in (200, 1319):
        base = Scenario("right or wrong", n, 0.7, 0.0, 0.95, 0.8)
        yield Candidates(f"5 at the floor, {n} items", (0.95,) * 5, base)
        yield Candidates(f"1.0, 1.0, then 3 at the floor, {n} items", (1.0, 1.0, 0.95, 0.95, 0.95), base)
        yield Candidates(f"1.0, 0.99, 0.98, 0.93, 0.85, {n} items", (1.0, 0.99, 0.98, 0.93, 0.85), base)


@dataclass(frozen=True)
class Run:
    """Settings of every simulation."""

    experiments: int
    bootstrap: int
    seed: int

    @property
    def full(self) -> dict[str, int]:
        return {"experiments": self.experiments, "bootstrap": self.bootstrap, "seed": self.seed}

    @property
    def quarter(self) -> dict[str, int]:
        return self.full | {"experiments": max(1, self.experiments // 4)}


COLUMNS = (
    "score", "tasks x items", "original", "chance", "floor", "correlation", "false PASS", "false FAIL", "power"
)  # fmt: skip
CLUSTER_COLUMNS = (
    "score", "clusters x items", "within", "between models", "chance", "false PASS", "false FAIL", "power",
    "false PASS undeclared",
)  # fmt: skip
SUITE_COLUMNS = ("suites", "any false PASS", "any false FAIL", "any false PASS without Holm", "all PASS")
CHOICE_COLUMNS = (
    "candidates, deepest first", "wrong: shallowest PASS", "wrong: fixed sequence",
    "best: shallowest PASS", "best: fixed sequence",
)  # fmt: skip


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _suite_rows(run: Run) -> Iterator[list[str]]:
    """Power: how often a candidate that keeps everything passes."""
    for scenario in scenarios():
        at_floor, power = simulate(scenario, **run.full), simulate(replace(scenario, retention=1.0), **run.quarter)
        figures = (scenario.original, scenario.chance, scenario.floor)
        rates = (f"{at_floor.passed:.2%}", f"{at_floor.failed:.2%}", f"{power.passed:.0%}")
        size = f"{scenario.tasks} x {scenario.n}"
        yield [scenario.kind, size, *(f"{x:.2f}" for x in figures), f"{scenario.correlation:.1f}", *rates]


def _cluster_rows(run: Run) -> Iterator[list[str]]:
    for scenario in cluster_scenarios():
        at_floor, power = simulate(scenario, **run.full), simulate(replace(scenario, retention=1.0), **run.quarter)
        ignored = simulate(replace(scenario, declared=False), **run.full)
        size = f"{scenario.n // scenario.cluster} x {scenario.cluster}{', unequal' if scenario.unequal else ''}"
        figures = (scenario.within, scenario.correlation, scenario.chance)
        rates = (f"{at_floor.passed:.2%}", f"{at_floor.failed:.2%}", f"{power.passed:.0%}", f"{ignored.passed:.2%}")
        yield [scenario.kind, size, *(f"{x:.2f}" for x in figures), *rates]


def _suites_rows(run: Run) -> Iterator[list[str]]:
    for suites in suite_cases():
        yield [suites.name, *(f"{rate:.2%}" for rate in astuple(simulate_suites(suites, **run.full)))]


def _candidate_rows(run: Run) -> Iterator[list[str]]:
    for candidates in candidate_cases():
        yield [candidates.name, *(f"{rate:.2%}" for rate in astuple(simulate_choice(candidates, **run.full)))]


TABLES: dict[str, tuple[Sequence[str], Callable[[Run], Iterator[list[str]]]]] = {
    "suite": (COLUMNS, _suite_rows),
    "clusters": (CLUSTER_COLUMNS, _cluster_rows),
    "suites": (SUITE_COLUMNS, _suites_rows),
    "candidates": (CHOICE_COLUMNS, _candidate_rows),
}


def tables(names: Sequence[str], run: Run) -> Iterator[str]:
    """The Markdown tables row by row."""
    for name in names:
        columns, rows = TABLES[name]
        yield _row(columns)
        yield "| --- " * len(columns) + "|"
        yield from map(_row, rows(run))
        yield ""


def main() -> None:
    """Print the tables, row by row, and write them where asked."""
    parser = argparse.ArgumentParser(
        description="False PASS and FAIL rates of the gate at a true retention at the floor."
    )
    parser.add_argument("--tables", default=",".join(TABLES), help="which, with commas")
    parser.add_argument("--experiments", type=int, default=2000)
    parser.add_argument("--bootstrap", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=None, help="also write the tables here")
    options = parser.parse_args()
    names = options.tables.split(",")
    if unknown := set(names) - TABLES.keys():
        parser.error(f"--tables {', '.join(sorted(unknown))}: choose from {', '.join(TABLES)}")
    lines = []
    for line in tables(names, Run(options.experiments, options.bootstrap, options.seed)):
        print(line, flush=True)
        lines.append(line)
    if options.output:
        options.output.write_text("\n".join(lines), encoding="utf8")


if __name__ == "__main__":
    main()
