"""Training accuracy in one shot: Zolotarev's rational function of the Gram matrix."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from polargrad.linalg.methods.levels import is_better_looped, one_by_one
from polargrad.linalg.methods.outcome import Factor, Promise, SplitFactor, Work
from polargrad.linalg.methods.polynomial import add_product, higher_terms
from polargrad.linalg.minimax import DEGREES, minimax_polynomials
from polargrad.linalg.odd_polynomials import OddPolynomial, deviation
from polargrad.linalg.products import (
    LEAST_INVERSE,
    factorize,
    gram,
    inverse_triangle,
    shifted_inverse,
    symmetric_product,
    times,
)
from polargrad.linalg.rational import ZolotarevCoefficients, constant_coefficients, zolotarev
from polargrad.linalg.scaling import times_power_of_two

# Below this lower bound the smallest shift is lost in the rounding of a float32 Gram matrix.
LEAST_LOWER_SINGLE = 3e-4
LEAST_LOWER_DOUBLE = 1e-7
# Of ‖xᴴx‖_F: its square is a normal number, and so are entries a millionth as large.
SAFE_SQUARES = {torch.float32: (2.0**-60, 2.0**60), torch.float64: (2.0**-400, 2.0**400)}


@dataclass(frozen=True)
class GramZolotarev:
    r"""Zolotarev's best rational function, applied once through the Gram matrix.

    .. math:: C = A^{\mathsf H}A/\beta^2, \qquad
              U = \frac{M}{\beta} A \Bigl(I + \sum_{j=1}^{r} a_j (C + c_j I)^{-1}\Bigr), \qquad
              \beta = \min(\|A^{\mathsf H}A\|_F, \|A^{\mathsf H}A\|_1)^{1/2} \ge \sigma_1

    No function of this degree is nearer to 1 on :math:`[l\beta, \beta]`: within 0.062 for l = 10⁻³
    and three terms. Smaller singular values are left below 1, in proportion. Two large products
    and r independent factorizations, no iteration: on a CPU the fastest way to training accuracy
    for matrices of some 200 columns and more, the faster the taller they are. For convergence
    choose :class:`Zolotarev`.

    With ``polynomial`` d the best odd polynomial of degree d on what the function leaves,
    :math:`[1 - \delta, 1 + \delta]`, is composed with it on the Gram side,

    .. math:: U \leftarrow A\,R\,q(R^2 C), \qquad
              R = \frac{M}{\beta}\Bigl(I + \sum_j a_j (C + c_j I)^{-1}\Bigr),
              \quad \beta = \|A^{\mathsf H}A\|_F^{1/2},

    with products of n × n matrices in the place of factorizations: one term and degree 9 come
    within 0.046, at one factorization, an inverse and four products. That is the fastest for
    matrices of up to some 200 columns, where a factorization costs as much as several products.

    In float32 the squared condition number shows from l = 10⁻³ on: rounding adds up to 0.04 at
    :math:`\sigma = 10^{-3}\beta`, and lower bounds below 3·10⁻⁴ are refused.

    Cost: 4 m n² + r n³ flops, half of the first product saved for a single large matrix; a
    polynomial of degree 3, 5, 7 or 9 has 2, 3, 4 or 4 products of 2 n³ more. No host
    synchronization. Should a factorization fail, which rounding alone could cause, A/β is returned.

    Args:
        degree: r, from 1 to 8.
        lower: l, at least 3·10⁻⁴ in float32 and 10⁻⁷ in float64, below 1.
        polynomial: d, 3, 5, 7 or 9; None for the rational function alone.

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
    polynomial: int | None = None

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
        known = isinstance(self.polynomial, int) and self.polynomial in DEGREES
        if self.polynomial is not None and not known:
            allowed = ", ".join(map(str, DEGREES))
            raise ValueError(f"polynomial must be None, {allowed}, got {self.polynomial!r}")

    @property
    def coefficients(self) -> ZolotarevCoefficients:
        """The shifts, weights, scale and deviation of the rational function."""
        coefficients: ZolotarevCoefficients = constant_coefficients(self.lower, self.degree)
        return coefficients

    @property
    def deviation(self) -> float:
        """The largest |σ_out − 1| over all σ from l·β to β, in exact arithmetic."""
        if self.polynomial is None:
            return self.coefficients.deviation
        return self._after(self.polynomial)[1]

    def _after(self, degree: int) -> tuple[OddPolynomial, float]:
        after: tuple[OddPolynomial, float] = constant_polynomial(self.lower, self.degree, degree)
        return after

    def promise(self, rows: int, columns: int, dtype: torch.dtype) -> Promise:
        """See :class:`Promise`; rounding adds some 0.1 eps/l², of which this is four times."""
        rounding = 0.39 * torch.finfo(dtype).eps / self.lower**2
        return Promise(self.deviation + rounding, self.lower, of="schatten4")

    def work(self, rows: int, columns: int, dtype: torch.dtype, condition: float) -> Work:
        """See :class:`Work`; the same for every condition number."""
        if self.polynomial is None:
            return Work(products=3, factorizations=self.degree, solves=self.degree)
        # A blocked inverse is a triangle and its Gram matrix.
        large = columns >= LEAST_INVERSE
        terms = {3: 0, 5: 1, 7: 2, 9: 2}[self.polynomial]
        products = 4 + terms + (self.degree if large else 0)
        return Work(products=products, factorizations=self.degree, solves=self.degree)

    def __call__(self, x: Tensor) -> Factor:
        """Return the factor of a tall stack ``x`` (m, n) or (B, m, n) with finite entries."""
        self._check(x)
        if is_better_looped(x):
            return one_by_one(self, x)
        if self.polynomial is None:
            return Factor(times(x, _over_bound(*self._rational(x))))
        return Factor(times(x, _over_bound(*self._composed(x).parts())))

    def on_host(self, x: Tensor) -> Tensor | None:
        """Return the factor of one tall matrix, where the host may look at its size, or None.

        One look at ‖xᴴx‖_F tells that x is finite and in no need of scaling: two passes over x
        less, and the same to the bit as of x over a power of two. None as for :meth:`split`.
        """
        if self.polynomial is None:
            return None
        self._check(x)
        composed = self._composed(x)
        sound = torch.where(composed.info == 0, composed.size, math.nan)
        least, largest = SAFE_SQUARES[x.dtype]
        if not least <= float(sound) <= largest:
            return None
        return times(x, composed.weights() / composed.size.sqrt())

    def gram_weights(self, c: Tensor) -> Tensor:
        """Return W with U = A W for a stack of Gram matrices c = AᴴA, (B, n, n)."""
        if self.polynomial is None:
            return _over_bound(*self._rational(c, is_gram=True))
        return _over_bound(*self._composed(c, is_gram=True).parts())

    def split(self, x: Tensor) -> SplitFactor | None:
        """Return the factor of one tall matrix as x W, where the host may look at its size.

        None without a polynomial, where a factorization fails, and for a matrix that is zero or not
        finite. Of a matrix times a power of two it is the same to the bit.
        """
        if self.polynomial is None:
            return None
        self._check(x)
        composed = self._composed(x, keep=True)
        size = float(composed.size)
        least, largest = SAFE_SQUARES[x.dtype]
        if not least <= size <= largest:
            return self._split_scaled(x)
        if int(composed.info):
            return None
        return SplitFactor(x, composed.weights(), composed.inner() * size**0.5, size**-0.5)

    def _split_scaled(self, x: Tensor) -> SplitFactor | None:
        """The same of a matrix whose squares do not lie well within the range of its dtype."""
        greatest = float(x.abs().amax())
        power = math.frexp(greatest)[1] if 0.0 < greatest < math.inf else 0
        found = self.split(times_power_of_two(x, -power)) if power else None
        if found is None:
            return None
        try:
            norm = math.ldexp(found.inner, power)
        except OverflowError:
            norm = math.inf
        return found._replace(inner=norm)

    def _check(self, x: Tensor) -> None:
        if x.real.dtype == torch.float32 and self.lower < LEAST_LOWER_SINGLE:
            raise ValueError(
                f"lower must be at least {LEAST_LOWER_SINGLE} for a float32 matrix, "
                f"got {self.lower}: give compute_dtype=torch.float64"
            )

    def _rational(self, x: Tensor, *, is_gram: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """What x/β is multiplied by, β², and which factorizations have failed; or xᴴx for x."""
        function = self.coefficients
        c = x if is_gram else gram(x)  # here, where no caller holds on to it
        size = torch.minimum(
            torch.linalg.matrix_norm(c, keepdim=True), c.abs().sum(-1, keepdim=True).amax(-2, True)
        )
        size = torch.where(size > 0, size, 1.0)
        c = c / size
        # With C + c_j I = L_j L_jᴴ the sum is one Gram matrix, of the stacked √a_j L_j⁻¹.
        triangles, failed = [], torch.zeros_like(size, dtype=torch.bool)[..., 0, 0]
        for shift, weight in zip(function.shifts, function.weights, strict=True):
            factor = factorize(c, shift)
            triangles.append(weight**0.5 * inverse_triangle(factor))
            failed = failed | (factor.info != 0)
        p = gram(torch.cat(triangles, dim=-2))
        p.diagonal(dim1=-2, dim2=-1).add_(1.0)
        return function.scale * p, size, failed

    def _composed(self, x: Tensor, *, keep: bool = False, is_gram: bool = False) -> _Composed:
        """The same with a polynomial of the function: of R C R, which has the squares of σ."""
        assert self.polynomial is not None  # as the caller has seen
        function, (first, *higher) = self.coefficients, self._after(self.polynomial)[0]
        c = x if is_gram else gram(x)
        # A zero matrix stays zero, whatever it is divided by.
        size = torch.linalg.matrix_norm(c, keepdim=True).clamp(min=torch.finfo(c.dtype).tiny)
        c = c / size
        product, sum_of_terms, failed = c, None, None
        for shift, weight in zip(function.shifts, function.weights, strict=True):
            k, info = shifted_inverse(c, shift)
            # C (C + c_j I)⁻¹ = I − c_j (C + c_j I)⁻¹ spares the product C R.
            product = torch.add(product, k, alpha=-weight * shift)
            k = weight * k
            sum_of_terms = k if sum_of_terms is None else sum_of_terms.add_(k)
            failed = info if failed is None else failed | info
        assert sum_of_terms is not None  # there is a term
        assert failed is not None
        del c, k
        product.diagonal(dim1=-2, dim2=-1).add_(sum(function.weights))
        square = symmetric_product(sum_of_terms, product).add_(product)
        kept = product if keep else None
        del product
        q = higher_terms(square, higher)
        q.diagonal(dim1=-2, dim2=-1).add_(first)
        return _Composed(sum_of_terms, q, size, failed, kept)


class _Composed(NamedTuple):
    """R q(R² C) in its parts, for C = xᴴx/β².

    Attributes:
        sum_of_terms: R/M − I.
        q: q(R² C).
        size: β², (..., 1, 1).
        info: nonzero where a factorization has failed.
        product: C R/M, if it was to be kept.
    """

    sum_of_terms: Tensor
    q: Tensor
    size: Tensor
    info: Tensor
    product: Tensor | None

    def weights(self) -> Tensor:
        """W with U = x W/β."""
        return add_product(self.q, self.sum_of_terms, self.q, beta=1.0)

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """What x/β is multiplied by, β², and which factorizations have failed."""
        return self.weights(), self.size, self.info != 0

    def inner(self) -> float:
        """⟨x, U⟩/β = ⟨C R, q⟩ of one matrix: nothing in it cancels, as it would in ⟨C, W⟩."""
        assert self.product is not None
        return float((self.product * self.q).sum())


def _over_bound(p: Tensor, size: Tensor, failed: Tensor) -> Tensor:
    """p/β, with I in the place of what has failed."""
    identity = torch.eye(p.shape[-1], dtype=p.dtype, device=p.device)
    return torch.where(failed[..., None, None], identity, p) / size.sqrt()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def constant_polynomial(lower: float, terms: int, degree: int) -> tuple[OddPolynomial, float]:
    """The same as :func:`polynomial_after`, which torch.compile takes as it is."""
    return polynomial_after(lower, terms, degree)


@functools.lru_cache(maxsize=256)
def polynomial_after(lower: float, terms: int, degree: int) -> tuple[OddPolynomial, float]:
    """The best polynomial of what the rational function without M leaves, and its deviation.

    Example:
        >>> round(polynomial_after(1e-3, 1, 9)[1], 3)
        0.046
    """
    function = zolotarev(lower, terms)
    (best,) = minimax_polynomials(function.contrast, 1, degree=degree)
    # It is made for [(1 − δ)/(1 + δ), 1].
    scale = function.scale / (1.0 + function.deviation)
    scaled = tuple(a * scale ** (2 * i + 1) for i, a in enumerate(best))
    return scaled, deviation((best,), function.contrast)
