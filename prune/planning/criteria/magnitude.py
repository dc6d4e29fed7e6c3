"""Weight magnitude: the sum of |w| over a layer's matrices (the baseline of Shortened LLaMA); reads no documents."""

from __future__ import annotations

from collections.abc import Sequence

from evals.weights import weight
from prune.errors import PruneError
from prune.planning.context import Context
from prune.planning.registry import Criterion


def layer_scores(context: Context, removals: int) -> Sequence[float]:
    """Sum of |w| of each layer [L].

    Raises:
        PruneError: quantised weights.
    """
    from prune.planning.unit_weights import unit_matrices

    model = context.require_model()

    def compute() -> list[float]:
        matrices = unit_matrices(model, context.units)
        if not all(p.is_floating_point() for group in matrices for p in group):
            raise PruneError(f"{context.source}: --criterion magnitude needs unquantised weights; choose another")
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        return [sum(float(weight(model, names[id(p)]).float().abs().sum()) for p in group) for group in matrices]

    return context.layer_figures("magnitude", "", compute)


CRITERION = Criterion("sum of |w| over the layer's matrices (Shortened LLaMA's baseline)", layer_scores, apart=True)
