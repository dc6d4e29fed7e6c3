"""`heal`: train a pruned model back towards the original, and return it merged, with the record of what happened.

Assumptions: the student is consumed (it is the object that returns as `HealResult.model`); nothing but checkpoints is
written; the teacher is the model the student was pruned from.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainingArguments

from evals.progress import stage
from prune.data.domains import Domain
from prune.errors import PruneError
from prune.files import sha256_json
from prune.healing.checks import check_run
from prune.healing.data import Collator, Split, TrainingSet
from prune.healing.held_out import held_out_loss
from prune.healing.methods import attach, changed_parameters, detach, merge
from prune.healing.objective import matched_states, packs_exactly
from prune.healing.precision import accelerator, autocasts, needs_float32
from prune.healing.prefix import find_prefix
from prune.healing.settings import HealSettings
from prune.healing.sharding import check_processes, deepspeed_config, is_sharded, uses_fsdp
from prune.healing.sharing import SharedWeights, find_kept_layers
from prune.healing.trainer import HealTrainer, Task, Track, checkpoint_of
from prune.model.anatomy import find_layer_list

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from prune.healing.targets import Targets

EVALUATIONS = 5  # in a run, when eval_steps is not given
LOGS = 20


@dataclass(frozen=True)
class HealResult:
    """What healing made.

    Attributes:
        model: the merged model, float32, on the device the student came on.
        trained: names of its parameters that training changed; none where it never beat the pruned model.
        history: one entry per log or evaluation: `step`, `seconds`, and `loss`, `next_token_loss`, `distill_loss`,
            `residual_loss`, `learning_rate`, `grad_norm`, or `eval_loss` and `eval_<domain>_loss` (nats per token).
        best_step: step whose weights the model holds; 0 means that training never beat the pruned model.
        steps: steps done.
        held_out_original: held-out loss of the original; None where it is not at hand.
        held_out_before: held-out loss of the pruned model, unquantised, weighted over domains, nats per token.
        held_out_adapted: the same at the best step with the adapters still apart (qlora: over the NF4 copy).
        held_out_after: the same of the returned model, measured again after the merge.
        held_out_by_domain: `before` and `after` per domain.
        tokens_seen: real tokens trained on up to the last step, padding excluded.
        tokens_to_best: real tokens trained on up to the best step.
        seconds: wall time of training and its evaluations, over all resumed parts.
        packed: whether rows held several documents.
        trained_parameters: how many numbers were trained.
        shared_bytes: memory that student and teacher had in common while training.
        shared_layers: first layers that ran once for student and teacher.
        settings: the settings used.
        targets: of what taught in the teacher's place: model, hashes, k, mass; None where the original itself did.
        data: provenance per domain, with its weight and the numbers of training and held-out documents.
    """

    model: PreTrainedModel
    trained: frozenset[str]
    history: list[dict[str, float]]
    best_step: int
    steps: int
    held_out_original: float | None
    held_out_before: float
    held_out_adapted: float
    held_out_after: float
    held_out_by_domain: dict[str, dict[str, float]]
    tokens_seen: int
    tokens_to_best: int
    seconds: float
    packed: bool
    trained_parameters: int
    shared_bytes: int
    shared_layers: int
    settings: HealSettings
    targets: dict[str, Any] | None = None
    data: dict[str, dict[str, Any]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Everything but the model and its names, ready for JSON."""
        values = {k: v for k, v in self.__dict__.items() if k not in ("model", "trained", "settings")}
        return {**values, "settings": self.settings.model_dump()}


def heal(
    student: PreTrainedModel,
    teacher: PreTrainedModel | None,
    domains: Mapping[str, Domain],
    settings: HealSettings,
    *,
    kept_layers: Sequence[int] | None = None,
    domain_weights: Mapping[str, float] | None = None,
    targets: Targets | None = None,
    pad_token_id: int = 0,
    output_dir: Path,
    resume: bool = False,
    track: Track | None = None,
) -> HealResult:
    """Train the student on the domains, with the teacher's distributions as targets where the settings say so.

    Args:
        student: the pruned model, unquantised; consumed.
        teacher: the original model; needed for distillation and residual matching.
        domains: training data; a share of each is held out.
        settings: method, objectives, optimiser.
        kept_layers: source index of each student layer, sorted; found by comparing weights if not given.
        domain_weights: share of predicted tokens per domain; equal if none.
        targets: what the original said, in place of the teacher; `Targets.require` has seen the domains.
        pad_token_id: fills short rows; never counted.
        output_dir: checkpoints go to `output_dir/checkpoints`.
        resume: continue at the newest complete checkpoint there, if any.
        track: scores to log at every evaluation, for example of the gate's own tasks.

    Raises:
        PruneError: no or too little data, a missing teacher or one of another vocabulary, a non-finite loss (the
            weights before it are kept in a checkpoint), or a checkpoint of other settings, data or models.
        UsageError: unknown domains, layers or modules.
    """
    settings = settings.for_width(student.get_input_embeddings().weight.shape[1])  # type: ignore[operator,union-attr]
    split = check_run(student, teacher, domains, settings, domain_weights, targets)
    targets = targets if settings.needs_teacher else None
    teacher = teacher if settings.needs_teacher and targets is None else None
    if teacher is not None:
        kept_layers = _source_layers(student, teacher, kept_layers, needed=settings.needs_states)
    elif targets is not None:
        targets.require_whole()
        kept_layers = targets.kept_layers(student) if kept_layers is None else list(kept_layers)
    arguments = training_arguments(settings, output_dir / "checkpoints")
    check_processes(arguments)
    device = student.device
    student.to(arguments.device)
    if needs_float32(student.dtype, settings.method, autocast=arguments.bf16, fsdp=uses_fsdp()):
        student.float()
    packing = settings.packing and packs_exactly(student, student.get_input_embeddings().num_embeddings)
    rows_per_step = settings.per_device_train_batch_size * settings.gradient_accumulation_steps * arguments.world_size
    training_set = TrainingSet(
        split,
        rows=rows_per_step * settings.max_steps,
        step=rows_per_step,  # not a batch: several processes, or turns, must train on the same rows
        max_length=settings.max_length,
        packing=packing,
        seed=settings.seed,
    )
    fingerprint = {
        **_fingerprint(student, teacher, domains, split.weights, settings, kept_layers),
        **({} if targets is None else {"targets": targets.sha256}),
        "processes": arguments.world_size,
        "fsdp": uses_fsdp(),
        "deepspeed": arguments.deepspeed,
    }
    checkpoint = checkpoint_of(output_dir / "checkpoints", fingerprint) if resume else None
    before = held_out_loss(student, student.get_output_embeddings(), split, settings, pad_token_id)
    original = _original_loss(teacher, arguments, split, settings, pad_token_id)

    healed, trainer, facts = _trained(
        student,
        teacher,
        kept_layers,
        arguments,
        checkpoint,
        Task(
            settings,
            split,
            training_set,
            Collator(pad_token_id, packing, targets.beside if targets is not None else None),
            fingerprint,
            original=original,
            track=track,
        ),
    )
    after = held_out_loss(healed, healed.get_output_embeddings(), split, settings, pad_token_id)
    return HealResult(
        model=healed.to(device).eval(),
        history=trainer.state.log_history,
        best_step=trainer.progress.best_step,
        steps=trainer.state.global_step,
        held_out_original=original,
        held_out_before=before.loss,
        held_out_adapted=trainer.progress.best_loss,
        held_out_after=after.loss,
        held_out_by_domain={"before": before.by_domain, "after": after.by_domain},
        tokens_seen=training_set.tokens(rows_per_step * trainer.state.global_step),
        tokens_to_best=training_set.tokens(rows_per_step * trainer.progress.best_step),
        seconds=trainer.seconds(),
        packed=packing,
        settings=settings,
        targets=None if targets is None else targets.describe(),
        data=_provenance(domains, split),
        **facts,
    )


def _original_loss(
    teacher: PreTrainedModel | None,
    arguments: TrainingArguments,
    split: Split,
    settings: HealSettings,
    pad_token_id: int,
) -> float | None:
    """What the original scores on the held-out documents: where healing could get to without new knowledge."""
    if teacher is None:
        return None
    teacher.eval().to(arguments.device)
    return held_out_loss(teacher, teacher.get_output_embeddings(), split, settings, pad_token_id).loss


def _trained(
    student: PreTrainedModel,
    teacher: PreTrainedModel | None,
    kept_layers: Sequence[int] | None,
    arguments: TrainingArguments,
    checkpoint: Path | None,
    task: Task,
) -> tuple[PreTrainedModel, HealTrainer, dict[str, Any]]:
    """The merged model of the best step, its trainer, and what was trained, with counts.

    After an error the student is as it was before.
    """
    settings, shared, prefix, healed = task.settings, None, None, None
    sharded = is_sharded(settings)
    if teacher is not None and kept_layers is not None and not sharded:
        shared = SharedWeights(student, teacher.to(arguments.device), kept_layers)
    # FSDP and DeepSpeed take the weights of what they train apart or change their type: a copy stays out of that.
    model = attach(copy.deepcopy(student) if sharded else student, settings, kept_layers, shardable=uses_fsdp())
    try:
        if shared is not None and teacher is not None and kept_layers is not None:
            prefix = find_prefix(model, teacher, kept_layers)
        if teacher is not None and kept_layers is not None and settings.needs_states:
            task = replace(task, matches=matched_states(kept_layers, len(find_layer_list(teacher)[1])))
        task = replace(task, head=model.get_output_embeddings(), teacher=teacher, prefix=prefix)
        trainer = HealTrainer(model, task, arguments)
        _train(trainer, checkpoint)
        improved = trainer.progress.best_step > 0
        facts = {
            "trained": changed_parameters(model, trainer.best_weights, settings) if improved else frozenset(),
            "trained_parameters": sum(w.numel() for w in trainer.best_weights.values()),
            "shared_bytes": shared.bytes if shared else 0,
            "shared_layers": prefix.depth if prefix else 0,
        }
        if shared:
            shared.unshare()
        healed = merge(model, student, trainer.best_weights, settings, kept_layers)
    finally:
        if healed is None:
            if shared:
                shared.unshare()
            detach(model, student, settings)
    return healed, trainer, facts


def _provenance(domains: Mapping[str, Domain], split: Split) -> dict[str, dict[str, Any]]:
    return {
        name: {
            **domain.describe(),
            "weight": split.weights[name],
            "training_documents": len(split.training[name]),
            "held_out_documents": len(split.held_out[name]),
        }
        for name, domain in domains.items()
    }


def training_arguments(settings: HealSettings, directory: Path) -> TrainingArguments:
    """The arguments of transformers' Trainer that the settings stand for."""
    steps = settings.max_steps
    return TrainingArguments(
        output_dir=str(directory),
        max_steps=steps,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        warmup_steps=settings.warmup_ratio,  # below 1, Trainer reads it as a share of max_steps
        lr_scheduler_type=settings.lr_scheduler_type,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        eval_strategy="steps",
        eval_steps=settings.eval_steps or max(1, steps // EVALUATIONS),
        logging_steps=max(1, steps // LOGS),
        logging_nan_inf_filter=False,  # a non-finite loss stops the run instead
        save_strategy="no" if settings.save_steps is None else "steps",
        save_steps=settings.save_steps or steps,
        save_total_limit=2,
        report_to=settings.report_to or "none",
        activation_checkpointing=settings.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        bf16=autocasts(settings.bf16, *accelerator()),
        seed=settings.seed,
        use_cpu=not torch.cuda.is_available() and settings.deepspeed is None,  # accelerate would leave DeepSpeed out
        deepspeed=None if settings.deepspeed is None else deepspeed_config(settings.deepspeed),
        dataloader_num_workers=0,
        dataloader_pin_memory=torch.cuda.is_available(),
        remove_unused_columns=False,
        disable_tqdm=True,
    )


def _train(trainer: HealTrainer, checkpoint: Path | None) -> None:
    trainer.session_start = time.monotonic()
    trainer.args.eval_on_start = checkpoint is None
    done = 0 if checkpoint is None else int(checkpoint.name.split("-")[1])
    with stage("training", trainer.args.max_steps, "steps", done=done) as trainer.training:
        if checkpoint is None:
            trainer.train()
        else:
            trainer.resume_state(checkpoint)
            trainer.train(resume_from_checkpoint=str(checkpoint))
    evaluated = max(entry["step"] for entry in trainer.state.log_history if "eval_loss" in entry)
    if evaluated < trainer.state.global_step:
        trainer.evaluate()


def _source_layers(
    student: PreTrainedModel, teacher: PreTrainedModel, given: Sequence[int] | None, *, needed: bool
) -> list[int] | None:
    """Teacher layer of each student layer; None where neither the caller nor the weights tell and nobody needs it."""
    count, depth = len(find_layer_list(student)[1]), len(find_layer_list(teacher)[1])
    kept = find_kept_layers(student, teacher) if given is None else list(given)
    if kept is None and not needed:
        return None
    if kept is None and depth < count:
        raise PruneError(
            f"the teacher has {depth} layers and the pruned model {count}: residual_weight compares with the model "
            "that was pruned, so give --teacher that one, or set residual_weight to 0"
        )
    if kept is None or len(kept) != count or kept != sorted(set(kept)) or not all(0 <= k < depth for k in kept):
        raise PruneError(
            f"kept_layers {kept if kept is not None else 'cannot be told from the weights'}: give {count} sorted layer "
            f"numbers of the teacher, 0 to {depth - 1}, one for each layer of the pruned model"
        )
    return kept


def _fingerprint(
    student: PreTrainedModel,
    teacher: PreTrainedModel | None,
    domains: Mapping[str, Domain],
    weights: Mapping[str, float],
    settings: HealSettings,
    kept_layers: Sequence[int] | None,
) -> dict[str, Any]:
    return {
        **settings.model_dump(exclude={"report_to", "save_steps", "deepspeed"}),
        **{f"data {name}": domain.sha256 for name, domain in domains.items()},
        "domain_weights": dict(weights),
        "kept_layers": None if kept_layers is None else list(kept_layers),
        "student": _weights_hash(student),
        "teacher": None if teacher is None else _weights_hash(teacher),
    }


@torch.no_grad()
def _weights_hash(model: PreTrainedModel) -> str:
    """Cheap identity of a model: two sums of every tensor, hashed; equal weights give equal hashes."""
    return sha256_json(
        [
            [n, list(p.shape), p.sum(dtype=torch.float64).item(), p.abs().sum(dtype=torch.float64).item()]
            for n, p in model.named_parameters()
        ]
    )
