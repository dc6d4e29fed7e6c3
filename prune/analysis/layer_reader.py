"""Per-token figures of what each layer adds, read while the model runs.

An observer for `SublayerTracer`: it keeps a handful of numbers per token and layer, and the layer's contribution
itself (float32), which the cosine to the final stream needs after the last layer has run.
"""

from __future__ import annotations

import dataclasses

import torch

from prune.model.sublayers import Contribution

SMALLEST_NORM = 1e-6  # denominators are clamped here


def cosine(dot: torch.Tensor, norm_a: torch.Tensor, norm_b: torch.Tensor) -> torch.Tensor:
    """dot / (‖a‖·‖b‖), 0 where either vanishes."""
    return dot / (norm_a * norm_b).clamp(min=SMALLEST_NORM**2)


class LayerReader:
    """Collects, for N real tokens and every layer seen so far.

    Attributes:
        relative: part (attn, mlp, layer) -> list of [N] float32, ‖added‖ / ‖stream it is added to‖.
        cosines: part -> list of [N] float32, cosine of the added vector with that stream.
        added: list of [N, d] float32, the contribution of each layer.
        attn: list of [N, d] float32, attention's; empty unless asked for, or when it cannot be told from the MLP's.
        mlp: list of [N, d] float32, likewise.
    """

    def __init__(self, mask: torch.Tensor, keep_parts: bool = False) -> None:
        self.mask = mask
        self.padded = not bool(mask.all())
        self.keep_parts = keep_parts
        self.attn: list[torch.Tensor] = []
        self.mlp: list[torch.Tensor] = []
        self.relative: dict[str, list[torch.Tensor]] = {"attn": [], "mlp": [], "layer": []}
        self.cosines: dict[str, list[torch.Tensor]] = {"attn": [], "mlp": [], "layer": []}
        self.added: list[torch.Tensor] = []

    def __call__(self, seen: Contribution) -> None:
        mask: torch.Tensor | slice = self.mask.to(seen.resid_pre.device)
        if not self.padded and not self.keep_parts:  # nothing is kept of what is read, so no copy is needed
            mask = slice(None)
            seen = dataclasses.replace(
                seen,
                resid_pre=seen.resid_pre.flatten(0, 1),
                resid_post=seen.resid_post.flatten(0, 1),
                attn=None if seen.attn is None else seen.attn.flatten(0, 1),
                mlp=None if seen.mlp is None else seen.mlp.flatten(0, 1),
            )
        pre = seen.resid_pre[mask].float()  # [N, d]
        if seen.attn is None or seen.mlp is None:
            added = seen.resid_post[mask].float() - pre  # [N, d]
        else:
            attn, mlp = seen.attn[mask], seen.mlp[mask]  # [N, d], [N, d]
            added = attn + mlp  # [N, d]
            self._record("attn", attn, pre)
            self._record("mlp", mlp, pre if seen.parallel else pre + attn)
            if self.keep_parts:
                self.attn.append(attn)
                self.mlp.append(mlp)
        self._record("layer", added, pre)
        self.added.append(added)

    def _record(self, part: str, added: torch.Tensor, stream: torch.Tensor) -> None:
        size = torch.linalg.vector_norm(added, dim=-1)  # [N]
        base = torch.linalg.vector_norm(stream, dim=-1)  # [N]
        dot = torch.linalg.vecdot(added, stream)  # [N]
        self.relative[part].append(size / base.clamp(min=SMALLEST_NORM))
        self.cosines[part].append(cosine(dot, size, base))
