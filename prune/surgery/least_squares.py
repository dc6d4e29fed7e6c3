"""Ridge regression of a stream on what an MLP adds, from moments alone: memory does not grow with the tokens.

Per token: a [d] what the layer's MLP adds, r [d] what it should add for the stream to be the target. The map (T, c)
minimises

    sum_i w_i ||r_i - T a_i - c||²  +  ridge · (tr(A) / d) · ||T - I||²,     A = sum_i w_i a_i a_iᵀ,

so that a large ridge leaves the layer as it is; c is zero where there is no bias to hold it. Closed form, float64:
T = (R + m I)(A + m I)⁻¹ with R = sum_i w_i r_i a_iᵀ and m = ridge · tr(A) / d, on centred moments where there is a c.
Restricted forms: a diagonal T, or one number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

Form = Literal["linear", "diagonal", "scale"]
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)


@dataclass
class Moments:
    """Weighted sums over tokens, float64.

    Attributes:
        weight: sum of w.
        a, r: [d] sums of w a and w r.
        aa, ra: [d, d] sums of w a aᵀ and w r aᵀ.
        rr: sum of w ||r||².
    """

    weight: float
    a: torch.Tensor
    r: torch.Tensor
    aa: torch.Tensor
    ra: torch.Tensor
    rr: float

    @classmethod
    def of(cls, a: torch.Tensor, r: torch.Tensor, weight: torch.Tensor) -> Moments:
        """From tokens: a and r [N, d], weight [N]."""
        a, r, weight = a.double(), r.double(), weight.double()
        heavy = a * weight[:, None]  # [N, d]
        return cls(
            float(weight.sum()),
            heavy.sum(0),
            (r * weight[:, None]).sum(0),
            heavy.T @ a,
            r.T @ heavy,
            float((r.square().sum(1) * weight).sum()),
        )

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.weight + other.weight,
            self.a + other.a,
            self.r + other.r,
            self.aa + other.aa,
            self.ra + other.ra,
            self.rr + other.rr,
        )


@dataclass(frozen=True)
class Map:
    """a -> matrix a + shift; `matrix` is [d, d], or [d] for a diagonal."""

    matrix: torch.Tensor
    shift: torch.Tensor | None

    @property
    def full(self) -> torch.Tensor:
        """[d, d]."""
        return self.matrix if self.matrix.dim() == 2 else torch.diag(self.matrix)


def identity(width: int, device: torch.device) -> Map:
    """What leaves the layer as it is."""
    return Map(torch.ones(width, dtype=torch.float64, device=device), None)


def solve(moments: Moments, ridge: float, form: Form, bias: bool) -> Map:
    """The minimiser of the module docstring.

    Args:
        ridge: relative to the mean eigenvalue of A.
        form: of T.
        bias: fit c.
    """
    aa, ra = moments.aa, moments.ra
    if bias:
        aa = aa - torch.outer(moments.a, moments.a) / moments.weight
        ra = ra - torch.outer(moments.r, moments.a) / moments.weight
    width = len(aa)
    m = ridge * float(aa.trace()) / width
    if form == "linear":
        eye = torch.eye(width, dtype=aa.dtype, device=aa.device)
        matrix = torch.linalg.solve(aa + m * eye, (ra + m * eye).T).T
    elif form == "diagonal":
        matrix = (ra.diagonal() + m) / (aa.diagonal() + m)
    else:
        number = (float(ra.trace()) + m * width) / (float(aa.trace()) + m * width)
        matrix = torch.full((width,), number, dtype=aa.dtype, device=aa.device)
    if not bias:
        return Map(matrix, None)
    mean = matrix @ moments.a if matrix.dim() == 2 else matrix * moments.a
    return Map(matrix, (moments.r - mean) / moments.weight)


def squared_error(moments: Moments, fitted: Map) -> float:
    """sum_i w_i ||r_i - T a_i - c||², from moments."""
    t = fitted.full
    error = moments.rr - 2 * float((t * moments.ra).sum()) + float(((t @ moments.aa) * t).sum())
    if fitted.shift is not None:
        c = fitted.shift
        error += moments.weight * float(c @ c) - 2 * float(c @ moments.r) + 2 * float(c @ (t @ moments.a))
    return error


def cross_validated(folds: Sequence[Moments], form: Form, bias: bool) -> tuple[float, Map]:
    """The ridge with the least error on left-out folds, and the map fitted with it on all of them."""
    total = sum(folds[1:], folds[0])

    def left_out(ridge: float) -> float:
        errors = 0.0
        for number, fold in enumerate(folds):
            rest = [other for index, other in enumerate(folds) if index != number]
            errors += squared_error(fold, solve(sum(rest[1:], rest[0]), ridge, form, bias))
        return errors

    ridge = min(RIDGES, key=left_out)
    return ridge, solve(total, ridge, form, bias)
