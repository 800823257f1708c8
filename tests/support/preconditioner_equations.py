"""Explicit preconditioners, and their equations in float64 for one matrix."""

import torch
from matrices import eps

from polargrad.geometry import Diagonal, GivenHessian, Kronecker, OneSidedKronecker

EMA = 0.9


def gauss(shape, seed, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradients(shape, count=6, dtype=torch.float64):
    return [gauss(shape, seed, dtype) for seed in range(count)]


def accumulated(geometry, sequence):
    state = geometry.start(sequence[0])
    for g in sequence:
        state = geometry.accumulate(state, g)
    return state


def power(a, exponent, damping=0.0):
    """(A + damping λ₁ I)^exponent on the range of A, by the eigenvalues of one matrix."""
    w, v = torch.linalg.eigh(a)
    w = torch.where(w > len(a) ** 0.5 * eps(a.dtype) * w[-1], w, 0.0) + damping * w[-1]
    return (v * torch.where(w > 0, w, 1.0) ** exponent * (w > 0)) @ v.mT


def adam(s, sequence, beta2=0.999, epsilon=1e-8, correct=True):
    """The equations of Adam, algorithm 1, for the second moment."""
    v = torch.zeros_like(s)
    for g in sequence:
        v = beta2 * v + (1 - beta2) * g * g
    if correct:
        v = v / (1 - beta2 ** len(sequence))
    return s / (v.sqrt() + epsilon)


def factors(sequence, beta):
    """L and R: sums for beta None, else averages from zero."""
    left, right = (torch.zeros(n, n, dtype=torch.float64) for n in sequence[0].shape)
    for g in sequence:
        keep, take = (1.0, 1.0) if beta is None else (beta, 1 - beta)
        left, right = keep * left + take * g @ g.mT, keep * right + take * g.mT @ g
    return left, right


def shampoo(s, sequence, beta=None, damping=1e-6):
    left, right = factors(sequence, beta)
    return power(left, -0.25, damping) @ s @ power(right, -0.25, damping)


def one_sided(s, sequence, side="left", beta=None, damping=1e-6):
    left, right = factors(sequence, beta)
    if side == "left":
        return power(left, -0.5, damping) @ s
    return s @ power(right, -0.5, damping)


def newton(s, sequence):
    a, b = hessian_factors(*s.shape)
    return torch.linalg.solve(a, s) @ torch.linalg.inv(b)


def hessian_factors(m, n):
    c, d = gauss((m + 3, m), 7), gauss((n + 3, n), 8)
    return c.T @ c, d.T @ d


# A geometry for m × n matrices, and P⁻¹S of one matrix as the equations have it.
CASES = {
    "diagonal": (lambda m, n: Diagonal(), adam),
    "diagonal plain": (
        lambda m, n: Diagonal(beta2=0.9, eps=0.0, bias_correction=False),
        lambda s, seq: adam(s, seq, 0.9, 0.0, correct=False),
    ),
    "diagonal signs": (
        lambda m, n: Diagonal(beta2=0.0, eps=0.0),
        lambda s, seq: s / seq[-1].abs(),
    ),
    "kronecker": (lambda m, n: Kronecker(), shampoo),
    "kronecker ema": (
        lambda m, n: Kronecker(beta=EMA, damping=0.1),
        lambda s, seq: shampoo(s, seq, EMA, 0.1),
    ),
    "left": (lambda m, n: OneSidedKronecker(), one_sided),
    "right ema": (
        lambda m, n: OneSidedKronecker("right", beta=EMA, damping=0.1),
        lambda s, seq: one_sided(s, seq, "right", EMA, 0.1),
    ),
    "newton": (lambda m, n: GivenHessian(*hessian_factors(m, n)), newton),
}
