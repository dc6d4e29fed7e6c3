"""How much a step computes: layer evaluations and predictions, which a measured speed turns into seconds.

A layer evaluation is one layer over one token, forward. A backward pass through a frozen layer costs as much again, one
that also makes the gradients of its weights twice as much.
"""

from __future__ import annotations

from dataclasses import dataclass

from prune.estimates.memory import LENS_TOKENS, Training

FORWARD, FROZEN_BACKWARD, WHOLE_BACKWARD = 1.0, 1.0, 2.0


@dataclass(frozen=True)
class Work:
    """What a step computes.

    Attributes:
        tokens: that it reads, once each.
        layers: layer evaluations.
        heads: predictions, of one token over the vocabulary.
    """

    tokens: int
    layers: float
    heads: float

    def passes(self, depth: int) -> float:
        """Layer evaluations in forward passes of all tokens through all layers."""
        return self.layers / (depth * self.tokens) if self.tokens else 0.0

    def plus(self, other: Work) -> Work:
        """Both, of the same tokens."""
        return Work(max(self.tokens, other.tokens), self.layers + other.layers, self.heads + other.heads)


def analysis(depth: int, tokens: int, documents: int, *, removals: bool = True, lens: bool = True) -> Work:
    """The default measurements: a clean pass, and every layer left out, restarted behind it (DESIGN: L (L-1) / 2)."""
    sampled = min(tokens, documents * LENS_TOKENS)
    return Work(
        tokens,
        tokens * (depth + (depth * (depth - 1) / 2 if removals else 0)),
        (tokens * (depth + 1) if removals else 0) + (sampled * (depth + 1) if lens else 0),
    )


def greedy(depth: int, tokens: int, removed: int, *, protected: int = 0, effort: float | None = None) -> Work:
    """Layers removed one by one, all others scored anew each time, each from where it leaves the last round's best.

    Args:
        removed: layers that go.
        protected: layers that never do.
        effort: share of the layer evaluations of full passes that a race may take; None: every candidate is scored on
            every token.
    """
    layers = heads = 0.0
    for gone in range(removed):
        candidates = depth - protected - gone
        left = depth - gone - 1
        # Candidates lie anywhere: in the mean half of the layers that stay lie behind.
        layers += candidates * left * (0.5 if effort is None else effort)
        heads += candidates * (1.0 if effort is None else effort)
    return Work(tokens, tokens * (depth + layers), tokens * (1 + heads))


def healing(shape_layers: int, tokens: int, training: Training) -> Work:
    """Training steps on so many tokens, the teacher's pass included.

    Args:
        shape_layers: of the original.
        tokens: of all steps.
    """
    below = training.student - training.adapted
    backward = WHOLE_BACKWARD if training.method == "full" else FROZEN_BACKWARD
    again = FORWARD if training.checkpointing else 0.0
    student = below * (0.0 if training.teacher and training.shared else FORWARD)
    student += training.adapted * (FORWARD + backward + again)
    teacher = shape_layers * FORWARD if training.teacher else 0.0
    return Work(tokens, tokens * (student + teacher), tokens * (FORWARD + backward + (1 if training.teacher else 0)))
