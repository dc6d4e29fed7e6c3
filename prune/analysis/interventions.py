"""Runs of the later layers on altered streams, many alterations in one call, restarted from the clean run.

An alteration is a first layer and a stream before it. Each is propagated from its own first layer, so all removals of
one layer cost L·(L-1)/2 layer evaluations instead of L²; those that have started share every call of a layer, as far
as `WORK_BYTES` allows. Contributions of altered runs are read from the sub-layers, as in the clean run.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from evals.progress import stage
from prune.analysis.clean_pass import CleanPass
from prune.analysis.layer_reader import SMALLEST_NORM
from prune.model.sublayers import Contribution

WORK_BYTES = 1 << 28  # of streams, or of attention scores, in one call
CHECK = {torch.float32: (1e-3, 1e-5), torch.float64: (1e-6, 1e-12)}  # of attention's size, of the stream's
CHECK_HALF = (0.1, 2**-6)

Observer = Callable[[int, Sequence[int], torch.Tensor], None]


@dataclass(frozen=True)
class Alteration:
    """A stream [B, T, d] (made when its turn comes) that enters layer `first`; L for the end of the stack."""

    first: int
    make: Callable[[], torch.Tensor]


def removed_everywhere(clean: CleanPass) -> torch.Tensor:
    """[B, T] bool: the positions where a removal takes place under the first-token rule."""
    return clean.mask if clean.rules.first_token == "drop" else clean.mask & ~clean.first


def removals(clean: CleanPass, part: str, where: torch.Tensor | None = None) -> list[Alteration] | None:
    """For every layer, the stream after it when `part` of it is left out; None where that cannot be done exactly.

    Args:
        part: `layer`, `attn` or `mlp`.
        where: [B, T] bool, the positions where it is left out; as the first-token rule says if None.
    """
    if not removable(clean, part):
        return None
    where = removed_everywhere(clean) if where is None else where

    def after(layer: int) -> torch.Tensor:
        altered, streams = without(clean, layer, part), clean.walk.resid_pre
        if torch.equal(where, clean.mask):
            return altered
        return torch.where(where[..., None].to(altered.device), altered, streams[layer + 1].to(altered.device))

    return [Alteration(layer + 1, functools.partial(after, layer)) for layer in range(clean.num_layers)]


def removable(clean: CleanPass, part: str) -> bool:
    """Whether `part` can be left out of every layer; the reason is noted in the tracer when it cannot."""
    if part == "layer":
        return True
    assert clean.tracer is not None  # the registry says that removals of parts need one
    assert clean.reader is not None
    if len(clean.reader.attn) != clean.num_layers:
        return False
    if part == "attn" and clean.tracer.attention_removable is None:
        clean.tracer.attention_removable = all(_attention_check(clean, layer) for layer in range(clean.num_layers))
    return part != "attn" or bool(clean.tracer.attention_removable)


def without(clean: CleanPass, layer: int, part: str) -> torch.Tensor:
    """[B, T, d]: the stream after `layer` when it lacks `part` at every position.

    Without the MLP that is resid_pre + attn_out. Without attention, the MLP of a sequential block sees resid_pre, so
    the layer is run again; in a parallel block it is resid_pre + mlp_out.
    """
    pre = clean.walk.resid_pre[layer]
    if part == "layer":
        return pre
    assert clean.tracer is not None  # see removable
    assert clean.reader is not None
    if part == "mlp":
        return _plus(pre, clean.reader.attn[layer], clean.mask)
    if clean.tracer.layouts[layer].parallel:
        return _plus(pre, clean.reader.mlp[layer], clean.mask)
    with clean.tracer.attention_removed(layer):
        return clean.walk.run(pre, [layer])


def _plus(stream: torch.Tensor, added: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    total = stream.float().clone()  # [B, T, d]
    total[mask.to(stream.device)] += added.to(stream.device)
    return total.to(stream.dtype)


def _attention_check(clean: CleanPass, layer: int) -> bool:
    """Whether the layer run without attention gives resid_pre + what its MLP then adds, and nothing else."""
    assert clean.tracer is not None  # see removable
    assert clean.reader is not None
    if clean.tracer.layouts[layer].parallel:
        return True
    seen: list[Contribution] = []
    with clean.tracer.attention_removed(layer), clean.tracer.observing(seen.append, clean.mask):
        clean.walk.run(clean.walk.resid_pre[layer], [layer])
    mask, mlp = clean.mask.to(seen[0].resid_post.device), seen[0].mlp
    assert mlp is not None  # attention and MLP are told apart in this layer
    post, pre = seen[0].resid_post[mask].float(), seen[0].resid_pre[mask].float()  # [N, d], [N, d]
    of_attention, of_stream = CHECK.get(seen[0].resid_post.dtype, CHECK_HALF)
    allowed = of_attention * clean.reader.attn[layer].norm() + of_stream * post.norm()
    return bool((post - pre - mlp[mask]).norm() <= allowed)


def at_once(clean: CleanPass) -> int:
    """How many copies of the batch one call may hold."""
    stream = clean.walk.resid_pre[0]
    rows, length, width = stream.shape
    heads = getattr(clean.walk.model.config, "num_attention_heads", None) or 1
    return max(1, WORK_BYTES // (4 * rows * length * max(8 * width, length * heads)))


def propagate(
    clean: CleanPass,
    alterations: Sequence[Alteration],
    observe: Observer | None = None,
) -> list[torch.Tensor]:
    """The streams [B, T, d] after the last layer, in the alterations' order.

    Args:
        alterations: in ascending order of `first`.
        observe: called with (layer, numbers of the K alterations that have reached it, what it adds to each of them
            [K, N, d] float32) for every layer that an alteration goes through.
    """
    finals: dict[int, torch.Tensor] = {}
    size = at_once(clean)
    altered = stage("altered runs", len(alterations), "of this batch")
    with _reading(clean, observe is not None) as latest, altered as passed:
        for begin in range(0, len(alterations), size):
            group = range(begin, min(begin + size, len(alterations)))
            active: list[int] = []
            hidden: torch.Tensor | None = None
            for layer in range(alterations[begin].first, clean.num_layers + 1):
                passed.at(begin, f"layer {layer} of {clean.num_layers}")
                joining = [number for number in group if alterations[number].first == layer]
                streams = [alterations[number].make() for number in joining]
                device = clean.walk.resid_pre[layer].device
                parts = [part.to(device) for part in ([] if hidden is None else [hidden]) + streams]
                active += joining
                if not parts:
                    continue
                hidden = parts[0] if len(parts) == 1 else torch.cat(parts)  # [K·B, T, d]
                if layer < clean.num_layers:
                    hidden = clean.walk.run(hidden, [layer])
                    if observe is not None:
                        observe(layer, active, added_tokens(clean, latest[-1]))
                        latest.clear()
            if hidden is not None:
                finals.update(zip(active, hidden.unflatten(0, (len(active), -1)), strict=True))
    return [finals[number] for number in range(len(alterations))]


@contextlib.contextmanager
def _reading(clean: CleanPass, wanted: bool) -> Iterator[list[Contribution]]:
    """What layers add while they run, the latest call last."""
    latest: list[Contribution] = []
    if not wanted:
        yield latest
        return
    assert clean.tracer is not None  # the registry says that measures of contributions need one
    with clean.tracer.observing(latest.append, clean.mask):
        yield latest


def added_tokens(clean: CleanPass, seen: Contribution) -> torch.Tensor:
    """[K, N, d] float32: what a layer adds at the real tokens of K copies of the batch."""
    if seen.attn is None or seen.mlp is None:
        added = seen.resid_post.float() - seen.resid_pre.float()  # [K·B, T, d]
    else:
        added = seen.attn + seen.mlp  # [K·B, T, d]
    copies = added.unflatten(0, (-1, clean.mask.shape[0]))  # [K, B, T, d]
    return copies.flatten(1, 2)[:, clean.mask.flatten().to(added.device)]


def relative_effect(clean: CleanPass, layer: int, added: torch.Tensor) -> torch.Tensor:
    """‖c[l] - c'[l]‖ / ‖c[l]‖ of K altered runs: what the layer then adds [K, N, d] -> [K, N]."""
    assert clean.reader is not None  # the registry says that measures of contributions need one
    original = clean.reader.added[layer].to(added.device)  # [N, d]
    size = torch.linalg.vector_norm(original, dim=-1).clamp(min=SMALLEST_NORM)  # [N]
    return torch.linalg.vector_norm(added - original, dim=-1) / size
