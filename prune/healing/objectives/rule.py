"""What an objective is, and what it is shown of a batch. Imports nothing heavy: settings are made from objectives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from prune.healing.buckets import Buckets


@dataclass(frozen=True)
class Seen:
    """What student and teacher said of one batch of B rows of T tokens, at its N counted positions.

    Attributes:
        targets: [N], the actual next tokens.
        logits: [N, V] of the student.
        teacher_logits: [N, V], or what was kept of its distributions; None without a teacher.
        counted: [B, T], True where the next token is predicted.
        states: entries [B, T, d] of the student's `hidden_states`; empty unless an objective needs them.
        teacher_states: of the teacher.
        matches: pairs (student, teacher) of entries that belong together.
    """

    targets: torch.Tensor
    logits: torch.Tensor
    teacher_logits: torch.Tensor | Buckets | None
    counted: torch.Tensor
    states: Sequence[torch.Tensor] = ()
    teacher_states: Sequence[torch.Tensor] = ()
    matches: Sequence[tuple[int, int]] = ()

    def matched(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The streams [N, d] of student and teacher that belong together, at the counted positions."""
        return ((self.states[i][self.counted], self.teacher_states[j][self.counted]) for i, j in self.matches)


@dataclass(frozen=True)
class Objective:
    """One file of this room, and its line in the registry.

    Attributes:
        weights: the settings of which one above 0 switches it on.
        loss: (batch, settings) -> the weighted **sum** over the N positions, with a gradient, and the unweighted sums
            by name, for the record.
        parts: those names.
        needs_teacher: whether it compares with the original model, under some settings.
        needs_states: whether it reads the residual streams, and so runs only with a teacher of the same layers.
        recorded: whether it also runs at weight 0, for the record.
    """

    weights: tuple[str, ...]
    loss: Callable[[Seen, Any], tuple[torch.Tensor, Mapping[str, torch.Tensor]]]
    parts: tuple[str, ...]
    needs_teacher: Callable[[Any], bool]
    needs_states: bool = False
    recorded: bool = False

    def active(self, settings: Any) -> bool:
        """Whether these settings train for it."""
        return any(getattr(settings, name) > 0 for name in self.weights)
