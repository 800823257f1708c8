r"""The curvature's anisotropy: extreme eigenvalues of a Hessian, and its condition number.

.. math:: \kappa_H = L/\mu, \qquad L = \max_i |\lambda_i|, \quad \mu = \max(0, \lambda_{\min})

μ is the constant of strong convexity, so that :math:`\kappa_H` is infinite for a Hessian that is
singular or indefinite. The Hessian is a matrix that is given, or is only multiplied with vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from polargrad.linalg.precision import rank_cutoff

__all__ = [
    "HessianProduct",
    "HessianSpectrum",
    "hessian_condition_number",
    "hessian_spectrum",
    "lanczos",
]

# A symmetric matrix may come from products that are not: so much of its size is rounding.
ASYMMETRY = 1e-5


class HessianSpectrum(NamedTuple):
    """The extreme eigenvalues of a Hessian, or estimates of them.

    Attributes:
        smallest: λ_min; from Lanczos the smallest Ritz value, which is never below it.
        largest: λ_max; from Lanczos the largest Ritz value, which is never above it.
        smallest_error: an eigenvalue lies within this of ``smallest``.
        largest_error: an eigenvalue lies within this of ``largest``.
        steps: how many products were made; 0 for a given matrix.
        dimension: n, the number of variables.
    """

    smallest: float
    largest: float
    smallest_error: float
    largest_error: float
    steps: int
    dimension: int

    @property
    def condition_number(self) -> float:
        """κ_H = L/μ; infinite where ``smallest`` is not above the cutoff √n · eps · L."""
        size = max(abs(self.smallest), abs(self.largest))
        if self.smallest <= rank_cutoff(self.dimension, torch.float64) * size:
            return float("inf")
        return size / self.smallest


class HessianProduct:
    r"""Products of a Hessian with vectors, by a derivative of the derivative.

    .. math:: H v = \nabla_x \langle \nabla f(x), v\rangle

    Loss and gradient are computed once, here; every product is a further backward pass through
    their graph, which stays in memory. So the Hessian is that of one point, one batch and one draw
    of dropout. A parameter that the loss does not depend on has rows and columns of zeros.

    Args:
        closure: returns the loss, a tensor of one number; is called once, under enabled grad.
        params: the variables, whose entries in order make up the vector.

    Raises:
        ValueError: if there is no parameter, or the loss is not one number.

    Example:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> product = HessianProduct(lambda: x[0] ** 2 + 3 * x[0] * x[1], [x])
        >>> product(torch.tensor([1.0, 0.0], dtype=torch.float64))
        tensor([2., 3.], dtype=torch.float64)

    Source: B. A. Pearlmutter, *Fast exact multiplication by the Hessian*, Neural Computation 6
    (1994).
    """

    def __init__(self, closure: Callable[[], Tensor], params: Sequence[Tensor]) -> None:
        self._params = list(params)
        if not self._params:
            raise ValueError("params must hold at least one tensor, got none")
        with torch.enable_grad():
            loss = closure()
            if loss.numel() != 1:
                raise ValueError(
                    f"closure must return one number, got a tensor of shape {tuple(loss.shape)}"
                )
            gradients = torch.autograd.grad(
                loss, self._params, create_graph=True, materialize_grads=True
            )
        # What does not require a gradient is constant: its rows of the Hessian are zero.
        self._curved = [i for i, g in enumerate(gradients) if g.requires_grad]
        self._gradients = gradients
        self.dimension = sum(p.numel() for p in self._params)

    def __call__(self, vector: Tensor) -> Tensor:
        """Return Hv in the dtype of ``vector``; both have the shape (dimension,).

        Raises:
            ValueError: for another shape.
        """
        if vector.shape != (self.dimension,):
            raise ValueError(
                f"vector must have shape ({self.dimension},), got {tuple(vector.shape)}"
            )
        if not self._curved:
            return torch.zeros_like(vector)
        pieces = torch.split(vector, [p.numel() for p in self._params])
        outputs = [self._gradients[i] for i in self._curved]
        along = [
            pieces[i].reshape(g.shape).to(g.device, g.dtype)
            for i, g in zip(self._curved, outputs, strict=True)
        ]
        product = torch.autograd.grad(
            outputs, self._params, along, retain_graph=True, materialize_grads=True
        )
        return torch.cat([p.reshape(-1).to(vector.device, vector.dtype) for p in product])


def hessian_spectrum(hessian: Tensor) -> HessianSpectrum:
    r"""Return the extreme eigenvalues of a symmetric matrix, in float64.

    Args:
        hessian: shape (n, n), symmetric to rounding, any real floating-point dtype.

    Raises:
        TypeError: if it is not a real floating-point tensor.
        ValueError: if it is not square, empty, not finite or not symmetric.

    Example:
        >>> hessian_spectrum(torch.diag(torch.tensor([4.0, 2.0]))).condition_number
        2.0

    Source: arXiv 2505.21799, section 3.
    """
    if not isinstance(hessian, Tensor) or not hessian.is_floating_point():
        kind = hessian.dtype if isinstance(hessian, Tensor) else type(hessian).__name__
        raise TypeError(f"hessian must be a real floating-point tensor, got {kind}")
    if hessian.ndim != 2 or hessian.shape[0] != hessian.shape[1] or not hessian.numel():
        raise ValueError(
            f"hessian must have shape (n, n), n at least 1, got {tuple(hessian.shape)}"
        )
    wide = hessian.detach().double()
    if not bool(torch.isfinite(wide).all()):
        raise ValueError("hessian must be finite, got an infinite or undefined entry")
    size, asymmetry = (float(torch.linalg.matrix_norm(x)) for x in (wide, wide - wide.mT))
    if asymmetry > ASYMMETRY * size:
        raise ValueError(
            f"hessian must be symmetric, got ‖H − Hᵀ‖_F = {asymmetry / size:.1e} ‖H‖_F"
        )
    eigenvalues = torch.linalg.eigvalsh(0.5 * (wide + wide.mT))
    error = rank_cutoff(len(wide), torch.float64) * float(eigenvalues.abs().max())
    return HessianSpectrum(
        float(eigenvalues[0]), float(eigenvalues[-1]), error, error, 0, len(wide)
    )


def lanczos(
    product: Callable[[Tensor], Tensor],
    dimension: int,
    steps: int,
    generator: torch.Generator,
    *,
    device: torch.device | str | None = None,
) -> HessianSpectrum:
    r"""Estimate the extreme eigenvalues of a symmetric H from its products with vectors.

    .. math:: H q_k = \beta_{k-1} q_{k-1} + \alpha_k q_k + \beta_k q_{k+1}, \qquad
              T = \operatorname{tridiag}(\beta, \alpha, \beta) = S \Theta S^{\mathsf T}

    The Ritz values θ are eigenvalues of T, and within :math:`|\beta_k S_{ki}|` of :math:`\theta_i`
    there is an eigenvalue of H. The two extremes lie inside the spectrum, so that their ratio is a
    *lower bound* of the condition number; it grows with the steps. The largest eigenvalue of a
    network's Hessian is isolated and converges in a few steps. The smallest lies in a cluster and
    converges slowly, in about :math:`\sqrt{\kappa}` steps: look at its error before you believe it.

    The basis is orthogonalised against all of its vectors twice, in float64: no eigenvalue appears
    twice, and the same generator gives the same numbers. Rounding in the products themselves, about
    1e-7 of L from a model in float32, is not in the error bounds. The iteration ends early where
    the basis has become an invariant subspace.

    Memory: ``steps`` vectors of ``dimension`` numbers in float64.

    Args:
        product: maps a float64 vector (dimension,) to H times it; :class:`HessianProduct` is one.
        dimension: n.
        steps: how many products to make at most, from 1 to n.
        generator: draws the first vector.
        device: where the vectors are; None for the generator's.

    Raises:
        ValueError: for a number outside its range, or a product that is of another shape or not
            finite.

    Example:
        >>> values = torch.tensor([1.0, 2.0, 3.0, 10.0], dtype=torch.float64)
        >>> spectrum = lanczos(lambda v: values * v, 4, 4, torch.Generator().manual_seed(0))
        >>> print(f"{spectrum.condition_number:.6f}")
        10.000000

    Source: C. Lanczos (1950); B. N. Parlett, *The Symmetric Eigenvalue Problem* (1998), chapter 13.
    """
    if dimension < 1:
        raise ValueError(f"dimension must be at least 1, got {dimension}")
    if not 1 <= steps <= dimension:
        raise ValueError(f"steps must be from 1 to dimension = {dimension}, got {steps}")
    device = generator.device if device is None else device
    start = torch.randn(
        dimension, generator=generator, dtype=torch.float64, device=generator.device
    )
    basis = torch.zeros(steps, dimension, dtype=torch.float64, device=device)
    basis[0] = (start / torch.linalg.vector_norm(start)).to(device)
    diagonal: list[float] = []
    beside: list[float] = []
    for k in range(steps):
        image = _checked(product(basis[k]), dimension).to(basis)
        diagonal.append(float(torch.dot(basis[k], image)))
        rest = image
        for _ in range(2):  # twice is enough: W. Kahan's rule
            rest = rest - basis[: k + 1].mT @ (basis[: k + 1] @ rest)
        beside.append(float(torch.linalg.vector_norm(rest)))
        # What is left of an invariant subspace is rounding of the product.
        if beside[-1] <= 10.0 * torch.finfo(torch.float64).eps * float(image.norm()):
            break
        if k + 1 < steps:
            basis[k + 1] = rest / beside[-1]
    return _ritz(diagonal, beside, dimension)


def hessian_condition_number(
    hessian: Tensor | Callable[[Tensor], Tensor],
    *,
    dimension: int | None = None,
    steps: int | None = None,
    generator: torch.Generator | None = None,
) -> float:
    r"""Return :math:`\kappa_H = L/\mu` of a matrix, or a lower bound of it by Lanczos.

    Args:
        hessian: a symmetric matrix, or its product with a vector. For the product the other
            arguments are those of :func:`lanczos`; look at its error bounds.
        dimension: n; taken from a :class:`HessianProduct`.
        steps: how many products to make at most.
        generator: draws the first vector.

    Raises:
        TypeError: if ``steps`` or ``generator`` are missing for a product, or given for a matrix.
        ValueError: as :func:`hessian_spectrum` and :func:`lanczos`.

    Example:
        >>> hessian_condition_number(torch.diag(torch.tensor([8.0, 1.0])))
        8.0

    Source: arXiv 2505.21799, section 3.
    """
    if isinstance(hessian, Tensor):
        if dimension is not None or steps is not None or generator is not None:
            raise TypeError("dimension, steps and generator are for a product, got a matrix")
        return hessian_spectrum(hessian).condition_number
    if dimension is None and isinstance(hessian, HessianProduct):
        dimension = hessian.dimension
    if dimension is None or steps is None or generator is None:
        raise TypeError("a product needs dimension, steps and generator")
    return lanczos(hessian, dimension, steps, generator).condition_number


def _checked(image: Tensor, dimension: int) -> Tensor:
    if image.shape != (dimension,):
        raise ValueError(f"product must return shape ({dimension},), got {tuple(image.shape)}")
    if not bool(torch.isfinite(image).all()):
        raise ValueError("product must be finite, got an infinite or undefined entry")
    return image.detach()


def _ritz(diagonal: list[float], beside: list[float], dimension: int) -> HessianSpectrum:
    """The extreme Ritz values of the tridiagonal matrix, with their residuals |βₖ Sₖᵢ|."""
    between = torch.tensor(beside[:-1], dtype=torch.float64)
    matrix = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    matrix = matrix + torch.diag(between, 1) + torch.diag(between, -1)
    values, vectors = torch.linalg.eigh(matrix)
    residuals = beside[-1] * vectors[-1].abs()
    return HessianSpectrum(
        float(values[0]),
        float(values[-1]),
        float(residuals[0]),
        float(residuals[-1]),
        len(diagonal),
        dimension,
    )
