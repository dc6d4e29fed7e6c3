"""What is wrong with a healing run, found before anything is trained; `rehearse` finds it without any weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_utils import SchedulerType

from prune.analysis.documents import check_documents
from prune.data.domains import Domain
from prune.errors import PruneError, UsageError
from prune.healing.data import Split, documents_within, split_domains
from prune.healing.methods import attach
from prune.healing.settings import HealSettings
from prune.healing.sharding import check_sharding

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from prune.checkpoint.source import Source
    from prune.healing.targets import Targets


def check_run(
    student: nn.Module,
    teacher: nn.Module | None,
    domains: Mapping[str, Domain],
    settings: HealSettings,
    domain_weights: Mapping[str, float] | None,
    targets: Targets | None = None,
) -> Split:
    """The training and held-out documents of a run whose teacher, data and names fit together.

    Args:
        student: the pruned model; its weights are not read.
        teacher: the original, or none.
        domains: documents.
        settings: of the run.
        domain_weights: share of predicted tokens per domain.
        targets: what the original said, in its place.

    Raises:
        PruneError: a missing teacher or one of another vocabulary; no or too little data.
        UsageError: a weight of no domain, documents that the model cannot read, a schedule or tracker that is not
            there, or what `check_sharding` refuses.
    """
    check_teacher(student, teacher, settings, targets)
    check_names(settings)
    check_sharding(settings)
    within = {name: replace(d, documents=documents_within(d, settings.max_length)) for name, d in domains.items()}
    check_documents(student, student.get_input_embeddings(), within)  # type: ignore[operator]
    return split_domains(
        domains,
        domain_weights,
        max_length=settings.max_length,
        eval_fraction=settings.eval_fraction,
        eval_max_documents=settings.eval_max_documents,
        seed=settings.seed,
    )


def check_teacher(
    student: nn.Module, teacher: nn.Module | None, settings: HealSettings, targets: Targets | None = None
) -> None:
    """Refuse settings that need a teacher without one, and a teacher of another vocabulary.

    Raises:
        PruneError: either is the case.
    """
    if not settings.needs_teacher:
        return
    if targets is not None:
        check_targets(settings)
        targets.require_entropy(settings)
        targets.require_vocabulary(len(student.get_output_embeddings().weight))  # type: ignore[operator]
        return
    if teacher is None:
        raise PruneError(
            "distill_weight or residual_weight is above 0 but there is no teacher: give --teacher the original model, "
            "or set both to 0"
        )
    ours, theirs = (len(m.get_output_embeddings().weight) for m in (student, teacher))  # type: ignore[operator, arg-type]
    if ours != theirs:
        raise PruneError(
            f"the teacher predicts {theirs} tokens and the pruned model {ours}: distillation needs one vocabulary; "
            "give --teacher the model that was pruned"
        )


def check_targets(settings: HealSettings) -> None:
    """Refuse settings that need the original itself, where only what it said is at hand.

    Raises:
        UsageError: names the field.
    """
    if settings.needs_states:
        raise UsageError(
            "--residual_weight: needs the original's residual streams: give --teacher, not --targets, or 0"
        )
    if settings.temperature != 1:
        raise UsageError(
            f"--temperature {settings.temperature:g}: targets hold one bucket for the unlikely tokens, which only "
            "temperature 1 can use; give --temperature 1, or --teacher instead of --targets"
        )


def check_tokenizers(ours: Any, theirs: Any, teacher: str) -> None:
    """Refuse a teacher that numbers its tokens otherwise, which equal sizes do not tell; added tokens are left out.

    Raises:
        PruneError: it does; names a token.
    """
    added = ours.get_added_vocab()
    known: dict[str, int] = theirs.get_vocab()
    for token, number in sorted(ours.get_vocab().items(), key=lambda pair: pair[1]):
        if token not in added and known.get(token) != number:
            there = f"is token {known[token]}" if token in known else "is no token"
            raise PruneError(
                f"--teacher {teacher}: {token!r} {there} there and token {number} in the pruned model: distillation "
                "needs one vocabulary; give --teacher the model that was pruned"
            )


def check_names(settings: HealSettings) -> None:
    """Refuse schedules and trackers that transformers does not know, or whose library is not installed.

    Raises:
        UsageError: names the field.
    """
    try:
        SchedulerType(settings.lr_scheduler_type)
    except ValueError as error:
        raise UsageError(f"lr_scheduler_type: {error}") from None
    try:
        for callback in get_reporting_integration_callbacks(settings.report_to):
            callback()
    except (ValueError, RuntimeError, ImportError) as error:
        raise UsageError(f"report_to: {error}") from None


def rehearse(
    model: str | Path | Source,
    teacher: str | Path | Source | None,
    domains: Mapping[str, Domain],
    settings: HealSettings,
    *,
    kept_layers: Sequence[int] | None = None,
    domain_weights: Mapping[str, float] | None = None,
    targets: Targets | None = None,
) -> None:
    """Everything that `heal` would refuse and that the configs and the data tell; no weight is read.

    Args:
        model: the pruned checkpoint.
        teacher: the original, or none.
        domains: documents.
        settings: of the run.
        kept_layers: source index of each student layer, where known.
        domain_weights: share of predicted tokens per domain.
        targets: what the original said, in its place.

    Raises:
        PruneError, UsageError: as `heal`.
    """
    from transformers import AutoModelForCausalLM

    from prune.model.loading import load_config
    from prune.surgery.signature import skeleton

    def bones(source: str | Path | Source) -> PreTrainedModel:
        return skeleton(AutoModelForCausalLM, load_config(source))

    student = bones(model)
    check_run(student, bones(teacher) if teacher else None, domains, settings, domain_weights, targets)
    # Without weights there is nothing to quantise; qlora puts its adapters where lora does.
    method = "lora" if settings.method == "qlora" else settings.method
    attach(student, settings.model_copy(update={"method": method}), kept_layers)


def rehearse_uncut(
    original: PreTrainedModel, domains: Mapping[str, Domain], settings: HealSettings, depth: int
) -> None:
    """What `heal` would refuse of a model that is yet to be cut: so that no mistake waits for the stages before it.

    Args:
        original: the model, or its skeleton; not usable afterwards.
        domains: documents that are at hand already; none if all will be generated.
        settings: of the run.
        depth: layers of the shallowest candidate.

    Raises:
        PruneError, UsageError: as `heal`.
    """
    check_names(settings)
    check_sharding(settings)
    if domains:
        check_run(original, original, domains, settings, None)
    for field in ("lora_layers", "train_layers"):
        chosen = getattr(settings, field)
        if isinstance(chosen, list) and not all(0 <= layer < depth for layer in chosen):
            raise UsageError(f"heal.{field} {chosen}: the model cut to {depth} layers has the layers 0 to {depth - 1}")
    if settings.method != "full":
        attach(original, settings.model_copy(update={"method": "lora", "lora_layers": "all"}))
