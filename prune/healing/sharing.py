"""One copy of the weights for student and teacher, so that distillation costs no second model's memory.

A pruned model consists of the original's own layers. Here every student tensor that equals the teacher's to the bit is
made to use the teacher's storage, so 'the teacher' is the same base with adapters off and all layers on. Nothing is
assumed about how the student was made: each tensor is compared, and what differs (a folded compensation, an earlier
healing) keeps its own storage. Exact by construction; valid only while nobody writes into the shared tensors, hence
`unshare` before adapters are merged.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import nn

from prune.model.layer_list import find_layer_list


def find_kept_layers(student: nn.Module, teacher: nn.Module) -> list[int] | None:
    """Source index of each student layer, by comparing weights; None if they do not tell.

    A layer is recognised by its largest number of tensors equal to a teacher layer's, in increasing order, so that one
    rewritten tensor (a folded compensation) does not hide it.
    """
    ours, theirs = find_layer_list(student)[1], find_layer_list(teacher)[1]
    kept: list[int] = []
    for layer in ours:
        mine = dict(layer.named_parameters())
        best = max(
            ((_equal_tensors(mine, dict(theirs[j].named_parameters())), -j) for j in _after(kept, len(theirs))),
            default=(0, 0),
        )
        if best[0] == 0:
            return None
        kept.append(-best[1])
    return kept


def _after(kept: Sequence[int], depth: int) -> range:
    return range(kept[-1] + 1 if kept else 0, depth)


def _equal_tensors(ours: dict[str, nn.Parameter], theirs: dict[str, nn.Parameter]) -> int:
    # Tensors of one value (a norm's ones) are alike in every layer and recognise nothing.
    return sum(_equal(p, theirs.get(name)) and bool((p != p.flatten()[0]).any()) for name, p in ours.items())


def _equal(ours: torch.Tensor, theirs: torch.Tensor | None) -> bool:
    if theirs is None or theirs.shape != ours.shape or theirs.dtype != ours.dtype:
        return False
    return torch.equal(ours.detach(), theirs.detach().to(ours.device))


class SharedWeights:
    """Student parameters that use the teacher's storage. Call `unshare` before anything writes into the student.

    Attributes:
        bytes: memory that exists once instead of twice.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, kept_layers: Sequence[int]) -> None:
        """Share what is equal.

        Args:
            student: the pruned model; parameters that require a gradient in full tuning must be unshared by the caller.
            teacher: the original, where it will run.
            kept_layers: source index of each student layer.
        """
        path = find_layer_list(student)[0]
        theirs = dict(teacher.named_parameters())
        place = re.compile(rf"^{re.escape(path)}\.(\d+)\.")
        self._parameters: list[nn.Parameter] = []
        self.bytes = 0
        for name, parameter in student.named_parameters():
            source = theirs.get(place.sub(lambda m: f"{path}.{kept_layers[int(m[1])]}.", name))
            if source is None or not _equal(parameter, source):
                continue
            parameter.data = source.data
            self._parameters.append(parameter)
            self.bytes += parameter.numel() * parameter.element_size()

    def unshare(self) -> None:
        """Give the student its own copies again."""
        for parameter in self._parameters:
            parameter.data = parameter.data.clone()
        self._parameters.clear()
