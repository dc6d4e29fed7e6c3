"""Each loss equals a naive float64 reading, and so does its hand-written gradient; each term trains."""

from __future__ import annotations

import pytest
import torch

from prune.healing.losses import token_losses
from prune.healing.objectives.entropy import entropy_weights
from prune.healing.objectives.residual import residual_loss

N, V = 13, 29


def draw(seed: int, *shape: int) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def naive_next_token(logits, targets):
    return -sum(torch.log(torch.exp(row)[t] / torch.exp(row).sum()) for row, t in zip(logits, targets, strict=True))


def naive_distillation(student, teacher, temperature):
    total = torch.zeros((), dtype=torch.float64)
    for s, t in zip(student, teacher, strict=True):
        p, q = torch.exp(t / temperature), torch.exp(s / temperature)
        p, q = p / p.sum(), q / q.sum()
        total = total + temperature**2 * (p * torch.log(p / q)).sum()
    return total


def distillation_loss(student, teacher, temperature=1.0):
    targets = torch.zeros(len(student), dtype=torch.long)
    return token_losses(
        student, targets, teacher, next_token_weight=0.0, distill_weight=1.0, temperature=temperature
    ).total


def both(function, naive, student):
    """Values and gradients with respect to the student, ours in float32 and the naive one in float64."""
    ours, reference = student.clone().requires_grad_(), student.double().requires_grad_()
    value, expected = function(ours), naive(reference)
    value.backward()
    expected.backward()
    return value, expected, ours.grad, reference.grad


def test_next_token_loss_and_gradient_equal_the_formula():
    student, targets = draw(0, N, V), torch.arange(N)
    value, expected, grad, wanted = both(
        lambda x: token_losses(x, targets).total, lambda x: naive_next_token(x, targets), student
    )
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad.double(), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_distillation_loss_and_gradient_equal_the_formula(temperature):
    student, teacher = draw(1, N, V), draw(2, N, V)
    value, expected, grad, wanted = both(
        lambda x: distillation_loss(x, teacher, temperature),
        lambda x: naive_distillation(x, teacher.double(), temperature),
        student,
    )
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad.double(), wanted, rtol=1e-4, atol=1e-6)


def test_the_weights_of_a_mixed_loss_are_honoured():
    student, teacher, targets = draw(3, N, V), draw(4, N, V), torch.arange(N)
    mixed = token_losses(student, targets, teacher, next_token_weight=0.25, distill_weight=2.0, temperature=2.0)
    torch.testing.assert_close(
        mixed.total.double(),
        0.25 * naive_next_token(student.double(), targets)
        + 2.0 * naive_distillation(student.double(), teacher.double(), 2.0),
        rtol=1e-5,
        atol=1e-5,
    )


def test_residual_loss_is_the_relative_squared_distance():
    student, teacher = draw(5, N, 8), draw(6, N, 8)
    expected = sum((s - t).square().sum() / t.square().sum() for s, t in zip(student, teacher, strict=True))
    torch.testing.assert_close(residual_loss(student, teacher), expected)


def test_a_teacher_that_is_the_student_costs_nothing_and_pulls_nowhere():
    student = draw(7, N, V).requires_grad_()
    loss = distillation_loss(student, student.detach())
    loss.backward()
    assert loss.abs().item() < 1e-4
    assert student.grad.abs().max().item() < 1e-6


@pytest.mark.parametrize("term", ["next_token", "distill", "residual"])
def test_every_term_has_a_gradient_and_one_step_lowers_it(term):
    teacher, targets = draw(8, N, V), torch.arange(N)
    losses = {
        "next_token": lambda x: token_losses(x, targets).total,
        "distill": lambda x: distillation_loss(x, teacher),
        "residual": lambda x: residual_loss(x, teacher),
    }
    student = draw(9, N, V).requires_grad_()
    before = losses[term](student)
    before.backward()
    assert student.grad.abs().max().item() > 1e-3
    with torch.no_grad():
        assert losses[term](student - 0.05 * student.grad) < before


def entropy_loss(student, teacher):
    targets = torch.zeros(len(student), dtype=torch.long)
    weights = entropy_weights(teacher)
    return token_losses(
        student, targets, teacher, next_token_weight=0.0, distill_weight=1.0, position_weights=weights
    ).total


def naive_entropy_loss(student, teacher):
    entropies, divergences = [], []
    for s, t in zip(student, teacher, strict=True):
        p, q = torch.exp(t) / torch.exp(t).sum(), torch.exp(s) / torch.exp(s).sum()
        entropies.append(-(p * torch.log(p)).sum())
        divergences.append((p * torch.log(p / q)).sum())
    mean = sum(entropies) / len(entropies)
    return sum(entropy / mean * divergence for entropy, divergence in zip(entropies, divergences, strict=True))


def test_entropy_weighted_distillation_and_gradient_equal_the_formula(monkeypatch):
    monkeypatch.setattr("prune.healing.losses.CHUNK", 4 * V)  # several chunks
    student, teacher = draw(5, N, V), draw(6, N, V)
    value, expected, grad, wanted = both(
        lambda x: entropy_loss(x, teacher), lambda x: naive_entropy_loss(x, teacher.double()), student
    )
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(grad.double(), wanted, rtol=1e-4, atol=1e-6)
    assert abs(value - distillation_loss(student, teacher)) > 1e-2


def test_positions_of_equal_entropy_count_the_same_and_a_certain_teacher_harms_nothing():
    one = draw(7, 1, V)
    teacher = torch.cat([one[:, torch.randperm(V, generator=torch.Generator().manual_seed(i))] for i in range(N)])
    torch.testing.assert_close(entropy_weights(teacher), torch.ones(N))
    certain = torch.full((N, V), -1e4).index_fill(1, torch.tensor([3]), 1e4)
    assert torch.equal(entropy_weights(certain), torch.ones(N))
    assert torch.isfinite(entropy_loss(draw(8, N, V), certain))
