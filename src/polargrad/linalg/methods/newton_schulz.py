"""Newton–Schulz: the polar factor by matrix products alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from polargrad.linalg.coefficients import CLASSIC_CUBIC, MUON_QUINTIC, Triple
from polargrad.linalg.methods.outcome import Factor
from polargrad.linalg.methods.polynomial import check_steps, iterate

NAMED: dict[str, Triple] = {"cubic": CLASSIC_CUBIC, "quintic": MUON_QUINTIC}


@dataclass(frozen=True)
class NewtonSchulz:
    r"""One odd polynomial, applied again and again to A over its Frobenius norm.

    .. math:: X_0 = A/\|A\|_F, \qquad
              X_{k+1} = a X_k + X_k (b\,G_k + c\,G_k^2), \quad G_k = X_k^{\mathsf H}X_k

    ``"quintic"`` is Muon's (3.4445, −4.7750, 2.0315): five steps bring every
    :math:`\sigma \ge 10^{-2}\|A\|_F` into about [0.68, 1.14] and no nearer to 1, however many steps
    are taken, so the nuclear norm :math:`\langle A, U\rangle` comes out some 5 to 20 % wrong.
    ``"cubic"`` is the classic (3/2, −1/2, 0), which converges quadratically near 1 and grows small
    singular values by 3/2 a step: it needs about :math:`\log_{1.5}(\|A\|_F/\sigma_{\min})` steps.

    Use the quintic where Muon's own formula is wanted. For an accurate factor at the same price
    choose :class:`PolarExpress`; for an ill-conditioned matrix :class:`SVD` or :class:`QDWH`.

    Cost a step: 4 m n² flops, and 2 n³ more for a quintic.

    Args:
        coefficients: ``"quintic"``, ``"cubic"`` or a triple (a, b, c).
        steps: how many steps, at least 1.
        eps: a floor under the norm, as other implementations have it (1e-7 in torch.optim.Muon);
            with it the result depends on the scale of A. None, the default, has no floor.

    Raises:
        ValueError: for unknown or malformed coefficients, fewer than one step, or a negative eps.

    Example:
        >>> import torch, polargrad as pg
        >>> A = torch.diag(torch.tensor([3.0, 1.0]))
        >>> pg.polar_factor(A, method=NewtonSchulz("cubic", steps=12)).round(decimals=4)
        tensor([[1., 0.],
                [0., 1.]])

    Source: N. J. Higham, *Functions of Matrices* (2008), section 8.3; K. Jordan's post on Muon.
    """

    coefficients: str | Triple = "quintic"
    steps: int = 5
    eps: float | None = None

    name: ClassVar[str] = "newton_schulz"
    products_only: ClassVar[bool] = True
    complex_input: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if self.eps is not None and not self.eps >= 0.0:
            raise ValueError(f"eps must be None or at least 0, got {self.eps}")
        if isinstance(self.coefficients, str):
            if self.coefficients not in NAMED:
                raise ValueError(
                    f"coefficients must be one of {', '.join(NAMED)} or a triple (a, b, c), "
                    f"got {self.coefficients!r}"
                )
        elif len(self.coefficients) != 3:
            raise ValueError(f"coefficients must be a triple (a, b, c), got {self.coefficients!r}")
        else:
            # A list becomes a tuple: descriptions are compared, hashed and read from saved files.
            object.__setattr__(self, "coefficients", tuple(float(c) for c in self.coefficients))

    @property
    def scale_free(self) -> bool:
        """Whether the factor of c·A is that of A: not with a floor under the norm."""
        return self.eps is None

    @property
    def polynomials(self) -> tuple[Triple, ...]:
        """The polynomial of each step, to be applied to σ/‖A‖_F."""
        named = self.coefficients
        return (NAMED[named] if isinstance(named, str) else named,) * self.steps

    def __call__(self, x: Tensor) -> Factor:
        """Return the iterate of a tall stack ``x``, (m, n) or (B, m, n)."""
        return Factor(iterate(x, self.polynomials, eps=self.eps), steps=self.steps)
