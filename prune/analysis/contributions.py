"""What each layer adds to the residual stream: sizes, directions, and its share of the final stream.

Needs no intervention. Contributions come from the sub-layers in float32, never from differences of a rounded stream.
All real tokens count, the first included (it is often an attention sink, so `.../without_first` leaves it out).
"""

from __future__ import annotations

import torch

from prune.analysis.clean_pass import CleanPass
from prune.analysis.layer_reader import SMALLEST_NORM, cosine, row_dots
from prune.analysis.statistics import Records


def measure(clean: CleanPass, records: Records) -> None:
    """Add `relative_contribution/*`, `contribution_cosine/*`, `block_influence`, `final_cosine/layer`, `final_share`.

    Sources: relative contribution, cosines: Csordás et al. 2025; Block Influence: ShortGPT (Men et al. 2024) eq. 1.
    """
    assert clean.reader is not None  # the registry says that this measurement needs one
    device, depth = clean.walk.resid_pre[-1].device, clean.num_layers
    first = torch.ones(len(clean.row), device=device)  # [N], 0 at each document's first token
    first[(clean.last - clean.mask.sum(1) + 1).to(device)] = 0
    figures = {"relative_contribution": clean.reader.relative, "contribution_cosine": clean.reader.cosines}
    for name, parts in figures.items():
        for part, layers in parts.items():
            if len(layers) == depth:
                values = torch.stack([layer.to(device) for layer in layers], 1)  # [N, L]
                records.add(f"{name}/{part}", clean.index, clean.by_document(values), clean.lengths)
                later = clean.by_document(values * first[:, None])  # [B, L]
                records.add(f"{name}/{part}/without_first", clean.index, later, clean.lengths - 1)
    _streams(clean, records)


def _streams(clean: CleanPass, records: Records) -> None:
    """Block Influence and the final-stream figures, from inner products of streams."""
    assert clean.reader is not None
    gram = clean.gram  # [N, L+1, L+1]
    norm = gram.diagonal(dim1=1, dim2=2).sqrt()  # [N, L+1]
    neighbours = gram.diagonal(offset=1, dim1=1, dim2=2)  # [N, L]
    influence = 1 - cosine(neighbours, norm[:, :-1], norm[:, 1:])  # [N, L]
    records.add("block_influence", clean.index, clean.by_document(influence), clean.lengths)

    final = clean.tokens(clean.walk.resid_pre[-1]).float()  # [N, d]
    dot = torch.stack([row_dots(added.to(final.device), final) for added in clean.reader.added], 1).double()  # [N, L]
    size = torch.stack([size.to(final.device) for size in clean.reader.sizes], 1).double()  # [N, L]
    length = norm[:, -1:]  # [N, 1]
    records.add("final_cosine/layer", clean.index, clean.by_document(cosine(dot, size, length)), clean.lengths)
    share = torch.cat([gram[:, :1, -1], dot], 1) / (length**2).clamp(min=SMALLEST_NORM**2)  # [N, L+1]
    records.add("final_share", clean.index, clean.by_document(share), clean.lengths)
