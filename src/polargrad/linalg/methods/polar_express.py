"""Polar Express: at every step the best polynomial for what is left to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polargrad.linalg.coefficients import schedule
from polargrad.linalg.methods.outcome import Factor, Promise, Work
from polargrad.linalg.methods.polynomial import (
    LONGEST_SUM,
    LOWER,
    Bound,
    check_bound,
    check_steps,
    gram_weights,
    iterate,
    iterate_on_host,
    products,
    promise,
)
from polargrad.linalg.minimax import check_generator, constant_polynomials
from polargrad.linalg.odd_polynomials import OddPolynomial, deviation, with_safety

# Beyond, products take so long that nothing else counts.
MOST_COLUMNS_ON_HOST = 256
# Of the published list.
CUSHION = 0.02407327424182761


@dataclass(frozen=True)
class PolarExpress:
    r"""Odd polynomials, each the best possible on the interval that its predecessors leave.

    .. math:: X_0 = A/(s\,\beta), \qquad
              X_{k+1} = X_k (a_k I + b_k G_k + c_k G_k^2 + \dots), \quad G_k = X_k^{\mathsf H}X_k

    With the degree, lower bound and cushion at their defaults the coefficients are the published
    ones, used as :math:`(a/s, b/s^3, c/s^5)` up to the last, so that rounding cannot push a value
    out of the interval: deviation from 1 over :math:`\sigma \ge 10^{-3}\beta` 0.16 after five
    steps, 0.0065 after six, rounding after eight. Otherwise they are computed, which also makes the
    steps fit to what the safety leaves. Smaller singular values are left below 1: the first
    polynomial multiplies them by 8.3, the next ones by about 4, 4, 3.3, 2.3, 1.9.

    Products of matrices are used best by degree 9, which takes four of them (degree 3 two, 5
    three): ``steps=4, degree=(5, 9, 9, 9)`` reaches 0.07 in fifteen products, 0.063 without a
    cushion, where five published quintics reach 0.16. Degrees 7 and 9 need float32: their terms
    are some hundred times their sum.

    The fastest choice at training accuracy, and where only products are fast. For singular values
    that span more than three decades and must all become 1, choose :class:`SVD` or :class:`QDWH`.

    Cost a step: 4 m n² flops for degree 3, 2 n³ more for degree 5, 4 n³ more for 7 and 9.

    Args:
        steps: how many steps, at least 1; the last published polynomial is repeated beyond eight.
        bound: β, ``"frobenius"`` as published, or ``"schatten4"``, the tighter
            :math:`\|A^{\mathsf H}A\|_F^{1/2}` at no cost.
        safety: s, at least 1. With 1 a norm that is rounded down puts values above the interval,
            where a polynomial without cushion is steep: 0.11 becomes 0.26 in float32. With 1.01
            computed cubics come to 2e-8 of 1 and no nearer.
        degree: 3, 5, 7 or 9; or a sequence of them, one a step.
        lower: in (0, 1): from which share of β on singular values become 1.
        cushion: in [0, 1): no polynomial is made for an interval with ends of a smaller ratio. The
            published 0.024 by default; 0 is best in exact arithmetic.

    Raises:
        ValueError: for an argument outside its range, or not one degree a step.

    Example:
        >>> import polargrad as pg
        >>> A = torch.diag(torch.tensor([3.0, 0.1]))
        >>> pg.polar_factor(A, method=PolarExpress(steps=8)).round(decimals=4)
        tensor([[1., 0.],
                [0., 1.]])
        >>> round(PolarExpress(steps=4, degree=(5, 9, 9, 9)).deviation, 2)
        0.07

    Source: N. Amsel, D. Persson, C. Musco, R. Gower, arXiv 2505.16932 (2025).
    """

    steps: int = 8
    bound: Bound = "frobenius"
    safety: float = 1.01
    degree: int | tuple[int, ...] = 5
    lower: float = LOWER
    cushion: float | None = None

    name: ClassVar[str] = "polar_express"
    products_only: ClassVar[bool] = True
    scale_free: ClassVar[bool] = True
    converged: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_steps(self.steps)
        check_bound(self.bound, self.safety)
        if isinstance(self.degree, Sequence):
            # A list becomes a tuple: descriptions are compared, hashed and read from saved files.
            object.__setattr__(self, "degree", tuple(self.degree))
        cushion = CUSHION if self.cushion is None else self.cushion
        check_generator(self.lower, self.steps, self.degree, cushion, self.safety)

    @property
    def published(self) -> bool:
        """Whether the coefficients are those of the published list."""
        return (self.degree, self.lower, self.cushion) == (5, LOWER, None)

    @property
    def polynomials(self) -> tuple[OddPolynomial, ...]:
        """The polynomial of each step, safety included, to be applied to σ/(s·β)."""
        if not self.published:
            # The generator has safety on the first polynomial too; here division by s·β is that.
            first, *rest = self._scaled()
            return (*with_safety([first], 1.0 / self.safety, 1), *rest)
        return schedule("polar_express", self.steps, self.safety)

    @property
    def deviation(self) -> float:
        """The largest |σ_out − 1| over all σ from lower·β to β, in exact arithmetic."""
        return deviation(self._scaled(), self.lower)

    def promise(self, rows: int, columns: int, dtype: torch.dtype) -> Promise:
        """What holds for every matrix of this shape, of its σ ≥ lower·β."""
        return promise(self._scaled(), self.lower, rows, dtype, of=self.bound)

    def _scaled(self) -> tuple[OddPolynomial, ...]:
        """The polynomials of σ/β, the division by s in the first of them."""
        if self.published:
            first, *rest = self.polynomials
            return (*with_safety([first], self.safety, 1), *rest)
        cushion = CUSHION if self.cushion is None else self.cushion
        polynomials: tuple[OddPolynomial, ...] = constant_polynomials(
            self.lower, self.steps, self.degree, cushion, self.safety
        )
        return polynomials

    def work(self, rows: int, columns: int, dtype: torch.dtype, condition: float) -> Work:
        """See :class:`Work`; the same for every condition number."""
        return Work(products=products(self.polynomials))

    def gram_weights(self, c: Tensor) -> Tensor:
        """Return W with U = A W for a stack of Gram matrices c = AᴴA in double precision."""
        return gram_weights(c, self.polynomials, bound=self.bound, safety=self.safety)

    def on_host(self, x: Tensor) -> tuple[Tensor, int] | None:
        """Return the iterate of small matrices, and a power of two, where the host may look.

        As :func:`polargrad.linalg.methods.polynomial.iterate_on_host`; None also for matrices that
        are not small, or without the Schatten norm.
        """
        # Longer sums are taken in pieces, by the general way.
        small = x.shape[-1] <= MOST_COLUMNS_ON_HOST and x.shape[-2] < LONGEST_SUM
        if self.bound != "schatten4" or not small:
            return None
        if "_polynomials" not in self.__dict__:  # they take as long as some products
            self.__dict__["_polynomials"] = self.polynomials
        return iterate_on_host(x, self.__dict__["_polynomials"], safety=self.safety)

    def __call__(self, x: Tensor) -> Factor:
        """Return the iterate of a tall stack ``x``, (m, n) or (B, m, n)."""
        factor = iterate(x, self.polynomials, bound=self.bound, safety=self.safety)
        return Factor(factor, steps=self.steps)
