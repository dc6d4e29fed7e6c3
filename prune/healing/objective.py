"""From a batch to the losses: runs student and teacher, with the head on the counted positions only.

Assumption: everything a model does after its output embedding is element-wise (soft-caps, logit scales), so that
giving the head [1, N, d] hidden states of the N counted positions instead of [B, T, d] changes no counted logit. It
saves the head's work and memory on prompts and padding, in the student and in the teacher.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from prune.healing.buckets import Buckets
from prune.healing.data import IGNORED
from prune.healing.objectives import OBJECTIVES, PARTS, Objective, Seen
from prune.healing.prefix import SharedPrefix
from prune.healing.settings import HealSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Losses:
    """Sums over the counted tokens of a batch.

    Attributes:
        total: the weighted sum of all objectives, with its gradient.
        parts: the unweighted sum of each, by name, for the record; 0 for one that did not run.
    """

    total: torch.Tensor
    parts: dict[str, torch.Tensor]


def matched_states(kept_layers: Sequence[int], teacher_layers: int) -> list[tuple[int, int]]:
    """Pairs (student, teacher) of entries of `hidden_states` that residual matching compares.

    Entry i + 1 is the stream after layer i, except the last entry, which transformers gives after the final norm; it
    is compared with the teacher's last one, because both feed the same head.
    """
    inner = [(i + 1, source + 1) for i, source in enumerate(kept_layers[:-1])]
    return [*inner, (len(kept_layers), teacher_layers)]


def batch_losses(
    model: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    settings: HealSettings,
    *,
    head: nn.Module | None,
    teacher: nn.Module | None = None,
    matches: Sequence[tuple[int, int]] = (),
    prefix: SharedPrefix | None = None,
) -> Losses:
    """All losses of one batch of `data.Collator`.

    Args:
        model: the student, possibly wrapped (peft, DDP).
        inputs: `input_ids`, `labels` and a mask or positions, [B, T] each; what a teacher said before, where it did.
        settings: weights and temperature.
        head: the student's output embedding.
        teacher: used when some objective needs it.
        matches: of `matched_states`.
        prefix: layers that run once, in the teacher.
    """
    inputs = dict(inputs)
    kept = Buckets.taken(inputs)
    labels = inputs.pop("labels")  # [B, T]
    counted = _counted(labels)  # [B, T]
    targets = labels[:, 1:][counted[:, :-1]]  # [N]
    matching = settings.needs_states and bool(matches)

    theirs = None
    recording, replaying = (prefix.recording(), prefix.replaying()) if prefix else (contextlib.nullcontext(),) * 2
    if teacher is not None and settings.needs_teacher:
        # What is made in inference mode cannot enter the student's graph.
        with torch.no_grad() if prefix else torch.inference_mode(), recording:
            theirs = _run(teacher, teacher.get_output_embeddings(), inputs, counted, matching)  # type: ignore[operator]
    with replaying:
        ours = _run(model, head, inputs, counted, matching)
    seen = Seen(targets, ours.logits, theirs.logits if theirs else kept, counted)
    if theirs is not None and matching:
        seen = replace(seen, states=ours.states, teacher_states=theirs.states, matches=matches)
    total = ours.logits.new_zeros((), dtype=torch.float32)
    parts = dict.fromkeys(PARTS, total)
    for objective in OBJECTIVES:
        if objective.recorded or (objective.active(settings) and _can_be_seen(objective, seen, settings)):
            loss, sums = objective.loss(seen, settings)
            total, parts = total + loss, {**parts, **sums}
    return Losses(total, parts)


def _can_be_seen(objective: Objective, seen: Seen, settings: HealSettings) -> bool:
    """Held-out losses are made without the teacher, and states without counterparts cannot be matched."""
    if objective.needs_states and not seen.matches:
        return False
    return seen.teacher_logits is not None or not objective.needs_teacher(settings)


def counted_logits(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """[N, V] logits of a model at the counted positions of one batch of `data.Collator`, row after row."""
    inputs = dict(inputs)
    counted = _counted(inputs.pop("labels"))  # [B, T]
    return _run(model, model.get_output_embeddings(), inputs, counted, states=False).logits


def _counted(labels: torch.Tensor) -> torch.Tensor:
    """[B, T], True where the *next* token is predicted."""
    counted = torch.zeros_like(labels, dtype=torch.bool)  # [B, T]
    counted[:, :-1] = labels[:, 1:] != IGNORED
    return counted


@dataclass(frozen=True)
class _Outputs:
    logits: torch.Tensor  # [N, V]
    states: Sequence[torch.Tensor]  # [B, T, d] each


def _run(
    model: nn.Module, head: nn.Module | None, inputs: dict[str, Any], counted: torch.Tensor, states: bool
) -> _Outputs:
    with _head_on(head, counted):
        output = model(**inputs, use_cache=False, output_hidden_states=states)
    logits = output.logits  # [1, N, V], or [B, T, V] where the head could not be narrowed
    logits = logits[counted] if logits.shape[:2] == counted.shape else logits[0]  # [N, V]
    return _Outputs(logits, output.hidden_states if states else ())


@contextlib.contextmanager
def _head_on(head: nn.Module | None, counted: torch.Tensor) -> Iterator[None]:
    def narrow(_: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden, *rest = arguments
        return (hidden[counted].unsqueeze(0), *rest)

    hook = None if head is None else head.register_forward_pre_hook(narrow)
    try:
        yield
    finally:
        if hook is not None:
            hook.remove()


def packs_exactly(model: nn.Module, vocabulary: int) -> bool:
    """Whether documents packed into one row do not see each other in this very model.

    Two rows of two documents are run packed and apart: the second document's logits must not move when the first
    changes, and must equal those of the document alone (relative 1e-3 in float32, 5e-2 in half precision).
    """
    generator = torch.Generator().manual_seed(0)
    first, other, second = (torch.randint(vocabulary, (2, n), generator=generator) for n in (5, 5, 7))  # [2, n]
    parameter = next(model.parameters())
    positions = torch.cat([torch.arange(5), torch.arange(7)]).expand(2, -1)  # [2, 12]

    def logits(ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
        output = model(
            input_ids=ids.to(parameter.device), position_ids=position_ids.to(parameter.device), use_cache=False
        )
        return output.logits[:, -7:].float()  # [2, 7, V]

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            packed = logits(torch.cat([first, second], 1), positions)  # [2, 7, V]
            disturbed = logits(torch.cat([other, second], 1), positions)  # [2, 7, V]
            alone = logits(second, torch.arange(7).expand(2, -1))  # [2, 7, V]
    except (TypeError, ValueError, NotImplementedError):  # the model takes no position_ids, or refuses these
        return False
    finally:
        model.train(was_training)
    tolerance = 1e-3 if packed.dtype == parameter.dtype else 5e-2
    scale = alone.std().item()
    return all((packed - b).abs().max().item() <= tolerance * scale for b in (disturbed, alone))
