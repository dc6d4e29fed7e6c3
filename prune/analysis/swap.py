"""What exchanging two layers does to the predictions: does their order matter?

Layers l and l + k change places, those between stay. Under the first-token rule `keep`, each document's first token
goes through the layers in their own order: every layer sees its clean stream there.
"""

from __future__ import annotations

import functools

import torch

from prune.analysis.clean_pass import CleanPass
from prune.analysis.interventions import Alteration, propagate
from prune.analysis.outputs import record_outputs
from prune.analysis.statistics import Records

KINDS = ("kl", "dnll")


def measure(clean: CleanPass, records: Records) -> None:
    """Add `swap_effect/{kl,dnll}` [L-1], exchanging l and l + 1; for other distances k `swap_effect/by_K/...` [L-k]."""
    for distance in dict.fromkeys(clean.rules.swap_distances):
        starts = range(clean.num_layers - distance)
        alterations = [Alteration(i + distance + 1, functools.partial(swapped, clean, i, distance)) for i in starts]
        name = "swap_effect" if distance == 1 else f"swap_effect/by_{distance}"
        record_outputs(clean, records, name, propagate(clean, alterations), KINDS)


def swapped(clean: CleanPass, first: int, distance: int) -> torch.Tensor:
    """[B, T, d]: the stream after layer `first + distance`, having changed places with layer `first`."""
    streams, walk = clean.walk.resid_pre, clean.walk
    order = list(range(first, first + distance + 1))
    order[0], order[-1] = order[-1], order[0]
    hidden = streams[first]
    for layer in order:
        hidden = walk.run(_first_clean(clean, hidden, streams[layer]), [layer])
    return _first_clean(clean, hidden, streams[first + distance + 1])


def _first_clean(clean: CleanPass, hidden: torch.Tensor, stream: torch.Tensor) -> torch.Tensor:
    if clean.rules.first_token == "drop":
        return hidden
    return torch.where(clean.first[..., None].to(hidden.device), stream.to(hidden.device), hidden)
