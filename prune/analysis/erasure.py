"""Residual erasure: at which depth do completions stop needing each part of the prompt?

The stream of one eighth of the prompt, before layer l, is replaced by the prompt's mean; everything from layer l on is
run again and read at the completion's tokens. Where the effect fades, attention has already fetched what it needs.
"""

from __future__ import annotations

import functools

import torch

from prune.analysis.clean_pass import CleanPass
from prune.analysis.interventions import Alteration, propagate
from prune.analysis.outputs import compare_outputs
from prune.analysis.prompts import SEGMENTS, Prompts, prompts_of
from prune.analysis.statistics import Records

KINDS = ("kl", "dnll")


def measure(clean: CleanPass, records: Records) -> None:
    """Add `erasure/{kl,dnll}` [L, 8]: row = the layer before which, column = the eighth of the prompt.

    Source: after arXiv 2505.13898, sect. 5. Costs 4 (L + 1) passes.
    """
    prompts = prompts_of(clean)
    if not prompts.rows:
        return
    columns: dict[str, list[torch.Tensor]] = {kind: [] for kind in KINDS}
    for segment in range(SEGMENTS):
        alterations = [
            Alteration(layer, functools.partial(_without_segment, clean, prompts, layer, segment))
            for layer in range(clean.num_layers)
        ]
        found = compare_outputs(clean, propagate(clean, alterations))
        for kind in KINDS:
            columns[kind].append(found.sums[kind])  # [B, L]
    for kind, values in columns.items():
        table = torch.stack(values, 2).numpy()[prompts.rows]  # [b, L, 8]
        records.add(f"erasure/{kind}", prompts.index, table, found.counted.numpy()[prompts.rows])


def _without_segment(clean: CleanPass, prompts: Prompts, layer: int, segment: int) -> torch.Tensor:
    stream = clean.walk.resid_pre[layer]
    chosen = (prompts.segment == segment).to(stream.device)[..., None]  # [B, T, 1]
    return torch.where(chosen, prompts.erased(stream), stream)
