"""`prune run`: measure, plan, cut, heal, test, judge, export and report, in one directory that survives anything.

Puts the rooms together and holds no mathematics. Each stage's inputs are hashes of what it depends on; see
`directory`. Every candidate is tested as it lies on disk, loaded again, so that what was judged is what ships.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.analysis.processes import join
from prune.errors import GateFailed, UsageError
from prune.estimates.stage import COLUMNS, cells
from prune.files import refuse_link
from prune.model.loading import load_config
from prune.runs.cures import in_a_run
from prune.runs.directory import RunDirectory
from prune.runs.estimate import RunEstimate, estimate_run
from prune.runs.following import Directory, FollowingDirectory, LeadingDirectory
from prune.runs.inputs import RunInputs
from prune.runs.recipe import Recipe, dump_recipe
from prune.runs.report import assemble, write_report
from prune.runs.stages.candidates import analyze_source, cut_plan, make_plans
from prune.runs.stages.cost import measure_cost
from prune.runs.stages.draft import try_drafts
from prune.runs.stages.export import export
from prune.runs.stages.heal import HealStages, check_healing, read_self_generated, round_depths
from prune.runs.stages.judge import judge_candidates
from prune.runs.stages.screen import screen_depths
from prune.runs.verdict import CandidateKey, Choice, choose
from prune.shown import ShownFormatter

if TYPE_CHECKING:
    from prune.planning.plan import Plan

log = logging.getLogger("prune")


@dataclass(frozen=True)
class RunResult:
    """What a run decided.

    Attributes:
        root: the run directory.
        choice: what was exported, under which label.
        redone, kept: names of the stages that worked, and of those whose earlier result still held.
    """

    root: Path
    choice: Choice
    redone: list[str]
    kept: list[str]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "run": str(self.root),
            "ship": self.choice.ship,
            "label": self.choice.label,
            "exported": str(self.choice.key) if self.choice.key else None,
            "passed": list(self.choice.passed),
            "refused": list(self.choice.refused),
            "redone": self.redone,
            "kept": self.kept,
        }


class Pipeline:
    """One recipe at work in one run directory."""

    def __init__(self, recipe: Recipe, root: Path, *, resume: bool = False) -> None:
        self.inputs = RunInputs(recipe, root, resume=resume, processes=join())
        self.recipe, self.root = recipe, root

    def check(self) -> dict[str, Any]:
        """Everything that can be checked without running (`--dry_run`).

        Returns:
            What the run would do: layers, depths, documents, gate power.

        Raises:
            PruneError, evals.errors.EvalError: the first thing that would fail.
        """
        with in_a_run():
            return self._check()

    def _check(self) -> dict[str, Any]:
        from evals.power import power_checks
        from evals.suite_choice import check_tasks

        inputs, tests = self.inputs, self.recipe.eval
        inputs.sample = True
        depth = int(load_config(inputs.source).get_text_config().num_hidden_layers)
        self._check_unit()
        self._check_depths(depth)
        check_healing(inputs)
        self._check_prompting()
        folders = [Path(p) for p in tests.include_path]
        data = Path(tests.local_data) if tests.local_data else None
        notes = check_tasks([*inputs.suites, *inputs.screen_suites], folders, data, tests.confirm_run_unsafe_code)
        healing = inputs.heal_domains if self.recipe.heal.enabled else {}
        return {
            "model": self.recipe.model,
            "num_layers": depth,
            "depths": sorted(self.recipe.plan.depths, reverse=True),
            "data": {name: d.describe() for name, d in inputs.domains.items()},
            "healing_data": {name: d.describe() for name, d in healing.items()},
            "prompts": {name: len(p) for name, p in read_self_generated(inputs).items()},
            "suites": {s.name: [t.key for t in s.tasks] for s in inputs.suites},
            "notes": notes,
            "gate_power": [check.message for check in power_checks(inputs.suites, tests.limit)],
            "estimate": estimate_run(inputs).as_dict(),
        }

    def _check_prompting(self) -> None:
        """What the chat template would refuse or leave out is no matter for after the training."""
        from evals.harness import check_prompting

        tests = self.recipe.eval
        if tests.apply_chat_template or tests.fewshot_as_multiturn:
            multiturn = bool(tests.fewshot_as_multiturn)
            check_prompting(self.inputs.tokenizer, tests.apply_chat_template, multiturn, tests.system_instruction)

    def _check_unit(self) -> None:
        """That an export can carry what the plans leave out; reads the config alone."""
        if self.recipe.plan.unit != "layer":
            from prune.surgery.deci import check_unit

            check_unit(self.inputs.source.checkpoint.config, self.recipe.plan.unit, self.recipe.plan.runtime)

    def _check_depths(self, depth: int) -> None:
        for wanted in self.recipe.plan.depths:
            if wanted >= depth:
                raise UsageError(f"plan.depths: {wanted} is not below the {depth} layers of {self.recipe.model}")
            if self.recipe.heal.enabled:
                round_depths(depth, wanted, self.recipe.heal.rounds)
        for layer in self.recipe.plan.protect:
            if not 0 <= layer < depth:
                raise UsageError(f"plan.protect: layer {layer} is outside 0..{depth - 1} of {self.recipe.model}")
        kept, least = len(set(self.recipe.plan.protect)), min(self.recipe.plan.depths)
        if kept > least:
            raise UsageError(f"plan.protect keeps {kept} layers, plan.depths asks for {least}: change one of them")

    def run(self) -> RunResult:
        """Every stage, then the report.

        Raises:
            GateFailed: nothing may ship; the report is written first.
        """
        with in_a_run():
            return self._run()

    def _run(self) -> RunResult:
        from evals.power import power_checks
        from prune.analysis.result import Analysis

        inputs = self.inputs
        self._check_unit()
        check_healing(inputs)
        self._check_prompting()
        with self._directory() as run, _log_file(self.root / "log.txt") if self._first else nullcontext():
            if isinstance(run, RunDirectory):
                self._record_recipe(run)
            if self._first:
                _say_estimate(estimate_run(inputs))
            for undecided in (c for c in power_checks(inputs.suites, inputs.recipe.eval.limit) if not c.decides):
                log.warning("%s", undecided.message)
            analysis_hash = analyze_source(inputs, run)
            analysis = Analysis.load(self.root / "analysis")
            self._check_depths(analysis.num_layers)
            plans = make_plans(inputs, run, analysis, analysis_hash)
            cuts = {depth: cut_plan(inputs, run, plan, depth) for depth, plan in sorted(plans.items(), reverse=True)}
            checkpoints = self._checkpoints(run, plans, cuts, screen_depths(inputs, run, cuts))
            judged = judge_candidates(inputs, run, checkpoints)
            drafts = try_drafts(inputs, run, checkpoints, judged)
            measure_cost(inputs, run, checkpoints)
            options = self.recipe.export
            choice = choose(judged, require=options.require, fallback=options.fallback, depth=analysis.num_layers)
            export(inputs, run, choice, checkpoints, judged, drafts)
            if self._first:
                self._report(run, choice)
            result = RunResult(self.root, choice, run.redone, run.kept)
        self.inputs.processes.from_first(None)  # a launcher ends all processes when one ends
        if choice.key is None and self._first:
            raise GateFailed(f"{choice.label}; see {self.root / 'report.html'}")
        return result

    @property
    def _first(self) -> bool:
        """Whether this process writes."""
        return self.inputs.processes.first

    def _directory(self) -> Directory:
        processes = self.inputs.processes
        if not processes.first:
            processes.from_first(None)  # until the first has opened it
            return FollowingDirectory(self.root, processes)
        run = LeadingDirectory(self.root, resume=self.inputs.resume, guard=self.inputs.source.require_unchanged)
        run.processes = processes
        processes.from_first(None)
        return run

    def _record_recipe(self, run: RunDirectory) -> None:
        text = dump_recipe(self.recipe)
        old = run.write_recipe(text)
        for line in changed_fields(old, text) if old is not None else ():
            log.info("recipe changed since the last run: %s", line)

    def _checkpoints(
        self, run: Directory, plans: dict[int, Plan], cuts: dict[int, str], depths: Sequence[int]
    ) -> dict[CandidateKey, str]:
        """Heal every depth that goes on; candidate -> hash of its directory."""
        hashes: dict[CandidateKey, str] = {}
        healing = HealStages(self.inputs, run)
        if self.recipe.heal.enabled:
            healing.generate()
        for key in self.inputs.candidates(depths):
            plan = plans[key.num_layers]
            if key.stage == "pruned":
                hashes[key] = cuts[key.num_layers]
            else:
                hashes[key] = healing.heal(key.num_layers, plan, hashes[CandidateKey(key.num_layers, "pruned")])
        return hashes

    def _report(self, run: Directory, choice: Choice) -> None:
        write_report(self.root, assemble(self.root, choice=choice, redone=run.redone), self.recipe.report.lang)


def _say_estimate(found: RunEstimate) -> None:
    """One line a stage, and what does not fit."""
    for line in cells(found.as_dict()["stages"]):
        log.info("estimate: %s", ", ".join(f"{name} {cell}" for name, cell in zip(COLUMNS, line, strict=True)))
    for warning in found.warnings:
        log.warning("%s", warning)


def changed_fields(old: str, new: str) -> Iterator[str]:
    """Dotted names of the recipe fields that differ, with both values."""
    import yaml

    def flatten(value: Any, name: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict) and value:
            for key, item in value.items():
                yield from flatten(item, f"{name}.{key}" if name else str(key))
        else:
            yield name, value

    before, after = dict(flatten(yaml.safe_load(old), "")), dict(flatten(yaml.safe_load(new), ""))
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield f"{name}: {before.get(name)} -> {after.get(name)}"


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    refuse_link(path)
    handler = logging.FileHandler(path, encoding="utf8")
    handler.setFormatter(ShownFormatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    previous = log.level
    log.setLevel(logging.INFO)
    try:
        yield
    except BaseException as error:
        log.error("stopped: %s: %s", type(error).__name__, error)
        raise
    finally:
        log.removeHandler(handler)
        handler.close()
        log.setLevel(previous)
