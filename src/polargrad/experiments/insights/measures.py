"""What is measured of an update: spectra of gradients, momenta, updates; whether the loss fell."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from polargrad.geometry.hessian_spectrum import HessianProduct, lanczos
from polargrad.language.spectra import MOMENTA
from polargrad.linalg.precision import rank_cutoff, working_dtype

MATRICES = ("gradient", "momentum", "update")


class Spread(NamedTuple):
    """How far the singular values of a matrix lie apart.

    Attributes:
        condition: κ₂ = σ₁/σᵣ, σᵣ the smallest singular value above rounding.
        effective: σ₁ over the median singular value; the smallest ones, which are noise of the
            batch and of rounding, do not enter.
        stable_rank: ‖G‖²_F/‖G‖²₂.
        largest: σ₁.
    """

    condition: float
    effective: float
    stable_rank: float
    largest: float


def spread(matrix: Tensor) -> Spread:
    r"""Return the measures of one matrix from one singular value decomposition in float64.

    .. math:: \kappa_2 = \sigma_1/\sigma_r, \qquad \sigma_1/\operatorname{med}_i\sigma_i, \qquad
              \sum_i \sigma_i^2/\sigma_1^2, \qquad \sigma_1

    r counts the singular values above :math:`\sqrt{\min(m, n)}\,\epsilon\,\sigma_1` with eps of the
    dtype, as :func:`polargrad.geometry.anisotropy.condition_number` does: below that a gradient is
    rounding of the products it was computed from. So no κ₂ of a float32 matrix with 128 columns is
    above 7.4e5. The median of an even number of values is the lower of the two in the middle. A
    zero matrix has 1, 1, 0 and 0, one that is not finite NaN.

    Args:
        matrix: shape (m, n), real.

    Example:
        >>> spread(torch.diag(torch.tensor([8.0, 4.0, 1.0])))
        Spread(condition=8.0, effective=2.0, stable_rank=1.265625, largest=8.0)
    """
    if not bool(torch.isfinite(matrix).all()):
        return Spread(math.nan, math.nan, math.nan, math.nan)
    sigma = torch.linalg.svdvals(matrix.detach().double())
    largest = float(sigma[0])
    if largest == 0.0:
        return Spread(1.0, 1.0, 0.0, 0.0)
    relative = sigma / largest
    cutoff = rank_cutoff(min(matrix.shape), working_dtype(matrix.dtype))
    median = max(float(relative.median()), cutoff)
    return Spread(
        1.0 / float(relative[relative > cutoff].min()),
        1.0 / median,
        float(relative.square().sum()),
        largest,
    )


class UpdateProbe:
    """Looks at one step of an optimizer: made after the backward pass, asked after the step.

    Args:
        hidden: the hidden matrices by name.
        parameters: all parameters, with gradients.
    """

    def __init__(self, hidden: Mapping[str, Tensor], parameters: list[Tensor]) -> None:
        self._hidden = hidden
        self._parameters = [p for p in parameters if p.grad is not None]
        self._before = {id(p): p.detach().clone() for p in self._parameters}

    def record(
        self, optimizer: torch.optim.Optimizer, loss: float, loss_again: float
    ) -> dict[str, Any]:
        r"""Return what the step did.

        ``change`` is the change of the loss on the step's own batch and ``predicted`` its first
        order :math:`\langle G, \Delta X\rangle`. The other entries hold, for each kind of matrix,
        the measures of :class:`Spread` as lists over the hidden matrices. The update is the
        difference of the parameters before and after, whatever the optimizer did.

        Args:
            optimizer: after its step.
            loss: on the batch, before the step.
            loss_again: on the same batch, after it.
        """
        predicted = sum(
            float(torch.sum(p.grad.double() * self._update(p).double()))
            for p in self._parameters
            if p.grad is not None
        )
        found: dict[str, Any] = {"change": loss_again - loss, "predicted": predicted}
        for kind in MATRICES:
            spreads = [
                spread(self._matrix(kind, parameter, optimizer))
                for parameter in self._hidden.values()
            ]
            found[kind] = {
                field: [_rounded(getattr(s, field)) for s in spreads] for field in Spread._fields
            }
        return found

    def _update(self, parameter: Tensor) -> Tensor:
        return parameter.detach() - self._before[id(parameter)]

    def _matrix(self, kind: str, parameter: Tensor, optimizer: torch.optim.Optimizer) -> Tensor:
        if kind == "update":
            return self._update(parameter)
        if kind == "gradient":
            assert parameter.grad is not None
            return parameter.grad
        state = optimizer.state[parameter]
        momentum: Tensor = state[next(name for name in MOMENTA if name in state)]
        return momentum


def layer_curvature(
    closure: Callable[[], Tensor],
    matrix: Tensor,
    *,
    products: int,
    probes: int,
    generator: torch.Generator,
) -> dict[str, float]:
    r"""Return the extreme eigenvalues of one layer's Hessian, and its Frobenius norm, with κ of G.

    .. math:: \lambda_{\min},\ \lambda_{\max} \text{ by Lanczos}, \qquad
              \|H\|_F^2 = \mathbb{E}\,\|Hv\|^2, \quad v \sim N(0, I)

    ``stable_rank`` is :math:`\|H\|_F^2/|\lambda|_{\max}^2` of the n × n Hessian, n = ``dimension``,
    and ``gradient_stable_rank`` the same of the m × n gradient. They exist for an indefinite H too,
    whose κ_H is infinite, and do not hang on the smallest values.

    Args:
        closure: the loss; called with the attention that has second derivatives.
        matrix: the parameter of the layer, m × n.
        products: of Lanczos' method.
        probes: vectors of the Frobenius norm's estimate.
        generator: draws all vectors.

    Source: arXiv 2505.21799, section 3, for κ_H and κ_G; M. F. Hutchinson (1990) for the estimate.
    """
    # The fused attention of the CPU cannot be differentiated twice.
    with sdpa_kernel(SDPBackend.MATH):
        (gradient,) = torch.autograd.grad(closure(), [matrix])
        hessian = HessianProduct(closure, [matrix])
        found = lanczos(hessian, hessian.dimension, products, generator)
        squares = [_square_of_image(hessian, generator) for _ in range(probes)]
    size = max(abs(found.smallest), abs(found.largest))
    # The estimate may fall below what the two eigenvalues alone come to.
    frobenius = max(sum(squares) / probes, found.smallest**2 + found.largest**2)
    of_gradient = spread(gradient)
    return {
        "smallest": found.smallest,
        "largest": found.largest,
        "smallest_error": found.smallest_error,
        "largest_error": found.largest_error,
        "stable_rank": frobenius / size**2 if size else 0.0,
        "dimension": hessian.dimension,
        "gradient_condition": of_gradient.condition,
        "gradient_effective": of_gradient.effective,
        "gradient_stable_rank": of_gradient.stable_rank,
        "gradient_dimension": min(matrix.shape),
    }


def _square_of_image(hessian: HessianProduct, generator: torch.Generator) -> float:
    """‖Hv‖² of one Gaussian vector."""
    vector = torch.randn(hessian.dimension, generator=generator, dtype=torch.float64)
    return float(hessian(vector).square().sum())


def _rounded(value: float) -> float:
    """Six digits, which keeps a file of records small."""
    return float(f"{value:.6g}")
