"""A bucketed teacher: the naive formula in float64, its gradient, and the full divergence where nothing is left out."""

from __future__ import annotations

import pytest
import torch

from prune.healing.buckets import FLOOR, Buckets, bucketed
from prune.healing.losses import token_losses
from prune.healing.objectives.entropy import entropy_weights

N, V = 13, 29


def draw(seed, scale=3.0):
    return scale * torch.randn(N, V, generator=torch.Generator().manual_seed(seed))


def naive(student, teacher, k):
    """Sum of ln ratios over the k likeliest tokens, and one over the rest."""
    p, q = student.softmax(-1), teacher.double().softmax(-1)
    total = torch.zeros((), dtype=torch.float64)
    for row in range(N):
        top = q[row].argsort(descending=True)[:k]
        others = [i for i in range(V) if i not in top.tolist()]
        total = total + (q[row][top] * (q[row][top] / p[row][top]).log()).sum()
        rest, student_rest = q[row][others].sum(), p[row][others].sum()
        total = total + rest * (rest / student_rest).log()
    return total


def divergence(student, teacher):
    targets = torch.zeros(N, dtype=torch.long)
    return token_losses(student, targets, teacher, next_token_weight=0.0, distill_weight=1.0).total


@pytest.mark.parametrize("k", [1, 4, V - 1])
def test_the_divergence_and_its_gradient_equal_the_formula(k):
    teacher = draw(1)
    ours, reference = draw(0).requires_grad_(), draw(0).double().requires_grad_()
    value, expected = divergence(ours, bucketed(teacher, k)), naive(reference, teacher, k)
    value.backward()
    expected.backward()
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.grad.double(), reference.grad, rtol=1e-4, atol=1e-6)


def test_it_grows_with_k_to_the_full_divergence():
    student, teacher = draw(0), draw(1)
    values = [divergence(student, bucketed(teacher, k)).item() for k in (1, 4, 16, 0)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(divergence(student, teacher).item(), rel=1e-6)
    assert bucketed(teacher, V).tokens is None


def test_certain_distributions_give_numbers():
    teacher = torch.full((N, V), -1e4)
    teacher[:, 3] = 1e4
    student = draw(0).requires_grad_()
    value = divergence(student, bucketed(teacher, 2))
    value.backward()
    assert value.item() == pytest.approx(-draw(0).double().log_softmax(-1)[:, 3].sum().item(), rel=1e-5)
    assert bool(student.grad.isfinite().all())
    assert bucketed(teacher, 2).log_rest.min() == FLOOR


def test_entropy_weights_are_those_of_the_whole_distribution():
    teacher = draw(2)
    torch.testing.assert_close(entropy_weights(bucketed(teacher, 3)), entropy_weights(teacher))


def test_positions_come_apart_and_together():
    whole = bucketed(draw(3), 5)
    again = Buckets.joined(whole.apart([2, 7, 4]))
    assert all(torch.equal(value, getattr(again, name)) for name, value in vars(whole).items())
    assert Buckets.taken(whole.beside()) == whole
    assert Buckets.taken({}) is None
