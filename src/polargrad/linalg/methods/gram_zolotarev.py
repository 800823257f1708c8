"""Training accuracy in one shot: Zolotarev's rational function of the Gram matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polargrad.linalg.methods.levels import is_better_looped, one_by_one
from polargrad.linalg.methods.outcome import Factor, Promise, Work
from polargrad.linalg.products import factorize, gram, inverse_triangle
from polargrad.linalg.rational import ZolotarevCoefficients, constant_coefficients

# Below this lower bound the smallest shift is lost in the rounding of a float32 Gram matrix.
LEAST_LOWER_SINGLE = 3e-4
LEAST_LOWER_DOUBLE = 1e-7


@dataclass(frozen=True)
class GramZolotarev:
    r"""Zolotarev's best rational function, applied once through the Gram matrix.

    .. math:: C = A^{\mathsf H}A/\beta^2, \qquad
              U = \frac{M}{\beta} A \Bigl(I + \sum_{j=1}^{r} a_j (C + c_j I)^{-1}\Bigr), \qquad
              \beta = \min(\|A^{\mathsf H}A\|_F, \|A^{\mathsf H}A\|_1)^{1/2} \ge \sigma_1

    No function of this degree is nearer to 1 on :math:`[l\beta, \beta]`: within 0.062 for l = 10⁻³
    and three terms. Smaller singular values are left below 1, in proportion. Two large products
    and r independent factorizations, no iteration: on a CPU the fastest way to training accuracy
    for matrices of some 200 columns and more, the faster the taller they are. For small matrices
    and stacks choose :class:`PolarExpress`; for convergence :class:`Zolotarev`.

    In float32 the squared condition number shows from l = 10⁻³ on: rounding adds up to 0.04 at
    :math:`\sigma = 10^{-3}\beta`, and lower bounds below 3·10⁻⁴ are refused.

    Cost: 4 m n² + r n³ flops, half of the first product saved for a single large matrix. No host
    synchronization. Should a factorization fail, which rounding alone could cause, A/β is returned.

    Args:
        degree: r, from 1 to 8.
        lower: l, at least 3·10⁻⁴ in float32 and 10⁻⁷ in float64, below 1.

    Raises:
        ValueError: for a degree or a lower bound outside its range.

    Example:
        >>> import polargrad as pg
        >>> A = torch.diag(torch.tensor([1.0, -0.01]))
        >>> pg.polar_factor(A, method=GramZolotarev()).diag().abs() > 0.93
        tensor([True, True])

    Source: Y. Nakatsukasa, R. W. Freund, *SIAM Review* 58 (2016), whose function it is.
    """

    degree: int = 3
    lower: float = 1e-3

    name: ClassVar[str] = "gram_zolotarev"
    products_only: ClassVar[bool] = False
    scale_free: ClassVar[bool] = True
    converged: ClassVar[bool] = False
    adaptive: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.degree, bool) or not isinstance(self.degree, int):
            raise TypeError(f"degree must be an int, got {self.degree!r}")
        if not 1 <= self.degree <= 8:
            raise ValueError(f"degree must be from 1 to 8, got {self.degree}")
        if not LEAST_LOWER_DOUBLE <= self.lower < 1.0:
            raise ValueError(f"lower must be in [{LEAST_LOWER_DOUBLE}, 1), got {self.lower}")

    @property
    def coefficients(self) -> ZolotarevCoefficients:
        """The shifts, weights, scale and deviation of the rational function."""
        coefficients: ZolotarevCoefficients = constant_coefficients(self.lower, self.degree)
        return coefficients

    @property
    def deviation(self) -> float:
        """The largest |σ_out − 1| over all σ from l·β to β, in exact arithmetic."""
        return self.coefficients.deviation

    def promise(self, rows: int, columns: int, dtype: torch.dtype) -> Promise:
        """See :class:`Promise`; rounding adds some 0.1 eps/l², of which this is four times."""
        rounding = 0.39 * torch.finfo(dtype).eps / self.lower**2
        return Promise(self.deviation + rounding, self.lower, of="schatten4")

    def work(self, rows: int, columns: int, dtype: torch.dtype, condition: float) -> Work:
        """See :class:`Work`; the same for every condition number."""
        return Work(products=3, factorizations=self.degree, solves=self.degree)

    def __call__(self, x: Tensor) -> Factor:
        """Return the factor of a tall stack ``x`` (m, n) or (B, m, n) with finite entries."""
        if x.real.dtype == torch.float32 and self.lower < LEAST_LOWER_SINGLE:
            raise ValueError(
                f"lower must be at least {LEAST_LOWER_SINGLE} for a float32 matrix, "
                f"got {self.lower}: give compute_dtype=torch.float64"
            )
        if is_better_looped(x):
            return one_by_one(self, x)
        function = self.coefficients
        c = gram(x)
        size = torch.minimum(
            torch.linalg.matrix_norm(c, keepdim=True), c.abs().sum(-1, keepdim=True).amax(-2, True)
        )
        size = torch.where(size > 0, size, 1.0)
        c = c / size
        # With C + c_j I = L_j L_jᴴ the sum is one Gram matrix, of the stacked √a_j L_j⁻¹.
        triangles, failed = [], torch.zeros_like(size, dtype=torch.bool)
        for shift, weight in zip(function.shifts, function.weights, strict=True):
            factor = factorize(c, shift)
            triangles.append(weight**0.5 * inverse_triangle(factor))
            failed = failed | (factor.info != 0)[..., None, None]
        p = gram(torch.cat(triangles, dim=-2))
        p.diagonal(dim1=-2, dim2=-1).add_(1.0)
        identity = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
        p = torch.where(failed, identity, function.scale * p) / size.sqrt()
        return Factor(x @ p)
