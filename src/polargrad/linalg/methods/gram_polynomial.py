"""The polynomial methods on the Gram side: two large products, the rest of the small size."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polargrad.linalg.coefficients import Coefficients, check_coefficients, schedule
from polargrad.linalg.methods.outcome import Factor, Promise, Work
from polargrad.linalg.methods.polynomial import (
    LOWER,
    Bound,
    check_bound,
    check_steps,
    gram_weights,
    multiplier,
    normalise,
    products,
    promise,
    rounding,
)
from polargrad.linalg.odd_polynomials import OddPolynomial, output_interval, with_safety
from polargrad.linalg.products import gram as symmetric_gram
from polargrad.linalg.products import times


@dataclass(frozen=True)
class GramPolynomial:
    r"""Odd polynomials of A, formed as a polynomial of its Gram matrix and applied at the end.

    .. math:: R = X^{\mathsf H}X,\; Q = I; \qquad Z_k = b_k R + c_k R^2 + \dots,\quad
              Q \leftarrow Q(a_k I + Z_k),\quad R \leftarrow (a_k I + Z_k)R(a_k I + Z_k); \qquad
              X \leftarrow XQ

    In exact arithmetic the result of :class:`NewtonSchulz` or :class:`PolarExpress` with the same
    coefficients. Only R and the last product touch the m × n matrix, so it pays where m is several
    times n; a square matrix costs more than by the ordinary form.

    R has the squares of the singular values: an error of its rounding grows by the square of the
    slopes until X is formed anew, at a *restart*, and relative to a singular value σ it is up to
    :math:`\mathrm{eps}/\sigma^2`. Measured in float32 for 100 columns from
    :math:`\sigma = 10^{-3}\beta`, against the same polynomials in float64: eight steps without a
    restart are off by up to 0.03 (values [0.972, 1.027] where the ordinary form has 1.0000), with
    the default restart after two by 1e-4, with ``(2, 4)`` by 4e-5, as much as the ordinary form.
    Zero singular values make a segment of much slope blow up; what promises nothing
    (:meth:`promise`) is not to be used.

    Cost for quintics: 4 m n² flops for each part between restarts, and 8 n³ a step, less 6 n³ for
    each part; a step of degree 3 costs 2 n³ less, of degree 7 or 9 2 n³ more.

    Args:
        coefficients: as :class:`NewtonSchulz` has them.
        steps: how many steps, at least 1; None for the coefficients' own number.
        restarts: after which steps X is formed anew, increasing.
        bound: β, ``"frobenius"``, or ``"schatten4"``, :math:`\|A^{\mathsf H}A\|_F^{1/2}`.
        safety: s, at least 1: X starts as A/(s·β), and all polynomials but the last of the
            coefficients' own are p(x/s), as in :class:`PolarExpress`.

    Raises:
        ValueError: for coefficients or steps that :class:`NewtonSchulz` refuses, restarts that are
            not increasing steps before the last, an unknown bound or a safety below 1.

    Example:
        >>> A = torch.tensor([[3.0, 0.0], [0.0, 0.1], [0.0, 0.0]])
        >>> GramPolynomial(restarts=(2, 4))(A).U.round(decimals=4)
        tensor([[1., 0.],
                [0., 1.],
                [0., 0.]])

    Source: Dao-AILab, gram-newton-schulz (2025).
    """

    coefficients: Coefficients = "polar_express"
    steps: int | None = None
    restarts: tuple[int, ...] = (2,)
    bound: Bound = "frobenius"
    safety: float = 1.01

    name: ClassVar[str] = "gram_polynomial"
    products_only: ClassVar[bool] = True
    scale_free: ClassVar[bool] = True
    converged: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.steps is not None:
            check_steps(self.steps)
        check_bound(self.bound, self.safety)
        object.__setattr__(self, "coefficients", check_coefficients(self.coefficients))
        # A list becomes a tuple: descriptions are compared, hashed and read from saved files.
        object.__setattr__(self, "restarts", tuple(self.restarts))
        inner = range(1, len(self.polynomials))
        if list(self.restarts) != sorted(set(self.restarts) & set(inner)):
            raise ValueError(
                f"restarts must be increasing steps from 1 to {len(inner)}, got {self.restarts}"
            )

    @property
    def polynomials(self) -> tuple[OddPolynomial, ...]:
        """The polynomial of each step, safety included, to be applied to σ/(s·β)."""
        return schedule(self.coefficients, self.steps, self.safety)

    @property
    def segments(self) -> tuple[tuple[OddPolynomial, ...], ...]:
        """The polynomials between one forming of X and the next."""
        polynomials = self.polynomials
        cuts = (0, *self.restarts, len(polynomials))
        return tuple(polynomials[i:j] for i, j in itertools.pairwise(cuts))

    def promise(self, rows: int, columns: int, dtype: torch.dtype) -> Promise:
        """What holds for every matrix of this shape, of its σ ≥ 1e-3 β.

        That of the ordinary form, and each segment's error of R relative to its smallest singular
        values, a few times; nothing, where that could make an eigenvalue of R clearly negative.
        """
        segments = self.segments
        (first, *rest), *others = segments
        scaled = tuple(with_safety([first], self.safety, 1))
        segments = ((*scaled, *rest), *others)
        ordinary = promise(tuple(itertools.chain(*segments)), LOWER, rows, dtype)
        unit = rounding(rows, dtype)
        error, (low, high) = 0.0, (LOWER, 1.0)
        for segment in segments:
            growth = math.prod(a for a, *_ in segment)
            if unit * growth * growth > 0.5:
                return Promise(deviation=math.inf, down_to=LOWER, of=self.bound)
            error += 4.0 * unit * min(growth, 1.0 / low) ** 2
            low, high = output_interval(segment, low, high)
        total = ordinary.deviation + error
        return Promise(total, LOWER, residual=total * (2.0 + total), of=self.bound)

    def work(self, rows: int, columns: int, dtype: torch.dtype, condition: float) -> Work:
        """See :class:`Work`; the same for every condition number."""
        count = 0
        for segment in self.segments:
            # XᴴX and XQ, the higher terms, and between steps the next Q and R.
            count += 2 + products(segment) - 2 * len(segment) + 3 * (len(segment) - 1)
        return Work(products=count)

    def gram_weights(self, c: Tensor) -> Tensor:
        """Return W with U = A W for a stack of Gram matrices c = AᴴA in double precision."""
        return gram_weights(c, self.polynomials, bound=self.bound, safety=self.safety)

    def __call__(self, x: Tensor) -> Factor:
        """Return the iterate of a tall stack ``x``, (m, n) or (B, m, n)."""
        x, gram = normalise(x, self.bound, safety=self.safety, with_gram=True)
        for segment in self.segments:
            gram = symmetric_gram(x) if gram is None else gram
            x = times(x, multiplier(gram, segment))
            gram = None
        return Factor(x, steps=len(self.polynomials))
