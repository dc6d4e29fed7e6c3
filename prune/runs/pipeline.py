"""`prune run`: measure, plan, cut, heal, test, judge, export and report, in one directory that survives anything.

Puts the rooms together and holds no mathematics. Each stage's inputs are hashes of what it depends on; see
`directory`. Every candidate is tested as it lies on disk, loaded again, so that what was judged is what ships.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prune.data.domains import Domain, load_domain
from prune.errors import GateFailed, UsageError
from prune.files import sha256_json, sha256_tree
from prune.model.loading import load_model, load_tokenizer, model_directory
from prune.planning.registry import get_criterion, get_strategy
from prune.runs.directory import RunDirectory
from prune.runs.recipe import Recipe, SuiteRecipe, dump_recipe
from prune.runs.stages.candidates import analyze_source, cut_plan, make_plans
from prune.runs.stages.cost import measure_cost
from prune.runs.stages.draft import try_drafts
from prune.runs.stages.export import export
from prune.runs.stages.heal import HealStages, check_healing, read_self_generated, round_depths
from prune.runs.stages.judge import judge_candidates
from prune.runs.stages.screen import screen_depths
from prune.runs.verdict import CandidateKey, Choice, choose
from prune.secrets import Redacting
from prune.versions import library_versions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from evals.suite import Suite
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

    def __init__(self, recipe: Recipe, root: Path, *, resume: bool = False, progress: bool = False) -> None:
        self.recipe = recipe
        self.root = root
        self.resume = resume
        self.progress = progress
        self.source = model_directory(recipe.model)
        self.depths = list(recipe.plan.depths)  # the screen may leave fewer
        # A name that does not exist should not wait for the analysis to be found out.
        get_criterion(recipe.plan.criterion), get_strategy(recipe.plan.strategy)

    # What several stages share, loaded when first needed.

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.source, revision=self.recipe.revision)

    @cached_property
    def original(self) -> PreTrainedModel:
        return load_model(
            self.source,
            dtype=self.recipe.dtype,
            revision=self.recipe.revision,
            trust_remote_code=self.recipe.trust_remote_code,
        )

    @cached_property
    def source_hash(self) -> str:
        if Path(self.source).is_dir():
            return sha256_tree(Path(self.source))
        return sha256_json([self.source, self.recipe.revision or self.original.config._commit_hash])

    @cached_property
    def domains(self) -> dict[str, Domain]:
        options = self.recipe.data
        return self._load(options.domains, options.seq_length, options.calib_num_samples)

    @cached_property
    def heal_domains(self) -> dict[str, Domain]:
        if self.recipe.heal.domains:
            return self._load(self.recipe.heal.domains, self.recipe.heal.max_length, None)
        return {} if self.recipe.heal.self_generated else self.domains

    def _load(self, files: Mapping[str, str], seq_length: int, count: int | None) -> dict[str, Domain]:
        return {
            name: load_domain(
                name,
                path,
                self.tokenizer,
                seq_length=seq_length,
                calib_num_samples=count,
                seed=self.recipe.seed,
            )
            for name, path in files.items()
        }

    @property
    def pad(self) -> int:
        token = self.tokenizer.pad_token_id
        return int(token if token is not None else self.tokenizer.eos_token_id or 0)

    @cached_property
    def suites(self) -> list[Suite]:
        return resolve_suites(self.recipe.eval.suites, self.recipe.eval.size)

    @cached_property
    def screen_suites(self) -> list[Suite]:
        """The suites of the screen, under the screen's floor."""
        options = self.recipe.screen
        if options is None:
            return []
        return [s.model_copy(update={"floor": options.floor}) for s in resolve_suites(options.suites, "full")]

    @property
    def candidates(self) -> list[CandidateKey]:
        stages = ("pruned", "healed") if self.recipe.heal.enabled else ("pruned",)
        return [CandidateKey(d, s) for d in sorted(self.depths, reverse=True) for s in stages]  # type: ignore[arg-type]

    def check(self) -> dict[str, Any]:
        """Everything that can be checked without running (`--dry_run`).

        Returns:
            What the run would do: layers, depths, documents, gate power.

        Raises:
            PruneError, evals.errors.EvalError: the first thing that would fail.
        """
        from transformers import AutoConfig

        from evals.power import power_messages
        from evals.suite_choice import check_tasks

        depth = int(AutoConfig.from_pretrained(self.source).get_text_config().num_hidden_layers)
        self._check_depths(depth)
        check_healing(self)
        tests = self.recipe.eval
        folders = [Path(p) for p in tests.include_path]
        data = Path(tests.local_data) if tests.local_data else None
        notes = check_tasks([*self.suites, *self.screen_suites], folders, data, tests.confirm_run_unsafe_code)
        return {
            "model": self.recipe.model,
            "num_layers": depth,
            "depths": sorted(self.recipe.plan.depths, reverse=True),
            "data": {name: d.describe() for name, d in self.domains.items()},
            "healing_data": {name: d.describe() for name, d in self.heal_domains.items()}
            if self.recipe.heal.enabled
            else {},
            "prompts": {name: len(p) for name, p in read_self_generated(self).items()},
            "suites": {s.name: [t.key for t in s.tasks] for s in self.suites},
            "notes": notes,
            "gate_power": power_messages(self.suites, tests.limit),
        }

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
        from prune.analysis.result import Analysis

        check_healing(self)
        with RunDirectory(self.root, resume=self.resume) as run, _log_file(self.root / "log.txt"):
            self._record_recipe(run)
            versions = library_versions()
            analysis_hash = analyze_source(self, run, versions)
            analysis = Analysis.load(self.root / "analysis")
            self._check_depths(analysis.num_layers)
            plans = make_plans(self, run, analysis, analysis_hash)
            cuts = {depth: cut_plan(self, run, plan, versions) for depth, plan in sorted(plans.items(), reverse=True)}
            self.depths = screen_depths(self, run, cuts, versions)
            checkpoints = self._checkpoints(run, plans, cuts, versions)
            judged = judge_candidates(self, run, checkpoints, versions)
            drafts = try_drafts(self, run, checkpoints, judged, versions)
            measure_cost(self, run, checkpoints, versions)
            options = self.recipe.export
            choice = choose(judged, require=options.require, fallback=options.fallback, depth=analysis.num_layers)
            export(self, run, choice, checkpoints, judged, drafts)
            self._report(run, choice)
            result = RunResult(self.root, choice, run.redone, run.kept)
        if choice.key is None:
            raise GateFailed(f"{choice.label}; see {self.root / 'report.html'}")
        return result

    def _record_recipe(self, run: RunDirectory) -> None:
        path = self.root / "recipe.yaml"
        text = dump_recipe(self.recipe)
        if path.is_file() and (old := path.read_text(encoding="utf8")) != text:
            for line in changed_fields(old, text):
                log.info("recipe changed since the last run: %s", line)
        run.write("recipe.yaml", text)

    def _checkpoints(
        self, run: RunDirectory, plans: dict[int, Plan], cuts: dict[int, str], versions: dict[str, str]
    ) -> dict[CandidateKey, str]:
        """Heal every depth that goes on; candidate -> hash of its directory."""
        hashes: dict[CandidateKey, str] = {}
        healing = HealStages(self, run, versions)
        if self.recipe.heal.enabled:
            healing.generate()
        for key in self.candidates:
            plan = plans[key.num_layers]
            if key.stage == "pruned":
                hashes[key] = cuts[key.num_layers]
            else:
                hashes[key] = healing.heal(key.num_layers, plan, hashes[CandidateKey(key.num_layers, "pruned")])
        return hashes

    def _report(self, run: RunDirectory, choice: Choice) -> None:
        from prune.reporting.page import render_html, render_markdown
        from prune.runs.report import assemble

        data = assemble(self.root, choice=choice, redone=run.redone)
        data.save(self.root / "report.json")
        lang = self.recipe.report.lang
        run.write("report.md", render_markdown(data, lang))
        render_html(data, self.root / "report.html", lang)


def resolve_suites(entries: Sequence[str | SuiteRecipe], size: Literal["quick", "full"]) -> list[Suite]:
    """A recipe's suites: built-in ones by name, the user's own as they stand."""
    from evals.suite import load_suite, make_suite

    found = []
    for entry in entries:
        if isinstance(entry, SuiteRecipe):
            found.append(make_suite(entry.model_dump(), base=Path(), source=f"suites: {entry.name}"))
        else:
            found.append(load_suite(entry).sized(size))
    return found


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
    handler = logging.FileHandler(path, encoding="utf8")
    handler.setFormatter(Redacting("%(asctime)s %(levelname)s %(message)s"))
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
