"""Per-token figures of what each layer adds, read while the model runs.

An observer for `SublayerTracer`: it keeps a handful of numbers per token and layer, and the layer's contribution
itself (float32), which the cosine to the final stream needs after the last layer has run.
"""

from __future__ import annotations

import dataclasses

import torch

from prune.model.sublayers import Contribution

SMALLEST_NORM = 1e-6  # denominators are clamped here
ROWS = 64  # tokens at a time on CPU, so that a product of two streams is summed while it is in the cache


def cosine(dot: torch.Tensor, norm_a: torch.Tensor, norm_b: torch.Tensor) -> torch.Tensor:
    """dot / (‖a‖·‖b‖), 0 where either vanishes."""
    return dot / (norm_a * norm_b).clamp(min=SMALLEST_NORM**2)


def row_dots(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """[N, d], [N, d] -> [N] inner products of rows, without a second [N, d] in memory on CPU."""
    if a.device.type != "cpu" or len(a) <= ROWS:
        return torch.linalg.vecdot(a, b)
    return torch.cat([torch.linalg.vecdot(x, y) for x, y in zip(a.split(ROWS), b.split(ROWS), strict=True)])


class LayerReader:
    """Collects, for N real tokens and every layer seen so far.

    Attributes:
        relative: part (attn, mlp, layer) -> list of [N] float32, ‖added‖ / ‖stream it is added to‖.
        cosines: part -> list of [N] float32, cosine of the added vector with that stream.
        added: list of [N, d] float32, the contribution of each layer.
        sizes: list of [N] float32, the norm of each layer's contribution.
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
        self.sizes: list[torch.Tensor] = []

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
        length = torch.linalg.vector_norm(pre, dim=-1)  # [N]
        if seen.attn is None or seen.mlp is None:
            added = seen.resid_post[mask].float() - pre  # [N, d]
        else:
            attn, mlp = seen.attn[mask], seen.mlp[mask]  # [N, d], [N, d]
            added = attn + mlp  # [N, d]
            self._record("attn", attn, pre, length)
            if seen.parallel:
                self._record("mlp", mlp, pre, length)
            else:
                mid = pre + attn  # [N, d]
                self._record("mlp", mlp, mid, torch.linalg.vector_norm(mid, dim=-1))
            if self.keep_parts:
                self.attn.append(attn)
                self.mlp.append(mlp)
        self.sizes.append(self._record("layer", added, pre, length))
        self.added.append(added)

    def _record(self, part: str, added: torch.Tensor, stream: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
        """Figures of what is added [N, d] to a stream [N, d] of these lengths [N]; gives the norms of the former."""
        size = torch.linalg.vector_norm(added, dim=-1)  # [N]
        self.relative[part].append(size / length.clamp(min=SMALLEST_NORM))
        self.cosines[part].append(cosine(row_dots(added, stream), size, length))
        return size

    def take(self) -> dict[tuple[str, str], list[torch.Tensor]]:
        """All that was collected, leaving nothing; `give` puts it behind what is there by then."""
        taken = {name: list(values) for name, values in self._lists().items()}
        for values in self._lists().values():
            values.clear()
        return taken

    def give(self, taken: dict[tuple[str, str], list[torch.Tensor]]) -> None:
        """Add what another layer's `take` gave."""
        for name, values in self._lists().items():
            values += taken[name]

    def _lists(self) -> dict[tuple[str, str], list[torch.Tensor]]:
        """Every list that grows by an entry a layer, by attribute and part."""
        found = {(name, ""): value for name, value in vars(self).items() if isinstance(value, list)}
        for name in ("relative", "cosines"):
            found |= {(name, part): values for part, values in getattr(self, name).items()}
        return found
