"""The direct effect of each layer on each later one: the later layer sees its own clean input minus the contribution.

Nothing is propagated, so what the layers between would have made of the change is left out: compare with skip effects.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from prune.analysis.clean_pass import PARTS, CleanPass
from prune.analysis.effect_tables import empty_table, percentiles, record_table
from prune.analysis.interventions import added_tokens, at_once, relative_effect, removed_everywhere
from prune.analysis.statistics import Records
from prune.model.sublayers import Contribution


def measure(clean: CleanPass, records: Records) -> None:
    """Add `local_effect/{layer,attn,mlp}/*`.

    Source: arXiv 2505.13898, sect. 4. Costs L·(L-1)/2 layer evaluations a part.
    """
    reader, tracer = clean.reader, clean.tracer
    assert reader is not None  # the registry says that this measurement needs one
    assert tracer is not None
    where = removed_everywhere(clean)[clean.mask]  # [N]
    size = at_once(clean)
    for part in PARTS:
        contributions = {"layer": reader.added, "attn": reader.attn, "mlp": reader.mlp}[part]
        if len(contributions) != clean.num_layers:
            continue
        effects = empty_table(clean)
        seen: list[Contribution] = []
        with tracer.observing(seen.append, clean.mask):
            for layer in range(1, clean.num_layers):
                for begin in range(0, layer, size):
                    skipped = range(begin, min(begin + size, layer))
                    inputs = [_minus(clean, layer, contributions[s], where) for s in skipped]
                    clean.walk.run(torch.cat(inputs), [layer])
                    values = relative_effect(clean, layer, added_tokens(clean, seen.pop()))  # [K, N]
                    effects[:, list(skipped), layer] = values.T.to(effects.device)
        record_table(clean, records, f"local_effect/{part}", effects)


def _minus(clean: CleanPass, layer: int, contribution: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """[B, T, d]: the clean input of `layer` without a contribution [N, d], at the tokens `where` [N]."""
    stream = clean.walk.resid_pre[layer]
    reduced = stream.float().clone()  # [B, T, d]
    part = (contribution.to(stream.device) * where.to(stream.device)[:, None]).float()  # [N, d]
    reduced[clean.mask.to(stream.device)] -= part
    return reduced.to(stream.dtype)


def derive(parts: Sequence[Records], draws: Sequence[np.ndarray] | None) -> dict[str, np.ndarray]:
    """The percentiles over tokens, `local_effect/{layer,attn,mlp}/p99`."""
    return percentiles(parts, draws, "local_effect")
