"""Preconditioned Newton–Schulz: one cubic to lift small singular values, the classic to settle."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polargrad.linalg.coefficients import CLASSIC_CUBIC
from polargrad.linalg.methods.outcome import Factor, Promise, Work
from polargrad.linalg.methods.polynomial import (
    LOWER,
    Bound,
    check_bound,
    iterate,
    products,
    promise,
)
from polargrad.linalg.odd_polynomials import OddPolynomial, compose

# Where the second stage takes over, and by how much the slope stays below 3√3/2, at which a
# singular value of 1 would become 0. Lewis et al. (2022); the published PolarGrad code.
SWITCH = 0.1


@dataclass(frozen=True)
class PreconditionedNewtonSchulz:
    r"""A steep cubic until every singular value is above 0.1, then the classic cubic.

    .. math:: X_0 = A/\beta, \qquad
              X \leftarrow aX - \tfrac{4}{27}a^3 X X^{\mathsf H}X, \;\; a = \tfrac32\sqrt3 - 0.1,
              \qquad\text{then}\quad
              X \leftarrow \tfrac32 X - \tfrac12 X X^{\mathsf H}X

    The first cubic has its largest value, 1, at :math:`\sigma = 3/(2a)`: it multiplies a small
    singular value by 2.5, where the classic one does by 1.5, and leaves all of them in (0, 1]. How
    many steps of each kind are needed follows from the lower bound alone, by the same cubics of one
    number, before anything is computed: fourteen in float32 from :math:`10^{-3}`.

    Use it where only products are fast and the factor must be exact to rounding, with the fewest
    assumptions: values never leave (0, 1]. :class:`PolarExpress` needs fewer products: with
    ``degree=3``, which fits every cubic to what is left, eleven steps.

    Cost a step: 4 m n² flops.

    Args:
        lower: in (0, 1): from which share of β on singular values become 1. The published code has
            eps of bfloat16, 2⁻⁷.
        tol: in (0, 1): how far from 1 they may be; None for eps of the dtype.
        bound: β, ``"frobenius"`` as published, or ``"schatten4"``, the tighter
            :math:`\|A^{\mathsf H}A\|_F^{1/2}`.

    Raises:
        ValueError: for a lower bound or tolerance outside (0, 1), or an unknown bound.

    Example:
        >>> import polargrad as pg
        >>> A = torch.diag(torch.tensor([3.0, 0.1]))
        >>> PreconditionedNewtonSchulz()(A).U.round(decimals=4)
        tensor([[1., 0.],
                [0., 1.]])

    Source: A. D. Lewis et al., "Large-scale distributed linear algebra with tensor processing
    units", PNAS 119 (2022); the published PolarGrad code.
    """

    lower: float = LOWER
    tol: float | None = None
    bound: Bound = "frobenius"

    name: ClassVar[str] = "preconditioned_newton_schulz"
    products_only: ClassVar[bool] = True
    scale_free: ClassVar[bool] = True
    converged: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0.0 < self.lower < 1.0:
            raise ValueError(f"lower must lie in (0, 1), got {self.lower}")
        if self.tol is not None and not 0.0 < self.tol < 1.0:
            raise ValueError(f"tol must be None or in (0, 1), got {self.tol}")
        check_bound(self.bound)

    def polynomials(self, dtype: torch.dtype) -> tuple[OddPolynomial, ...]:
        """The polynomial of each step in this dtype, to be applied to σ/β."""
        return _stages(self.lower, torch.finfo(dtype).eps if self.tol is None else self.tol)

    def promise(self, rows: int, columns: int, dtype: torch.dtype) -> Promise:
        """What holds for every matrix of this shape, of its σ ≥ lower·β."""
        return promise(self.polynomials(dtype), self.lower, rows, dtype, of=self.bound)

    def work(self, rows: int, columns: int, dtype: torch.dtype, condition: float) -> Work:
        """See :class:`Work`; the same for every condition number."""
        return Work(products=products(self.polynomials(dtype)))

    def __call__(self, x: Tensor) -> Factor:
        """Return the iterate of a tall stack ``x``, (m, n) or (B, m, n)."""
        polynomials = self.polynomials(x.dtype)
        return Factor(iterate(x, polynomials, bound=self.bound), steps=len(polynomials))


@functools.lru_cache(maxsize=256)
def _stages(lower: float, tol: float) -> tuple[OddPolynomial, ...]:
    """The cubics from ``lower`` to within ``tol`` of 1.

    Each multiplies a lower bound by 1.2 at least until it is near 1, where the distance to 1 is
    squared: the loops end.
    """
    a = 1.5 * math.sqrt(3.0) - SWITCH
    steep = (a, -4.0 / 27.0 * a**3)
    polynomials: list[OddPolynomial] = []
    while lower < SWITCH:
        polynomials.append(steep)
        # Values near 1 fall to a(1 − 4a²/27) = 0.19.
        lower = min(compose([steep], lower), compose([steep], 1.0))
    tol = max(tol, torch.finfo(torch.float64).eps)
    while 1.0 - lower > tol:
        polynomials.append(CLASSIC_CUBIC[:2])
        lower = compose([CLASSIC_CUBIC], lower)
    return tuple(polynomials)
