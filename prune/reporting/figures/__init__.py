"""The figures, as Plotly objects; None where nothing was measured.

Assumptions: arrays are nested lists with None where nothing was measured; an interval stands under the same key with
`.lo` and `.hi`; axes count layers from 0, as the checkpoint does.
"""

from prune.reporting.figures.checkpoints import contribution_by_relative_depth, quality_by_cost
from prune.reporting.figures.decision import accuracy_by_depth, break_even, kept_by_cost, sensitivity
from prune.reporting.figures.drafts import acceptance_needed
from prune.reporting.figures.frontier import cost_by_removed
from prune.reporting.figures.layers import (
    contribution_cosine,
    curve,
    depth_by_difficulty,
    loss_without_layer,
    relative_contribution,
)
from prune.reporting.figures.maps import angular_triangle, depth_map, domain_map, effect_map

__all__ = [
    "acceptance_needed",
    "accuracy_by_depth",
    "angular_triangle",
    "break_even",
    "contribution_by_relative_depth",
    "contribution_cosine",
    "cost_by_removed",
    "curve",
    "depth_by_difficulty",
    "depth_map",
    "domain_map",
    "effect_map",
    "kept_by_cost",
    "loss_without_layer",
    "quality_by_cost",
    "relative_contribution",
    "sensitivity",
]
