"""What the polynomial methods share: normalise, then products and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from polargrad.linalg.methods.levels import is_better_looped
from polargrad.linalg.methods.outcome import Promise
from polargrad.linalg.odd_polynomials import OddPolynomial, deviation, error_growth
from polargrad.linalg.precision import HALF
from polargrad.linalg.products import gram as symmetric_gram
from polargrad.linalg.products import symmetric_product
from polargrad.linalg.scaling import times_power_of_two

Bound = Literal["frobenius", "schatten4"]
BOUNDS: tuple[Bound, ...] = ("frobenius", "schatten4")

# From which share of the bound on a method speaks of singular values, unless it is told.
LOWER = 1e-3
# Of a Gram matrix: twice products.PIECE.
LONGEST_SUM = 1024
# Of a power of two that is a normal number times two roundings: sums of such lose nothing.
EXPONENTS = {torch.float32: 126 - 48, torch.float64: 1022 - 106}
# From so many columns on a batched product is slower on a CPU than one product after the other.
LEAST_LOOP_COLUMNS = 512


def check_steps(steps: int) -> None:
    """Raise unless ``steps`` is a whole number of at least 1."""
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise TypeError(f"steps must be an int, got {steps!r}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")


def check_bound(bound: str, safety: float = 1.0) -> None:
    """Raise unless ``bound`` is known and ``safety`` is a finite number of at least 1."""
    if bound not in BOUNDS:
        raise ValueError(f"bound must be one of {', '.join(BOUNDS)}, got {bound!r}")
    if not 1.0 <= safety < math.inf:
        raise ValueError(f"safety must be at least 1, got {safety}")


def normalise(
    x: Tensor,
    bound: Bound = "frobenius",
    *,
    safety: float = 1.0,
    eps: float | None = None,
    with_gram: bool = False,
) -> tuple[Tensor, Tensor | None]:
    r"""Return X = x/(s·β), and its Gram matrix where it was formed for β or is asked for.

    :math:`\beta \ge \sigma_1` is the Frobenius norm, or the Schatten-4 norm
    :math:`\|x^{\mathsf H}x\|_F^{1/2}`, which is up to :math:`n^{1/4}` times smaller and comes free
    with the first Gram matrix. ``safety`` is s; ``eps`` is a peer's floor under the norm. A zero
    matrix stays zero.
    """
    if x.dtype in HALF and eps is None:
        # Norms in float32, and before any product: squares of half precision end at 65504.
        single = x.float()
        x = (single / _norm(single, 0.5)).to(x.dtype)
    gram = symmetric_gram(x) if bound == "schatten4" or with_gram else None
    if eps is not None:
        # The peers' own function: the same to the last bit.
        norm = torch.linalg.matrix_norm(x, keepdim=True).clamp(eps)
    elif bound == "frobenius" or gram is None:
        norm = _norm(x, 0.5)
    else:
        norm = _norm(gram, 0.25)
    norm = norm if safety == 1.0 else safety * norm
    return x / norm, None if gram is None else gram / norm.square()


def _norm(x: Tensor, power: float) -> Tensor:
    """This power of ‖x‖_F² for each matrix, 1 for a zero matrix: a root of 0 has no derivative."""
    square = _sum_of_squares(x.float() if x.dtype in HALF else x)
    return torch.where(square > 0, square, 1.0).pow(power).to(x.dtype)


def _sum_of_squares(x: Tensor) -> Tensor:
    """‖x‖_F² of each matrix, summed pairwise.

    Not by a norm function: in float32 on a CPU those add one after the other, so that the norm of
    a 3000 × 1000 matrix comes out 1.4e-4 too small. That puts σ₁ outside of [0, 1], where the
    polynomials are steep: without safety a matrix of rank one got values of 3e5.
    """
    squares = x.real.square() + x.imag.square() if x.is_complex() else x.square()
    return squares.sum(dim=(-2, -1), keepdim=True)


def iterate(
    x: Tensor,
    polynomials: Sequence[OddPolynomial],
    *,
    bound: Bound = "frobenius",
    safety: float = 1.0,
    eps: float | None = None,
) -> Tensor:
    r"""Apply odd polynomials to the singular values of a tall stack ``x`` (m, n) or (B, m, n).

    .. math:: X \leftarrow X / (s\,\beta), \qquad
              X \leftarrow X (a I + b G + c G^2 + d G^3 + e G^4), \quad G = X^{\mathsf H}X

    with β, s and eps as in :func:`normalise`. On a CPU large matrices of a stack are taken one by
    one, which is up to 1.4 times faster. Cost a step: 4 m n² flops for degree 3, 2 n³ more
    for degree 5, 4 n³ more for 7 and 9: two, three, four products.
    """
    if is_better_looped(x, LEAST_LOOP_COLUMNS):
        each = (iterate(one, polynomials, bound=bound, safety=safety, eps=eps) for one in x)
        return torch.stack(list(each))
    x, gram = normalise(x, bound, safety=safety, eps=eps)
    for a, *higher in polynomials:
        if gram is None:
            # With a peer's floor the peer's own products: the same to the last bit.
            gram = x.mH @ x if eps is not None else symmetric_gram(x)
        x = add_product(x, x, higher_terms(gram, higher), beta=a)
        gram = None
    return x


def iterate_on_host(
    x: Tensor, polynomials: Sequence[OddPolynomial], *, safety: float = 1.0
) -> tuple[Tensor, int] | None:
    r"""Apply odd polynomials to x/(s·β), β = ‖xᴴx‖_F^½, where the host may look at β.

    A look at β tells that x is finite, and the first polynomial of one matrix takes the division
    into its coefficients: of small matrices checks, scaling and norms take as long as half of the
    products.

    Args:
        x: a tall real matrix (m, n) or a stack (B, m, n) on a CPU, or the transposes of wide ones.
        polynomials: with the safety in the first of them, as for :func:`iterate`.
        safety: s.

    Returns:
        The iterate, and the power of two by which x had to be divided so that β is well within the
        range of its dtype: the iterate of x times any power of two is the same to the bit. None for
        a matrix that is zero or not finite, and for a stack in which one is, or beyond the range.
    """
    wide = x.stride(-2) == 1 < x.stride(-1)
    y, power = (x.mT if wide else x), 0
    c = _small_gram(y, wide)
    # The coefficients of the first polynomial are divided by odd powers of s·β, this the largest.
    reach = 2 * (EXPONENTS[x.dtype] // (2 * len(polynomials[0]) - 1))
    least, most = 2.0**-reach, 2.0**reach
    if x.ndim == 3:
        size = torch.linalg.vector_norm(c, dim=(-2, -1), keepdim=True)
        if not all(least <= one <= most for one in size.flatten().tolist()):
            return None
        scale = (safety * size.sqrt()).reciprocal_()
        y = _iterated_stack(y, c, scale, polynomials, wide)
        return (y.mT if wide else y), 0
    square = float(torch.linalg.vector_norm(c))
    if not least <= square <= most:
        greatest = float(y.abs().amax())
        if not 0.0 < greatest < math.inf:
            return None
        power = math.frexp(greatest)[1]
        y = times_power_of_two(y, -power)
        c = _small_gram(y, wide)
        square = float(torch.linalg.vector_norm(c))
    factor, first = 1.0 / (safety * math.sqrt(square)), []
    step = factor * factor
    for a in polynomials[0]:
        first.append(a * factor)
        factor = factor * step
    y = _iterated(y, c, (tuple(first), *polynomials[1:]), wide)
    return (y.mT if wide else y), power


def _small_gram(y: Tensor, wide: bool) -> Tensor:
    """The smaller Gram matrix of small y, whose sums are short."""
    return y @ y.mT if wide else y.mT @ y


def _iterated(y: Tensor, c: Tensor, polynomials: Sequence[OddPolynomial], wide: bool) -> Tensor:
    """The iterate of small y, whose first Gram matrix is c; of wide y it is y yᴴ."""
    for index, (a, b, *rest) in enumerate(polynomials):
        if index:
            c = _small_gram(y, wide)
        if rest:  # c is not held any longer
            c, b = _terms(c, b, rest), 1.0
        y = torch.addmm(y, *((c, y) if wide else (y, c)), beta=a, alpha=b)
    return y


def _iterated_stack(
    y: Tensor, c: Tensor, scale: Tensor, polynomials: Sequence[OddPolynomial], wide: bool
) -> Tensor:
    """The same of a stack times ``scale``. What a product is added to would be copied before."""
    for index, (a, b, *rest) in enumerate(polynomials):
        if index:
            c = _small_gram(y, wide)
        else:
            c.mul_(scale.square())
        c = _terms(c, b, rest) if rest else c.mul_(b)
        c.diagonal(dim1=-2, dim2=-1).add_(a)
        if not index:
            c.mul_(scale)
        y = c @ y if wide else y @ c
    return y


def _terms(c: Tensor, b: float, rest: Sequence[float]) -> Tensor:
    """bC + cC² + dC³ + eC⁴ of small matrices: the products of :func:`higher_terms`, little else.

    C is used up.
    """
    if len(rest) == 1:
        return add_product(c, c, c, beta=b, alpha=rest[0])
    if len(rest) == 2 or b == 0.0 or rest[1] == 0.0:
        return higher_terms(c, (b, *rest))
    square = c @ c
    lower = torch.add(c, square, alpha=rest[0] / b)
    upper = c.add_(square, alpha=rest[2] / rest[1])
    fused = lower.addmm_ if c.ndim == 2 else lower.baddbmm_
    return fused(square, upper, beta=b, alpha=rest[1])


def gram_weights(
    c: Tensor, polynomials: Sequence[OddPolynomial], *, bound: Bound, safety: float = 1.0
) -> Tensor:
    """Return W with x W the iterate of :func:`iterate`, for a stack of Gram matrices c = xᴴx.

    An error of c's rounding grows by the squares of the slopes: for a million of them in double
    precision to 1e-10, in single precision beyond use.
    """
    square = c.diagonal(dim1=-2, dim2=-1).sum(dim=-1)[..., None, None]
    norm = square.clamp(min=0.0).sqrt() if bound == "frobenius" else _norm(c, 0.25)
    norm = safety * torch.where(norm > 0, norm, 1.0)
    return multiplier(c / norm.square(), polynomials) / norm


def multiplier(gram: Tensor, polynomials: Sequence[OddPolynomial]) -> Tensor:
    """Return Q with X Q the iterate of X after these polynomials; ``gram`` is XᴴX."""
    total: Tensor | None = None
    for index, (a, *higher) in enumerate(polynomials):
        z = higher_terms(gram, higher)
        if total is None:
            identity = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
            total = a * identity + z
        else:
            total = add_product(total, total, z, beta=a)
        if index < len(polynomials) - 1:
            # (aI + Z) R (aI + Z), one factor after the other; symmetric but for rounding.
            right = add_product(gram, gram, z, beta=a)
            gram = add_product(right, z, right, beta=a)
            gram = 0.5 * (gram + gram.mH)
    assert total is not None  # a segment has a step
    return total


def products(polynomials: Sequence[OddPolynomial]) -> int:
    """How many products :func:`iterate` takes: 2, 3, 4, 4 for the degrees 3, 5, 7, 9.

    Example:
        >>> products([(1.5, -0.5, 0.0), (1.875, -1.25, 0.375)])
        5
    """
    degrees = [max(i for i, a in enumerate(p) if a != 0.0 or i == 0) for p in polynomials]
    return sum({0: 2, 1: 2, 2: 3}.get(degree, 4) for degree in degrees)


def higher_terms(gram: Tensor, coefficients: Sequence[float]) -> Tensor:
    r"""Return :math:`bG + cG^2 + dG^3 + eG^4`, by Paterson and Stockmeyer: two products at most.

    Raises:
        ValueError: for d or e in half precision, where what their terms, of some hundred times the
            result, leave of it is nothing: values up to 1e18 have been seen in bfloat16.

    Source: M. S. Paterson, L. J. Stockmeyer, SIAM J. Comput. 2 (1973).
    """
    b, c, d, e = (*coefficients, 0.0, 0.0, 0.0)[:4]
    if d == 0.0 and e == 0.0:
        return add_product(gram, gram, gram, beta=b, alpha=c) if c != 0.0 else b * gram
    if gram.dtype in HALF:
        raise ValueError(f"degrees 7 and 9 need float32 or more, got a matrix of {gram.dtype}")
    square = symmetric_product(gram, gram)
    # bG + G²(cI + dG + eG²), with a factor taken out so that one pass makes the second bracket.
    lead = e if e != 0.0 else d
    upper = torch.add(square, gram, alpha=d / e) if e != 0.0 else gram.clone()
    upper.diagonal(dim1=-2, dim2=-1).add_(c / lead)
    return add_product(gram, square, upper, beta=b, alpha=lead)


def add_product(y: Tensor, a: Tensor, b: Tensor, *, beta: float, alpha: float = 1.0) -> Tensor:
    """beta·y + alpha·a b, in one call: for one matrix the plain product is the faster one."""
    fused = torch.addmm if y.ndim == 2 else torch.baddbmm
    return fused(y, a, b, beta=beta, alpha=alpha)


def rounding(rows: int, dtype: torch.dtype) -> float:
    r"""Return :math:`(4 + \sqrt m)\,\mathrm{eps}`: what a product of length m may be off by.

    At most for m = 1024: longer sums are taken in pieces, see :func:`gram`.

    Example:
        >>> rounding(16, torch.float64) == 8 * torch.finfo(torch.float64).eps
        True
    """
    return (4.0 + math.sqrt(min(rows, LONGEST_SUM))) * torch.finfo(dtype).eps


def promise(
    polynomials: tuple[OddPolynomial, ...],
    lower: float,
    rows: int,
    dtype: torch.dtype,
    *,
    beyond: float = 0.0,
    of: Bound = "frobenius",
) -> Promise:
    r"""Return what polynomials of :math:`x \in [\text{lower}, 1]` promise for m rows.

    The deviation is :math:`d = \max|p(x) - 1|`, exactly, up to x = 1 + ``beyond``, and a bound of
    what rounding adds: each iterate is off by :func:`rounding` times its size, which the
    polynomials after it multiply as :func:`~polargrad.linalg.odd_polynomials.error_growth` says;
    errors of directions with smaller singular values count by their square, as long as they are
    small. U = W p(Σ) Vᴴ has UH = W p(Σ)² Σ Vᴴ, whose singular values are off by
    :math:`|1 - p^2| \le d(2 + d)`.
    """
    total: float = _deviation_with_rounding(polynomials, lower, rounding(rows, dtype), beyond)
    return Promise(deviation=total, down_to=lower, residual=total * (2.0 + total), of=of)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _deviation_with_rounding(
    polynomials: tuple[OddPolynomial, ...], lower: float, unit: float, beyond: float
) -> float:
    """The number of :func:`promise`, which torch.compile takes as it is."""
    counted, anywhere = (unit * growth for growth in error_growth(polynomials, lower))
    beside = 2.0 * anywhere**2 if anywhere < 0.25 else anywhere
    return deviation(polynomials, lower, 1.0 + beyond) + counted + beside
