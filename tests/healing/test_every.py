"""Asked at every k-th token only, the original teaches the same in the mean, whatever shares a batch or a process."""

from __future__ import annotations

import pytest
import torch

from prune.healing.data import Collator
from prune.healing.heal import heal
from prune.healing.losses import token_losses
from prune.healing.methods import attach, trained_parameters
from prune.healing.objective import batch_losses

from . import tiny
from .test_losses import N, V, draw, naive_distillation, naive_next_token

EVERY = 3


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("taught", [0, 1, 5, N])
def test_the_first_positions_alone_are_distilled_and_all_are_predicted(taught, temperature, monkeypatch):
    monkeypatch.setattr("prune.healing.losses.CHUNK", 4 * V)  # chunks of four positions, which the border crosses
    student, teacher, targets = draw(0, N, V), draw(1, taught, V), torch.arange(N)
    ours, reference = student.clone().requires_grad_(), student.double().requires_grad_()
    losses = token_losses(
        ours, targets, teacher, next_token_weight=0.5, distill_weight=2.0, temperature=temperature
    )  # fmt: skip
    distill = naive_distillation(reference[:taught], teacher.double(), temperature)
    expected = 0.5 * naive_next_token(reference, targets) + 2 * distill
    losses.total.backward()
    expected.backward()
    torch.testing.assert_close(losses.total.double(), expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses.distill.double(), distill.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.grad.double(), reference.grad, rtol=1e-4, atol=1e-6)


def rows(count: int, packing: bool = False):
    documents = list(tiny.domain(count=count).documents)
    return Collator(0, packing=packing)([documents[:2], documents[2:]] if packing else [[d] for d in documents])


def losses(inputs, turn=0, **changes):
    """The sums of one batch and the gradients of the trained weights."""
    original = tiny.teacher()
    settings = tiny.settings(next_token_weight=0.5, **changes)
    model = attach(tiny.student(original), settings).eval()
    found = batch_losses(model, inputs, settings, head=model.get_output_embeddings(), teacher=original, turn=turn)
    found.total.backward()
    return found, {name: p.grad for name, p in trained_parameters(model).items()}


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("changes", [{}, {"distill_weight": 0.0, "residual_weight": 0.0, "entropy_weight": 1.0}])
def test_the_mean_over_the_turns_is_the_loss_of_asking_everywhere(changes, packing):
    inputs = rows(4, packing)
    whole, gradients = losses(inputs, **changes)
    turns = [losses(inputs, turn, distill_every=EVERY, **changes) for turn in range(EVERY)]
    for found, _ in turns:
        torch.testing.assert_close(found.parts["next_token"], whole.parts["next_token"])
    assert len({round(found.total.item(), 3) for found, _ in turns}) == EVERY
    if not changes:  # weights by entropy are relative to the mean of those that were asked
        total = torch.stack([found.total for found, _ in turns]).mean()
        torch.testing.assert_close(total, whole.total, rtol=1e-5, atol=1e-6)
        for name, gradient in gradients.items():
            mean = torch.stack([own[name] for _, own in turns]).mean(0)
            torch.testing.assert_close(mean, gradient, rtol=1e-4, atol=1e-6)


def test_a_row_is_asked_at_the_same_tokens_in_every_company():
    inputs = rows(6)
    together = losses(inputs, 1, distill_every=EVERY)[0].parts["distill"]
    alone = [
        losses({name: tensor[row : row + 1] for name, tensor in inputs.items()}, 1, distill_every=EVERY)[0]
        for row in range(6)
    ]
    torch.testing.assert_close(together, torch.stack([found.parts["distill"] for found in alone]).sum())


def test_the_original_head_runs_on_those_tokens_alone():
    original, settings = tiny.teacher(), tiny.settings(distill_every=EVERY)
    model, inputs = attach(tiny.student(original), settings), rows(4)
    seen: list[int] = []
    original.lm_head.register_forward_hook(lambda *call: seen.append(call[2].shape[1]))
    for turn in range(EVERY):
        batch_losses(model, inputs, settings, head=model.get_output_embeddings(), teacher=original, turn=turn)
    counted = int((inputs["labels"][:, 1:] != -100).sum())
    assert sum(seen) == counted
    assert max(seen) <= counted / EVERY + 4  # a row's share is not always a whole number


def test_healing_takes_another_turn_each_step(tmp_path, monkeypatch):
    turns: list[int] = []

    def watched(*arguments, turn=0, **options):
        turns.append(turn)
        return batch_losses(*arguments, turn=turn, **options)

    monkeypatch.setattr("prune.healing.trainer.batch_losses", watched)
    settings = tiny.settings(distill_every=EVERY, max_steps=4, gradient_accumulation_steps=2)
    original = tiny.teacher()
    heal(tiny.student(original), original, {"general": tiny.domain()}, settings, output_dir=tmp_path)
    assert turns == [0, 0, 1, 1, 2, 2, 3, 3]
