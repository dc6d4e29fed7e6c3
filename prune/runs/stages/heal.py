"""The stages of a run that make its healed candidates: the original's own answers, and one or several rounds.

One round is what `prune heal` does to the cut checkpoint. With more (`heal.rounds`), the way down is shared out: cut a
part, heal, choose the next layers on the healed model, and so on; the steps of training are shared out too, so that
one round and several cost the same. Each round is a stage of its own, so a killed run loses at most one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune.data.domains import Domain, load_domain
from prune.errors import UsageError
from prune.files import sha256_json, write_exact, write_json
from prune.healing.settings import GenerateSettings, HealSettings
from prune.model.loading import load_config
from prune.planning.plan import Plan
from prune.runs.outputs import SCORES, round_path
from prune.runs.stages.testing import run_suites

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prune.healing.targets import Targets
    from prune.runs.following import Directory
    from prune.runs.inputs import RunInputs


def round_depths(before: int, after: int, rounds: int) -> list[int]:
    """Layers that remain after each round, in steps as equal as can be.

    Raises:
        UsageError: there are fewer layers to remove than rounds.
    """
    if before - after < rounds:
        raise UsageError(
            f"heal.rounds: {rounds} rounds cannot share out the {before - after} layers between {before} and {after}"
        )
    return [before - round((before - after) * i / rounds) for i in range(1, rounds + 1)]


class HealStages:
    """Makes healed candidates in a run directory."""

    def __init__(self, inputs: RunInputs, run: Directory) -> None:
        self.inputs, self.run = inputs, run
        self.recipe, self.options = inputs.recipe, inputs.recipe.heal
        self.settings = HealSettings(**{k: getattr(self.options, k) for k in HealSettings.model_fields})
        self._domains: dict[str, Domain] | None = None

    @property
    def domains(self) -> dict[str, Domain]:
        """Training documents: the recipe's, and the original's own answers where asked for."""
        if self._domains is None:
            self._domains = dict(self.inputs.heal_domains)
            for name in self.options.self_generated.prompts if self.options.self_generated else ():
                path = str(self.inputs.root / "generated" / f"{name}.jsonl")
                length = self.settings.max_length
                self._domains[name] = load_domain(name, path, self.inputs.tokenizer, seq_length=length)
        return self._domains

    @cached_property
    def targets(self) -> Targets | None:
        """What the original said of these documents, where the recipe names it."""
        return read_targets(self.inputs, self.domains)

    def generate(self) -> None:
        """The stage `generate`: answers of the original to the recipe's prompts, one file per domain."""
        options = self.options.self_generated
        if options is None:
            return
        settings = GenerateSettings(**{k: getattr(options, k) for k in GenerateSettings.model_fields})
        prompts = read_self_generated(self.inputs)

        def work(staging: Path) -> None:
            from prune.healing.generate import generate_answers, remove_partial

            for name, chosen in prompts.items():
                partial = self._scratch("generate", depends_on) / name
                answers = generate_answers(
                    self.inputs.original,
                    self.inputs.tokenizer,
                    chosen,
                    settings,
                    pad_token_id=self.inputs.pad,
                    partial=partial,
                    identity={"model": self.inputs.source_hash},
                    resume=self.inputs.resume,
                )
                text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in answers.rows)
                write_exact(staging / f"{name}.jsonl", text)
                facts = {"answers": len(answers.rows), "cut_short": answers.cut_short, "new_tokens": answers.new_tokens}
                write_json(staging / f"{name}.json", {**facts, "settings": settings.model_dump()})
                remove_partial(partial)

        depends_on = {
            "model": self.inputs.source_hash,
            "prompts": {name: sha256_json([p.input_ids for p in chosen]) for name, chosen in prompts.items()},
            "settings": settings.model_dump(),
            **self.inputs.arithmetic,
            "versions": self.inputs.versions,
        }
        self.run.stage("generate", "generated", depends_on, work)
        self._tidy("generate")

    def heal(self, depth: int, plan: Plan, pruned_hash: str) -> str:
        """The stage `heal-<depth>`, after the rounds before it; the hash of the healed checkpoint.

        Args:
            plan: of the pruned candidate at this depth, which is healed when there is one round.
            pruned_hash: of its checkpoint.
        """
        pruned, settings = f"pruned/{depth}", self.settings
        if self.options.rounds > 1:
            plan, pruned_hash = self._rounds(depth, plan.num_layers)
            pruned, settings = f"{round_path(depth, self.options.rounds)}/model", self._shared_out()
        name, depends_on = f"heal-{depth}", self._depends_on(pruned_hash, settings)
        scratch = self._scratch(name, depends_on)
        digest = self.run.stage(
            name,
            f"healed/{depth}",
            depends_on,
            lambda staging: self._train(pruned, plan, settings, scratch, staging),
            shared=True,
        )
        self._tidy(name)
        return digest

    def _rounds(self, depth: int, layers: int) -> tuple[Plan, str]:
        """All but the last healing: each round cuts on from the last one's healed model."""
        rounds, plan, digest = self.options.rounds, None, self.inputs.source_hash
        directory, settings = self.inputs.source.directory, self._shared_out()
        for number, wanted in enumerate(round_depths(layers, depth, rounds), start=1):
            name, output = f"round-{depth}-{number}", round_path(depth, number)
            depends_on = {**self._depends_on(digest, settings), "depth": wanted, "plan": self.recipe.plan.model_dump()}
            work = self._round_work(directory, plan, wanted, self._scratch(name, depends_on), last=number == rounds)
            digest = self.run.stage(name, output, depends_on, work, shared=True)
            self._tidy(name)
            plan = Plan.load(self.inputs.root / output / "plan.json")
            directory = self.inputs.root / output / "model"
        assert plan is not None
        return plan, digest

    def _round_work(
        self, directory: Path, before: Plan | None, wanted: int, scratch: Path, *, last: bool
    ) -> Callable[[Path], None]:
        def work(staging: Path) -> None:
            from prune.surgery.cut import cut

            source = self.inputs.source if before is None else self.inputs.source.at(directory)
            step = self._choose(directory, before, wanted)
            plan = composed(before, step, self.recipe.model)
            plan.save(staging / "plan.json")
            if last:
                cut(source, staging / "model", drop_layers=step.drop)
                return
            # Made again after a kill: next to training it costs little, and what lies there may have been altered.
            if self.inputs.processes.first:
                shutil.rmtree(scratch / "cut", ignore_errors=True)
                cut(source, scratch / "cut", drop_layers=step.drop)
            self.inputs.processes.from_first(None)  # the others wait until it is there
            (staging / "model").mkdir()
            self._train(str(scratch / "cut"), plan, self._shared_out(), scratch, staging / "model")

        return work

    def _choose(self, directory: Path, before: Plan | None, wanted: int) -> Plan:
        """The next layers to go, chosen on the model as the last round left it; indices are that model's own."""
        from prune.analysis import analyze
        from prune.planning.planner import sweep_together

        options = self.recipe.plan
        original = before is None
        model = self.inputs.original if original else self.inputs.candidate(directory)
        analysis = analyze(
            model,
            self.inputs.domains,
            measure=["contributions", "angular"],
            batch_size=self.recipe.analyze.batch_size,
            bootstrap=10,
            seed=self.recipe.seed,
            processes=self.inputs.processes,
            pad_token_id=self.inputs.pad,
        )
        protect = options.protect
        if before is not None:
            protect = [before.keep.index(layer % before.num_layers) for layer in protect]
        return sweep_together(
            self.inputs.processes,
            source=self.recipe.model if original else str(directory),
            analysis=analysis,
            model=model,
            domains=self.inputs.domains,
            criterion=options.criterion,
            strategy=options.strategy,
            depths=[wanted],
            protect=protect,
            domain_weights=options.domain_weights or None,
            prediction_share=options.prediction_share,
            tuning=options.tuning(self.recipe.seed),
            seed=self.recipe.seed,
            score_cache=self.inputs.root / SCORES,
            pad_token_id=self.inputs.pad,
        )[0]

    def _shared_out(self) -> HealSettings:
        return self.settings.model_copy(update={"max_steps": -(-self.settings.max_steps // self.options.rounds)})

    def _scratch(self, name: str, depends_on: Mapping[str, Any]) -> Path:
        """Where a stage keeps what a resumed run goes on from; other inputs, another place."""
        return self.inputs.root / "work" / name / sha256_json(depends_on)[:16]

    def _tidy(self, name: str) -> None:
        """Remove a finished stage's scratch; what trackers wrote there (TensorBoard) stays, in `tracking/`."""
        if not self.inputs.processes.first:
            return
        scratch = self.inputs.root / "work" / name
        for written in scratch.glob("*/checkpoints/runs/*"):
            kept = self.inputs.root / "tracking" / name / written.name
            kept.parent.mkdir(parents=True, exist_ok=True)
            written.replace(kept)
        shutil.rmtree(scratch, ignore_errors=True)

    def _depends_on(self, pruned: str, settings: HealSettings) -> dict[str, Any]:
        return {
            "pruned": pruned,
            "model": self.inputs.source_hash,
            # Tracking draws from a random state of its own: it changes nothing that is trained.
            "options": {**self.options.model_dump(exclude={"track"}), **settings.model_dump()},
            "data": {name: d.sha256 for name, d in self.domains.items()},
            **self.inputs.arithmetic,
            "versions": self.inputs.versions,
            **({} if self.targets is None else {"targets": self.targets.sha256}),
        }

    def _train(self, pruned: str, plan: Plan, settings: HealSettings, scratch: Path, staging: Path) -> None:
        from prune.healing.heal import heal
        from prune.packaging.saving import save_healed

        root, targets = self.inputs.root, self.targets
        # Layers of a model as it was cut are told by the targets' own record, which refuses another model's.
        kept = None if targets is not None and self.options.rounds == 1 else plan.keep
        taught = settings.needs_teacher and targets is None
        result = heal(
            self.inputs.whole(root / pruned),
            self.inputs.whole() if taught else None,
            self.domains,
            shared_out(settings, self.inputs.processes.count),
            kept_layers=kept,
            targets=targets,
            domain_weights=self.options.domain_weights or None,
            pad_token_id=self.inputs.pad,
            output_dir=scratch,
            resume=self.inputs.resume,
            track=self._tracker() if self.options.track else None,
        )
        if not self.inputs.processes.first:
            return
        teacher = self.inputs.source if taught else targets.record["model"] if targets is not None else None
        save_healed(result.model, result.trained, result.as_dict(), teacher, root / pruned, staging)

    def _tracker(self) -> Callable[[PreTrainedModel], dict[str, float]]:
        """Scores the first items of the gate's own tasks on the model in training."""

        def track(model: Any) -> dict[str, float]:
            return run_suites(self.inputs, model, self.inputs.suites, limit=self.options.track).scores

        return track


def shared_out(settings: HealSettings, processes: int) -> HealSettings:
    """The settings of each of several processes that together train on the rows of one.

    Raises:
        UsageError: a step's rows cannot be shared out.
    """
    rows, turns = settings.per_device_train_batch_size, settings.gradient_accumulation_steps
    if rows % processes == 0:
        return settings.model_copy(update={"per_device_train_batch_size": rows // processes})
    if turns % processes == 0:
        return settings.model_copy(update={"gradient_accumulation_steps": turns // processes})
    raise UsageError(
        f"heal.per_device_train_batch_size: {rows} rows in {turns} turns cannot be shared by {processes} processes; "
        f"give a multiple of {processes}"
    )


def check_healing(inputs: RunInputs) -> None:
    """Find now what healing would refuse after the analysis, the search and the cuts; reads no weights.

    Raises:
        PruneError, UsageError: the first thing that it would.
    """
    from transformers import AutoModelForCausalLM

    from prune.healing.checks import rehearse_uncut
    from prune.surgery.signature import skeleton

    recipe = inputs.recipe
    if not recipe.heal.enabled or recipe.trust_remote_code:  # such code is run once, when the model is loaded
        return
    config = load_config(inputs.source)
    settings = HealSettings(**{k: getattr(recipe.heal, k) for k in HealSettings.model_fields})
    shared_out(settings, inputs.processes.count)
    bones = skeleton(AutoModelForCausalLM, config)
    whole = recipe.plan.unit != "layer"  # no layer goes as a whole
    depth = config.get_text_config().num_hidden_layers if whole else min(recipe.plan.depths)
    rehearse_uncut(bones, inputs.heal_domains, settings, depth)
    read_targets(inputs, inputs.heal_domains)


def read_targets(inputs: RunInputs, domains: Mapping[str, Domain]) -> Targets | None:
    """The directory of `heal.targets`, which fits the model, the settings and the documents.

    Raises:
        UsageError: names the field that does not.
        PruneError: its record is damaged.
    """
    options = inputs.recipe.heal
    if options.targets is None:
        return None
    from prune.healing.checks import check_targets
    from prune.healing.targets import Targets

    settings = HealSettings(**{k: getattr(options, k) for k in HealSettings.model_fields})
    if not settings.needs_teacher:
        raise UsageError(
            "heal.targets: nothing is distilled; give heal.distill_weight a value above 0, or leave it out"
        )
    check_targets(settings)
    targets = Targets(Path(options.targets))
    targets.require(domains, settings.max_length, inputs.tokenizer)
    return targets


def read_self_generated(inputs: RunInputs) -> dict[str, list[Any]]:
    """The prompts of `heal.self_generated`, by domain."""
    from prune.healing.prompts import read_prompts

    options = inputs.recipe.heal.self_generated
    if options is None:
        return {}
    settings = GenerateSettings(**{k: getattr(options, k) for k in GenerateSettings.model_fields})
    config = load_config(inputs.source).get_text_config()
    context = getattr(config, "max_position_embeddings", None)
    return {
        name: read_prompts(name, path, inputs.tokenizer, settings, context)[0] for name, path in options.prompts.items()
    }


def composed(before: Plan | None, step: Plan, source: str) -> Plan:
    """One plan for two cuts in a row, in indices of the source: `step` counts the layers that `before` kept."""
    if before is None:
        return step
    order = [before.keep[int(i)] for i in step.order]
    return Plan(
        source=source,
        num_layers=before.num_layers,
        keep=[before.keep[i] for i in step.keep],
        drop=sorted(before.drop + order),
        order=before.order + order,
        criterion=step.criterion,
        strategy=step.strategy,
        scores={"earlier_rounds": before.scores, **step.scores},
        data=step.data,
        seed=step.seed,
        revision=before.revision,
    )
