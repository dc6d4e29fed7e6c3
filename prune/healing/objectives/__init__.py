"""The registry of objectives: a new one is a file here, its settings among the bases below, its line in the tuple."""

from __future__ import annotations

from prune.healing.objectives import entropy, residual, tokens
from prune.healing.objectives.rule import Objective, Seen


class ObjectiveSettings(residual.ResidualSettings, entropy.EntropySettings, tokens.TokenSettings):
    """Every objective's weights and numbers, as they appear in recipes and on the command line."""


OBJECTIVES = (tokens.OBJECTIVE, entropy.OBJECTIVE, residual.OBJECTIVE)
"""In the order in which their weighted losses are added."""
WEIGHTS = tuple(name for objective in OBJECTIVES for name in objective.weights)
PARTS = tuple(name for objective in OBJECTIVES for name in objective.parts)

__all__ = ["OBJECTIVES", "PARTS", "WEIGHTS", "Objective", "ObjectiveSettings", "Seen"]
