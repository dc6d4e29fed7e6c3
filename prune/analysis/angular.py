"""Angular distance between the stream at any two depths: the whole triangle from one Gram matrix a token.

Entry (i, j), i < j, compares the stream before layer i with the stream before layer j; index L is the stream after the
last layer and **before** the final norm. Blocks that start at layer 0 are row 0.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from prune.analysis.clean_pass import CleanPass
from prune.analysis.layer_reader import cosine
from prune.analysis.statistics import Records


def measure(clean: CleanPass, records: Records) -> None:
    """Add `angular_distance/last` and `angular_distance/all`, [L+1, L+1], upper triangle; 0 elsewhere.

    Source: Gromov et al. 2024, eq. 7: mean of arccos(cos(x_i, x_j)) / π, over last tokens there.
    """
    norm = clean.gram.diagonal(dim1=1, dim2=2).sqrt()  # [N, L+1]
    cosines = cosine(clean.gram, norm[:, :, None], norm[:, None, :]).clamp(-1, 1)  # [N, L+1, L+1]
    distance = (torch.arccos(cosines) / math.pi).triu(1)  # [N, L+1, L+1]
    records.add("angular_distance/all", clean.index, clean.by_document(distance), clean.lengths, triangle=True)
    last = distance[clean.last.to(distance.device)].cpu().numpy()  # [B, L+1, L+1]
    records.add("angular_distance/last", clean.index, last, np.ones(len(clean.index)), triangle=True)
