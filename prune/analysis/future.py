"""What earlier tokens' layers do for later tokens: a layer left out before position t, the effect measured from t on.

Several t a document, evenly spread. Only what attention carries forward counts, so a layer whose work serves its own
token alone has no future effect. The last layer's is 0 by definition: never rank by it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from prune.analysis.clean_pass import PARTS, CleanPass
from prune.analysis.effect_tables import empty_table, filling, percentiles, record_table
from prune.analysis.interventions import propagate, removals, removed_everywhere
from prune.analysis.statistics import Records


def cut_positions(length: int, cuts: int, first_token: str = "drop") -> list[int]:
    """The positions t of a document of `length` tokens: `cuts` at most, evenly spread, each with tokens on both sides.

    Under `keep` the first token is never skipped, so t >= 2 there. A document too short for any has none.
    """
    lowest = 1 if first_token == "drop" else 2
    places = (round(length * number / (cuts + 1)) for number in range(1, cuts + 1))
    return sorted({max(place, lowest) for place in places if max(place, lowest) < length})


def measure(clean: CleanPass, records: Records) -> None:
    """Add `future_effect/{layer,attn,mlp}/*`, the mean and the rest taken over all t and all tokens from t on.

    Source: arXiv 2505.13898, sect. 4, fig. 5.
    """
    cuts = [cut_positions(int(n), clean.rules.cuts, clean.rules.first_token) for n in clean.lengths]
    position = torch.from_numpy(clean.position).to(clean.mask.device)  # [N]
    for part in PARTS:
        for number in range(clean.rules.cuts):
            places = [places[number] if number < len(places) else 0 for places in cuts]
            cut = torch.tensor(places, device=clean.mask.device)[clean.row]  # [N], 0 where the document has no such t
            before = torch.zeros_like(clean.mask)  # [B, T]
            before[clean.mask] = position < cut
            alterations = removals(clean, part, before & removed_everywhere(clean))
            if alterations is None:
                break
            effects = empty_table(clean)
            propagate(clean, alterations, filling(clean, effects))
            record_table(clean, records, f"future_effect/{part}", effects, (cut > 0) & (position >= cut), number)


def derive(parts: Sequence[Records], draws: Sequence[np.ndarray] | None) -> dict[str, np.ndarray]:
    """The percentiles over tokens, `future_effect/{layer,attn,mlp}/p99`."""
    return percentiles(parts, draws, "future_effect")
