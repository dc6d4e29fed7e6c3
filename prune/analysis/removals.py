"""What leaving out each layer, each attention or each MLP does to later layers and to the predictions.

Left out means at every position, as pruning does; with the first-token rule `keep`, at every position but each
document's first (the paper's rule). One propagation a part serves both the [L, L] table and the outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prune.analysis.clean_pass import PARTS, CleanPass
from prune.analysis.effect_tables import empty_table, filling, percentiles, record_table
from prune.analysis.interventions import propagate, removals
from prune.analysis.outputs import record_outputs
from prune.analysis.statistics import Records


def measure(clean: CleanPass, records: Records) -> None:
    """Add `output_effect/*` (of a layer; `output_effect/{attn,mlp}/*` of a part), `skip_effect/{layer,attn,mlp}/*`.

    Source: arXiv 2505.13898, sect. 4, fig. 4: the effect on a later layer is ‖c[l] - c'[l]‖ / ‖c[l]‖.
    """
    wanted = clean.rules.wanted
    for part in PARTS:
        outputs = ("dnll" if part == "layer" else "sublayer_dnll") in wanted
        if outputs or "skip" in wanted:
            _measure_part(clean, records, part, outputs=outputs, table="skip" in wanted)


def _measure_part(clean: CleanPass, records: Records, part: str, *, outputs: bool, table: bool) -> None:
    alterations = removals(clean, part)
    if alterations is None:
        return
    effects = empty_table(clean) if table else None

    finals = propagate(clean, alterations, None if effects is None else filling(clean, effects))
    if outputs:
        name = "output_effect" if part == "layer" else f"output_effect/{part}"
        record_outputs(clean, records, name, finals, answers=part == "layer")
    if effects is not None:
        record_table(clean, records, f"skip_effect/{part}", effects)


def derive(parts: Sequence[Records], draws: Sequence[np.ndarray] | None) -> dict[str, np.ndarray]:
    """The percentiles over tokens, `skip_effect/{layer,attn,mlp}/p99`."""
    return percentiles(parts, draws, "skip_effect")
