"""Newton–Schulz: the polar factor by matrix products alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polargrad.linalg.coefficients import Coefficients, check_coefficients, schedule
from polargrad.linalg.methods.outcome import Factor, Promise, Work
from polargrad.linalg.methods.polynomial import (
    LOWER,
    check_steps,
    gram_weights,
    iterate,
    products,
    promise,
)
from polargrad.linalg.odd_polynomials import OddPolynomial


@dataclass(frozen=True)
class NewtonSchulz:
    r"""Odd polynomials, one or a published sequence, applied to A over its Frobenius norm.

    .. math:: X_0 = A/\|A\|_F, \qquad
              X_{k+1} = a X_k + X_k (b\,G_k + c\,G_k^2), \quad G_k = X_k^{\mathsf H}X_k

    ``"quintic"`` is Muon's (3.4445, −4.7750, 2.0315): five steps bring every
    :math:`\sigma \ge 10^{-2}\|A\|_F` into about [0.68, 1.14] and no nearer to 1, however many steps
    are taken, so the nuclear norm :math:`\langle A, U\rangle` comes out some 5 to 20 % wrong.
    ``"cubic"`` is the classic (3/2, −1/2, 0), which converges quadratically near 1 and grows small
    singular values by 3/2 a step: it needs about :math:`\log_{1.5}(\|A\|_F/\sigma_{\min})` steps.
    The published sequences, with what they make of :math:`[10^{-3}, 1]`:

    ========================== ===== ================== =========================================
    name                       steps values             whose
    ========================== ===== ================== =========================================
    ``quintic``                any   [0.471, 1.202]     Muon, torch.optim.Muon (five steps)
    ``modula``                 any   [0.241, 1.210]     Modula: (3, −16/5, 6/5) (five steps)
    ``tuned_quintics``         5     [0.475, 1.145]     optax and others; [0.978, 1.032] from 1e-2
    ``polar_express_1.02``     5     [0.859, 1.141]     modded-nanogpt, dion
    ``cans``                   5     [0.884, 1.120]     Emerging-Optimizers
    ``cubic5``                 5     [0.119, 1.300]     cubics: ten products
    ``polar_express``          any   [1.000, 1.000]     the paper's list (eight steps)
    ``polar_express_rounded``  any   [1.000, 1.000]     Emerging-Optimizers (eight steps)
    ``deepseek_v4``            10    [1.000, 1.0005]    DeepSeek-V4
    ========================== ===== ================== =========================================

    Use it where a peer's own formula is wanted. For an accurate factor at the same price choose
    :class:`PolarExpress`; for an ill-conditioned matrix :class:`SVD` or :class:`QDWH`.

    Cost a step: 4 m n² flops, and 2 n³ more for a quintic.

    Args:
        coefficients: a name, a triple (a, b, c), or a sequence of odd polynomials, each of its two
            to five coefficients (a, b, c, d, e), as ``minimax_polynomials`` returns it.
        steps: how many steps, at least 1; None for the sequence's own number, and five for a single
            polynomial. A sequence of fixed length has no other number.
        eps: a floor under the norm, as other implementations have it (1e-7 in torch.optim.Muon);
            with it the result depends on the scale of A. None, the default, has no floor.

    Raises:
        ValueError: for unknown or malformed coefficients, fewer than one step, a number of steps
            that the coefficients do not have, or a negative eps.

    Example:
        >>> import polargrad as pg
        >>> A = torch.diag(torch.tensor([3.0, 1.0]))
        >>> pg.polar_factor(A, method=NewtonSchulz("cubic", steps=12)).round(decimals=4)
        tensor([[1., 0.],
                [0., 1.]])

    Source: N. J. Higham, *Functions of Matrices* (2008), section 8.3; K. Jordan's post on Muon; of
    each sequence in ``polargrad.linalg.coefficients.SETS``.
    """

    coefficients: Coefficients = "quintic"
    steps: int | None = None
    eps: float | None = None

    name: ClassVar[str] = "newton_schulz"
    products_only: ClassVar[bool] = True
    converged: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.steps is not None:
            check_steps(self.steps)
        if self.eps is not None and not self.eps >= 0.0:
            raise ValueError(f"eps must be None or at least 0, got {self.eps}")
        object.__setattr__(self, "coefficients", check_coefficients(self.coefficients))
        schedule(self.coefficients, self.steps)

    @property
    def scale_free(self) -> bool:
        """Whether the factor of c·A is that of A: not with a floor under the norm."""
        return self.eps is None

    @property
    def polynomials(self) -> tuple[OddPolynomial, ...]:
        """The polynomial of each step, to be applied to σ/‖A‖_F."""
        return schedule(self.coefficients, self.steps)

    def promise(self, rows: int, columns: int, dtype: torch.dtype) -> Promise:
        """What holds for every matrix of this shape, of σ ≥ 1e-3 times the norm or its floor."""
        # A peer's norm is summed one entry after the other, in some eight strands at least.
        beyond = 0.0 if self.eps is None else rows * columns * torch.finfo(dtype).eps / 8.0
        return promise(self.polynomials, LOWER, rows, dtype, beyond=beyond)

    def work(self, rows: int, columns: int, dtype: torch.dtype, condition: float) -> Work:
        """See :class:`Work`; the same for every condition number."""
        return Work(products=products(self.polynomials))

    def gram_weights(self, c: Tensor) -> Tensor:
        """Return W with U = A W for a stack of Gram matrices c = AᴴA in double precision."""
        return gram_weights(c, self.polynomials, bound="frobenius")

    def __call__(self, x: Tensor) -> Factor:
        """Return the iterate of a tall stack ``x``, (m, n) or (B, m, n)."""
        polynomials = self.polynomials
        return Factor(iterate(x, polynomials, eps=self.eps), steps=len(polynomials))
