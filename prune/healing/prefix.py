"""The layers below the first gap, run once for teacher and student.

A pruned model begins with the original's own first layers. Where nothing in them is trained, both models carry the
same stream up to there, so the student takes over what the teacher's layers returned instead of computing it again.
Assumed of a layer: what it hands on is what it returns. `find_prefix` tries this out on the very models and shares
nothing where the student's logits are not the same to the bit. Dropout in shared layers does not act, because the
teacher runs them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from prune.model.layer_list import find_layer_list
from prune.model.silence import first_silent


class SharedPrefix:
    """The first layers of both models.

    Attributes:
        depth: how many layers are shared.
    """

    def __init__(self, student_layers: Sequence[nn.Module], teacher_layers: Sequence[nn.Module]) -> None:
        """Pair the layers; both sequences have the same length."""
        self.depth = len(student_layers)
        self._ours, self._theirs = list(student_layers), list(teacher_layers)
        self._outputs: list[Any] = []

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """While the teacher runs, without inference mode: keep what each shared layer returns."""
        self._outputs.clear()
        with contextlib.ExitStack() as stack:
            for layer in self._theirs:
                stack.callback(layer.register_forward_hook(self._keep).remove)
            yield

    def _keep(self, _: nn.Module, __: Any, output: Any) -> None:
        self._outputs.append(output)

    @contextlib.contextmanager
    def replaying(self) -> Iterator[None]:
        """While the student runs on the same inputs: each shared layer returns what was kept, and does nothing."""
        try:
            for layer, output in zip(self._ours, self._outputs, strict=True):
                layer.forward = lambda *_, output=output, **__: output
            yield
        finally:
            for layer in self._ours:
                vars(layer).pop("forward", None)
            self._outputs.clear()


def find_prefix(student: nn.Module, teacher: nn.Module, kept_layers: Sequence[int]) -> SharedPrefix | None:
    """The layers that can be shared; None where there are none.

    Args:
        student: with its adapters, sharing equal tensors with the teacher (`sharing.SharedWeights`).
        teacher: the original, on the same device.
        kept_layers: source index of each student layer.
    """
    ours, theirs = find_layer_list(student)[1], find_layer_list(teacher)[1]
    same = {p.data_ptr() for p in teacher.parameters()}
    inside = {id(p) for p in ours.parameters()}
    after = {id(p) for p in student.get_output_embeddings().parameters()}  # type: ignore[operator]
    before = [p for p in student.parameters() if id(p) not in inside | after]
    before += list(student.get_input_embeddings().parameters())  # type: ignore[operator]  # may be the head's own
    if not _frozen(before, same):
        return None
    depth, most = 0, first_silent(ours)
    while depth < most and kept_layers[depth] == depth and _frozen(ours[depth].parameters(), same):
        depth += 1
    prefix = SharedPrefix(ours[:depth], theirs[:depth])
    return prefix if depth and _exact(prefix, student, teacher) else None


def _frozen(parameters: Iterable[nn.Parameter], same: set[int]) -> bool:
    return all(p.data_ptr() in same and not p.requires_grad for p in parameters)


@torch.no_grad()
def _exact(prefix: SharedPrefix, student: nn.Module, teacher: nn.Module) -> bool:
    """Whether two rows of tokens give the same logits to the bit with and without sharing."""
    device = next(student.parameters()).device
    vocabulary = student.get_input_embeddings().num_embeddings  # type: ignore[operator]
    ids = torch.randint(vocabulary, (2, 9), generator=torch.Generator().manual_seed(0)).to(device)  # [2, 9]
    was_training = student.training
    student.eval()
    try:
        plain = student(input_ids=ids, use_cache=False).logits  # [2, 9, V]
        with prefix.recording():
            teacher(input_ids=ids, use_cache=False)
        with prefix.replaying():
            shared = student(input_ids=ids, use_cache=False).logits  # [2, 9, V]
    finally:
        student.train(was_training)
    return torch.equal(plain, shared)
