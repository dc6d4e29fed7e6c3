"""How often the gate lets a candidate pass that keeps exactly the floor and no more: its error rates, by simulation.

Each experiment draws the answers of two models whose true retention is known, and judges them with the gate's own
interval and rule. The tables stand in evals/README.md: one suite; tasks of unequal sizes; texts, few of them heavy; the
worst cells that a search finds (`worst_cells.py`); the power that is promised beside the power that is found; items in
clusters that depend on each other, declared to the gate and not; several suites under Holm's procedure; a choice among
several candidates, by the shallowest PASS and by fixed-sequence testing.

    python scripts/simulate_gate.py [--tables unequal,texts,worst,power,suite,clusters,suites,candidates]
        [--experiments 2000] [--bootstrap 2000] [--seed 0] [--output table.md] [--resume finished.jsonl]

With `--resume` every simulation is written down when it ends, and one that stands there is not run again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from evals.gate import confirmed, holm_levels, verdict_of
from evals.population import Mixed, Scenario
from evals.power import power_check
from evals.retention import retention_interval
from evals.suite import Suite, TaskSpec
from scripts.gate_cases import (
    Candidates,
    Suites,
    candidate_cases,
    cluster_scenarios,
    power_cases,
    scenarios,
    suite_cases,
    text_cells,
    unequal_cells,
)
from scripts.worst_cells import FAMILIES, Population, search


@dataclass(frozen=True)
class Rates:
    """Shares of verdicts over the experiments of one scenario."""

    passed: float
    failed: float


def simulate(scenario: Population, *, experiments: int, bootstrap: int, alpha: float = 0.05, seed: int = 0) -> Rates:
    """Judge `experiments` independent draws of a scenario at level `alpha`."""
    rng = np.random.default_rng(seed)
    verdicts = []
    for experiment in range(experiments):
        interval = retention_interval(scenario.draw(rng), seed=experiment, bootstrap=bootstrap, alpha=alpha)
        verdicts.append(verdict_of(interval, scenario.floor, alpha))
    return Rates(verdicts.count("PASS") / experiments, verdicts.count("FAIL") / experiments)


def wrong_share(population: Population, side: str, *, experiments: int, bootstrap: int, seed: int) -> float:
    """Share of PASS (side `PASS`) or FAIL; 0 where none of the first fifty experiments has it."""
    tried, wrong = 0, 0.0
    for count in (50, experiments - 50) if experiments > 50 else (experiments,):
        rates = simulate(population, experiments=count, bootstrap=bootstrap, seed=seed + tried)
        wrong += count * (rates.passed if side == "PASS" else rates.failed)
        tried += count
        if not wrong:
            return 0.0
    return wrong / tried


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


@dataclass(frozen=True)
class Run:
    """Settings of every simulation."""

    experiments: int
    bootstrap: int
    seed: int
    finished: dict[str, list[float]] = field(default_factory=dict)
    log: Path | None = None

    def once(self, what: object, work: Callable[[], Sequence[float]]) -> list[float]:
        """Figures of a simulation, from the log where they stand there."""
        key = f"{what!r} {self.full}"
        if key not in self.finished:
            self.finished[key] = [float(figure) for figure in work()]
            if self.log:
                with self.log.open("a", encoding="utf8") as file:
                    file.write(json.dumps([key, self.finished[key]]) + "\n")
        return self.finished[key]

    def rates(self, population: Population, settings: dict[str, int]) -> Rates:
        """`simulate`, once."""
        return Rates(*self.once((population, settings), lambda: astuple(simulate(population, **settings))))

    @property
    def full(self) -> dict[str, int]:
        return {"experiments": self.experiments, "bootstrap": self.bootstrap, "seed": self.seed}

    @property
    def quarter(self) -> dict[str, int]:
        return self.full | {"experiments": max(1, self.experiments // 4)}


COLUMNS = (
    "score", "tasks x items", "original", "chance", "floor", "correlation", "false PASS", "false FAIL", "power"
)  # fmt: skip
UNEQUAL_COLUMNS = ("score", "items of each task", "floor", "the loss is in", "false PASS", "false FAIL", "power")
TEXT_COLUMNS = ("documents", "lengths", "heavy ones", "floor", "false PASS", "false FAIL", "power")
WORST_COLUMNS = ("family", "searched for false", "worst cell found", "false PASS", "false FAIL")
POWER_COLUMNS = ("items of each task", "floor", "discordant", "power said", "power simulated", "items needed for 80 %")
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
        at_floor, power = run.rates(scenario, run.full), run.rates(replace(scenario, retention=1.0), run.quarter)
        figures = (scenario.original, scenario.chance, scenario.floor)
        rates = (f"{at_floor.passed:.2%}", f"{at_floor.failed:.2%}", f"{power.passed:.0%}")
        size = f"{scenario.tasks} x {scenario.n}"
        yield [scenario.kind, size, *(f"{x:.2f}" for x in figures), f"{scenario.correlation:.1f}", *rates]


def _cluster_rows(run: Run) -> Iterator[list[str]]:
    for scenario in cluster_scenarios():
        at_floor, power = run.rates(scenario, run.full), run.rates(replace(scenario, retention=1.0), run.quarter)
        ignored = run.rates(replace(scenario, declared=False), run.full)
        size = f"{scenario.n // scenario.cluster} x {scenario.cluster}{', unequal' if scenario.unequal else ''}"
        figures = (scenario.within, scenario.correlation, scenario.chance)
        rates = (f"{at_floor.passed:.2%}", f"{at_floor.failed:.2%}", f"{power.passed:.0%}", f"{ignored.passed:.2%}")
        yield [scenario.kind, size, *(f"{x:.2f}" for x in figures), *rates]


def _suites_rows(run: Run) -> Iterator[list[str]]:
    for suites in suite_cases():
        found = run.once(suites, lambda case=suites: astuple(simulate_suites(case, **run.full)))
        yield [suites.name, *(f"{rate:.2%}" for rate in found)]


def _candidate_rows(run: Run) -> Iterator[list[str]]:
    for candidates in candidate_cases():
        found = run.once(candidates, lambda case=candidates: astuple(simulate_choice(case, **run.full)))
        yield [candidates.name, *(f"{rate:.2%}" for rate in found)]


def _unequal_rows(run: Run) -> Iterator[list[str]]:
    for where, suite in unequal_cells():
        at_floor = run.rates(suite, run.full)
        equal = Mixed(tuple(replace(member, retention=1.0, correlation=0.8) for member in suite.members), suite.floor)
        power = run.rates(equal, run.quarter)
        rates = (f"{at_floor.passed:.2%}", f"{at_floor.failed:.2%}", f"{power.passed:.0%}")
        yield [suite.members[0].kind, _sizes(suite), f"{suite.floor:.2f}", where, *rates]


def _text_rows(run: Run) -> Iterator[list[str]]:
    for scenario in text_cells():
        at_floor = run.rates(scenario, run.quarter)
        equal = replace(scenario, retention=1.0, heavy=0.0)
        lengths = f"Pareto {scenario.tail}" if scenario.tail else "50-5000 bytes"
        which = "the longest" if scenario.longest else "any"
        heavy = f"{scenario.heavy:.0%}, {which}, {scenario.times} x" if scenario.heavy else "none"
        rates = (f"{at_floor.passed:.2%}", f"{at_floor.failed:.2%}", f"{run.rates(equal, run.quarter).passed:.0%}")
        yield [str(scenario.n), lengths, heavy, f"{scenario.floor:.2f}", *rates]


def _worst_rows(run: Run) -> Iterator[list[str]]:
    """The search uses few experiments and resamples; the rates shown are of fresh draws."""
    for name, family in FAMILIES.items():
        for side in ("PASS", "FAIL"):

            def rate(population: Population, experiments: int, seed: int, side: str = side) -> float:
                settings = {"experiments": experiments, "bootstrap": 400, "seed": seed}
                return run.once((side, population, settings), lambda: [wrong_share(population, side, **settings)])[0]

            # The worst of several estimates lies above the truth unless each is of many experiments.
            settings = run.full | {"experiments": 4 * run.experiments} if name == "answers" else run.full
            found = search(family, rate, generations=3, seed=run.seed)
            rates = [(run.rates(population, settings | {"seed": run.seed + 1}), population) for population in found]
            worst, population = max(rates, key=lambda pair: pair[0].passed if side == "PASS" else pair[0].failed)
            yield [name, side, _described(population), f"{worst.passed:.2%}", f"{worst.failed:.2%}"]


def _described(population: Population) -> str:
    if isinstance(population, Mixed):
        kept = ", ".join(f"{member.retention:.2f}" for member in population.members)
        one = population.members[0]
        return f"{_sizes(population)} items keep {kept}; original {one.original:.2f}, chance {one.chance:.2f}, " + (
            f"correlation {one.correlation}, floor {population.floor}"
        )
    given = ("n", "original", "correlation", "floor", "cluster", "within", "unequal", "giant", "heavy", "times")
    shown = {name: getattr(population, name) for name in (*given, "longest", "tail")}
    return ", ".join(f"{name} {value:.3g}" for name, value in shown.items() if value)


def _sizes(suite: Mixed) -> str:
    sizes = [member.n for member in suite.members]
    return f"{len(sizes)} x {sizes[0]}" if len(set(sizes)) == 1 and len(sizes) > 1 else ", ".join(map(str, sizes))


def _power_rows(run: Run) -> Iterator[list[str]]:
    """An equal candidate: both models are right on 0.7 of the items, `discordant` of the answers differ."""
    for sizes, floor, discordant in power_cases():
        names = {f"t{i}": size for i, size in enumerate(sizes)}
        suite = Suite(name="s", floor=floor, tasks=[TaskSpec(task=name) for name in names])
        check = power_check(suite, None, sizes=names, discordant=discordant)
        correlation = 1 - discordant / 2 / (0.7 * 0.3)
        equal = Mixed(
            tuple(Scenario("right or wrong", n, 0.7, 0.0, 1.0, correlation, floor=floor) for n in sizes), floor
        )
        found = run.rates(equal, run.full).passed
        said = (f"{check.power:.0%}", f"{found:.0%}", f"{check.items_needed:,}")
        yield [_sizes(equal), f"{floor:.2f}", f"{discordant:.0%}", *said]


TABLES: dict[str, tuple[Sequence[str], Callable[[Run], Iterator[list[str]]]]] = {
    "unequal": (UNEQUAL_COLUMNS, _unequal_rows),
    "texts": (TEXT_COLUMNS, _text_rows),
    "worst": (WORST_COLUMNS, _worst_rows),
    "power": (POWER_COLUMNS, _power_rows),
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
    parser.add_argument("--resume", type=Path, default=None, help="log of finished simulations, made if missing")
    options = parser.parse_args()
    names = options.tables.split(",")
    if unknown := set(names) - TABLES.keys():
        parser.error(f"--tables {', '.join(sorted(unknown))}: choose from {', '.join(TABLES)}")
    finished = {}
    if options.resume and options.resume.is_file():
        finished = dict(json.loads(line) for line in options.resume.read_text(encoding="utf8").splitlines())
    lines = []
    for line in tables(names, Run(options.experiments, options.bootstrap, options.seed, finished, options.resume)):
        print(line, flush=True)
        lines.append(line)
    if options.output:
        options.output.write_text("\n".join(lines), encoding="utf8")


if __name__ == "__main__":
    main()
