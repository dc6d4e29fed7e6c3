"""What a recipe will take, stage by stage, before any weight is read: said by `--dry_run` and at the start of a run.

Reads the configuration, the documents and the recipe; times a few made-up layers. Assumptions: items of the suites are
as long as the calibration documents; every stage is done (a resumed run keeps some).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from prune.estimates import memory, work
from prune.estimates.memory import Batch, Training
from prune.estimates.shape import Shape, shape_of
from prune.estimates.speed import Speed, measure_speed
from prune.estimates.stage import Cure, StageEstimate, too_large
from prune.estimates.work import Work
from prune.healing.settings import HealSettings

if TYPE_CHECKING:
    from prune.data.domains import Document
    from prune.runs.inputs import RunInputs

PLACED = Cure("device_map: auto, over more devices, host memory and disk")
STREAMED = Cure("`prune analyze --stream`, which holds one layer at a time")
SCORED = 8
"""Documents of a batch in a search: `prune.planning.evaluator.Evaluator`."""


@dataclass(frozen=True)
class RunEstimate:
    """A run's stages in their order.

    Attributes:
        stages: what each takes.
        device: `cpu` or `cuda`.
        room: bytes of it that are free.
        depth: layers of the original.
    """

    stages: list[StageEstimate]
    device: str
    room: int
    depth: int

    @property
    def warnings(self) -> list[str]:
        """Of stages that do not fit, each with a cure."""
        return [said for stage in self.stages if (said := too_large(stage, self.room))]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        stages = [stage.as_dict(self.device, self.depth) for stage in self.stages]
        return {"device": self.device, "free_bytes": self.room, "stages": stages, "warnings": self.warnings}


def estimate_run(inputs: RunInputs) -> RunEstimate:
    """Every stage of a recipe.

    Raises:
        PruneError: no layers can be found in what the configuration describes.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from evals.fitted import free_memory
    from prune.model.loading import load_config
    from prune.surgery.signature import skeleton

    config = load_config(inputs.source)
    stored = getattr(config.get_text_config(), "dtype", None) or torch.float32
    dtype = getattr(torch, inputs.dtype)
    device = torch.device(inputs.processes.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    bones = skeleton(AutoModelForCausalLM, config, inputs.recipe.trust_remote_code)
    shape = shape_of(bones, item=dtype.itemsize, stored=stored.itemsize)
    documents = [d for domain in inputs.domains.values() for d in domain.as_listed]
    calibration = _batch(documents, inputs.recipe.analyze.batch_size)
    speed = measure_speed(bones, calibration, dtype, device)
    run = _Run(inputs, shape, documents, speed, inputs.processes.count)
    stages = [_timed(stage, speed, run.processes) for stage in run.stages()]
    return RunEstimate(stages, device.type, free_memory(device), shape.layers)


def _timed(stage: StageEstimate, speed: Speed | None, processes: int) -> StageEstimate:
    if stage.work is None or speed is None:
        return stage
    return replace(stage, seconds=speed.seconds(stage.work) / processes)


def _batch(documents: list[Document], rows: int) -> Batch:
    return Batch(min(rows, len(documents)), max(len(d.input_ids) for d in documents))


@dataclass(frozen=True)
class _Run:
    """What the stages' estimates are made of."""

    inputs: RunInputs
    shape: Shape
    documents: list[Document]
    speed: Speed | None
    processes: int

    def stages(self) -> Iterator[StageEstimate]:
        recipe = self.inputs.recipe
        depths = sorted(recipe.plan.depths, reverse=True)
        yield self._analysis()
        yield self._plan()
        for depth in depths:
            cut = self._cut(depth)
            yield StageEstimate(f"cut to {depth}", {"copying": 0}, loads=cut.file, files=self._files, disk=cut.file)
        if recipe.heal.enabled:
            # What screening leaves is not known: as many as may go on, the deepest first.
            for depth in depths[: recipe.screen.confirm] if recipe.screen else depths:
                yield self._heal(depth)
        yield self._eval(depths)
        yield self._cost(depths)
        least = self._cut(depths[0])
        yield StageEstimate("export", {"copying": 0}, files=self._files, disk=least.file, note="the deepest")

    def _cut(self, depth: int) -> Shape:
        """A candidate; where attention or MLPs go and the layers stay, no less than it."""
        return self.shape.cut(self._layers(depth))

    def _layers(self, depth: int) -> int:
        return depth if self.inputs.recipe.plan.unit == "layer" else self.shape.layers

    @property
    def _files(self) -> int:
        """Of a checkpoint."""
        checkpoint = self.inputs.source.checkpoint
        return len(checkpoint.headers) + len(checkpoint.companions) + 1

    @property
    def _tokens(self) -> int:
        return sum(len(d.input_ids) for d in self.documents)

    def _analysis(self) -> StageEstimate:
        from prune.analysis.registry import DEFAULT_MEASURES, select

        recipe = self.inputs.recipe
        chosen = select(DEFAULT_MEASURES if recipe.analyze.measure is None else recipe.analyze.measure)
        parts = {
            "removals": "dnll" in chosen,
            "lens": "lens" in chosen,
        }
        sublayers = any(measure.sublayers for measure in chosen.values())
        batch = _batch(self.documents, recipe.analyze.batch_size)

        def held(rows: int) -> memory.Moments:
            return memory.analysis(self.shape, replace(batch, rows=rows), sublayers=sublayers, **parts)

        smaller = [
            Cure(f"analyze.batch_size: {rows}", held(rows))
            for rows in (batch.rows // 2, batch.rows // 4, 1)
            if 0 < rows < batch.rows
        ]
        rest = set(chosen) - {"contributions", "angular", "lens", "width", "dnll"}
        done = work.analysis(self.shape.layers, self._tokens, len(self.documents), **parts)
        return StageEstimate(
            "analyze",
            held(batch.rows),
            loads=self.shape.weights,
            work=done,
            files=2,
            note=f"without {', '.join(sorted(rest))}" if rest else "",
            cures=[*smaller, PLACED, STREAMED],
        )

    def _plan(self) -> StageEstimate:
        from prune.planning.registry import get_criterion

        options = self.inputs.recipe.plan
        batch = _batch(self.documents, SCORED)
        removed = max(1, self.shape.layers - min(options.depths))
        measured = get_criterion(options.criterion).measured
        once = Work(
            self._tokens,
            self._tokens * sum(map(self._layers, options.depths)),
            self._tokens * (len(options.depths) + 1),
        )
        found: Work | None = None
        note = ""
        if measured or options.strategy == "one_shot":
            found = once
        elif options.strategy in ("greedy", "greedy_full"):
            effort = options.search_effort if options.strategy == "greedy" else None
            scored = work.greedy(
                self.shape.layers, self._tokens, removed, protected=len(options.protect), effort=effort
            )
            found = scored.plus(once)
            note = "at most" if effort else ""
        else:
            note = f"the work of {options.strategy} depends on what it finds"
        return StageEstimate(
            "plan",
            memory.planning(self.shape, batch, self._tokens),
            work=found,
            files=len(options.depths) + 1,
            note=note,
            cures=[PLACED],
        )

    def _heal(self, depth: int) -> StageEstimate:
        recipe = self.inputs.recipe
        settings = HealSettings(**{k: getattr(recipe.heal, k) for k in HealSettings.model_fields})
        rows = settings.per_device_train_batch_size
        batch = Batch(max(1, rows // self.processes), settings.max_length)
        training = training_of(
            self.shape,
            settings,
            self._layers(depth),
            half=self.shape.item == 2,
            targets=recipe.heal.targets is not None,
        )
        steps = settings.max_steps
        tokens = steps * rows * settings.gradient_accumulation_steps * settings.max_length
        cut = self._cut(depth)
        again = replace(training, checkpointing=True)
        cures = [
            Cure("heal.gradient_checkpointing: true", memory.healing(self.shape, batch, again)),
            Cure(
                "heal.gradient_checkpointing: true with heal.per_device_train_batch_size: 1",
                memory.healing(self.shape, Batch(1, batch.length), again),
            ),
            Cure("heal.targets from `prune teach`, so that the original is not needed", self._taught(batch, again)),
        ]
        return StageEstimate(
            f"heal {depth}",
            memory.healing(self.shape, batch, training),
            loads=cut.weights,
            work=work.healing(self.shape.layers, tokens, training),
            files=self._files + 1,
            disk=cut.file,
            cures=cures,
        )

    def _taught(self, batch: Batch, training: Training) -> memory.Moments:
        return memory.healing(self.shape, batch, replace(training, teacher=False))

    def _eval(self, depths: list[int]) -> StageEstimate:
        recipe = self.inputs.recipe
        items = [recipe.eval.limit or spec.limit for suite in self.inputs.suites for spec in suite.tasks]
        stages = 1 + recipe.heal.enabled
        asked = recipe.eval.batch_size
        rows = asked if isinstance(asked, int) else 32
        batch = Batch(rows, max(len(d.input_ids) for d in self.documents))
        beside = self._cut(depths[0]).weights
        held = self.shape.weights + beside
        done = None
        if all(items):
            tokens = sum(filter(None, items)) * self._tokens // len(self.documents)
            layers = self.shape.layers + stages * sum(map(self._layers, depths))
            done = Work(tokens, tokens * layers, tokens * (1 + stages * len(depths)))
        return StageEstimate(
            "eval",
            {"a batch of items": held + memory.forward(self.shape, batch)},
            loads=self.shape.weights,
            work=done,
            files=len(items) * (1 + stages * len(depths)),
            note="items as long as the calibration documents" if done else "items are counted when tasks are built",
            cures=[
                Cure("eval.batch_size: 1", {"one item": held + memory.forward(self.shape, replace(batch, rows=1))}),
                PLACED,
            ],
        )

    def _cost(self, depths: list[int]) -> StageEstimate:
        options = self.inputs.recipe.cost
        batch = Batch(options.batch_size, options.prompt_tokens + options.new_tokens)
        held = self.shape.weights + sum(self._cut(depth).weights for depth in depths)
        return StageEstimate(
            "cost",
            {"all depths side by side": held + memory.forward(self.shape, batch, all_logits=False)},
            files=1,
            cures=[Cure("fewer plan.depths"), PLACED],
        )


def training_of(shape: Shape, settings: HealSettings, depth: int, *, half: bool, targets: bool) -> Training:
    """What is trained of a model cut to a depth; where the first gap will be is not known: layers go from the middle.

    Args:
        half: activations are two bytes a number.
        targets: what the original said is on disk.
    """
    gap = max(0, min(depth // 2, depth - 3) - 1)
    if settings.method == "full":
        adapted = len(settings.train_layers or range(min(3, depth)))
        trained = adapted * shape.layer + shape.head
    else:
        chosen = settings.lora_layers
        adapted = depth if chosen == "all" else len(chosen) if isinstance(chosen, list) else depth - gap
        trained = memory.adapters(shape, adapted, settings.lora_r)
    return Training(
        depth,
        adapted,
        trained,
        method=settings.method,
        teacher=settings.needs_teacher and not targets,
        checkpointing=settings.gradient_checkpointing,
        bf16=half,
    )
