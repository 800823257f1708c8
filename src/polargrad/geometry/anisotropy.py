r"""How anisotropic a matrix is: the condition number and three ranks of the spectrum.

With :math:`\sigma_1 \ge \sigma_2 \ge \dots` the singular values of G, not all zero,

.. math:: 1 \;\le\; \frac{\|G\|_F^2}{\|G\|_2^2} \;\le\; \frac{\|G\|_*^2}{\|G\|_F^2}
          \;\le\; \exp\Bigl(-\sum_i p_i \log p_i\Bigr) \;\le\; \operatorname{rank} G,
          \qquad p_i = \frac{\sigma_i}{\sum_j \sigma_j},

the stable, the nuclear and the effective rank: the last two are exponentials of Rényi entropies of
p, of order 2 and 1. All are equal to the rank exactly if the nonzero singular values are equal, as
those of a polar factor are.

Everything is worked on in float64 (complex128), from one singular value decomposition, so that the
numbers are those of the matrix as it is stored. A zero or an empty matrix has the condition number
1 (no two nonzero singular values differ) and the ranks 0; a matrix that is not finite has NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from polargrad.linalg.precision import double_dtype, rank_cutoff, working_dtype
from polargrad.linalg.preparation import check_matrix
from polargrad.linalg.scaling import scale_by_power_of_two

__all__ = [
    "Anisotropy",
    "anisotropy",
    "condition_number",
    "effective_rank",
    "nuclear_rank",
    "stable_rank",
]


class Anisotropy(NamedTuple):
    """The measures of this module, for each matrix of a stack: float64, shape ``G.shape[:-2]``.

    Attributes:
        condition_number: largest over smallest nonzero singular value.
        effective_rank: exponential of the entropy of the singular values.
        stable_rank: squared Frobenius over squared spectral norm.
        nuclear_rank: squared nuclear over squared Frobenius norm.
    """

    condition_number: Tensor
    effective_rank: Tensor
    stable_rank: Tensor
    nuclear_rank: Tensor


def anisotropy(G: Tensor) -> Anisotropy:
    r"""Return all measures of this module from one singular value decomposition.

    Args:
        G: shape (..., m, n), any floating-point or complex dtype.

    Raises:
        TypeError: if G is not such a tensor.
        ValueError: if G has fewer than two dimensions.

    Example:
        >>> measures = anisotropy(torch.diag(torch.tensor([3.0, 3.0, 0.0])))
        >>> [round(float(value), 6) for value in measures]
        [1.0, 2.0, 2.0, 2.0]

    Source: arXiv 2505.21799, section 3, for :math:`\kappa_2`; the ranks as in their own functions.
    """
    relative = _relative_singular_values(G)
    return Anisotropy(
        _condition_number(relative, _cutoff(G)),
        _effective_rank(relative),
        _stable_rank(relative),
        _nuclear_rank(relative),
    )


def condition_number(G: Tensor) -> Tensor:
    r"""Return the ratio of the largest to the smallest nonzero singular value of each matrix.

    .. math:: \kappa_2(G) = \sigma_1 / \sigma_r, \qquad
              r = \#\{i : \sigma_i > \tau\,\sigma_1\}, \quad \tau = \sqrt{\min(m, n)}\;\epsilon

    τ is the cutoff of :func:`polargrad.polar`, with eps of the dtype of G, of float32 for half
    precision: singular values below it are rounding of the entries. So the canonical partial
    isometry of a rank-deficient matrix has the condition number 1.

    Args:
        G: shape (..., m, n), any floating-point or complex dtype.

    Raises:
        TypeError, ValueError: as :func:`anisotropy`.

    Example:
        >>> condition_number(torch.diag(torch.tensor([8.0, 2.0, 0.0])))
        tensor(4., dtype=torch.float64)

    Source: arXiv 2505.21799, section 3, with the smallest *nonzero* singular value.
    """
    return _condition_number(_relative_singular_values(G), _cutoff(G))


def effective_rank(G: Tensor) -> Tensor:
    r"""Return the exponential of the entropy of the normalised singular values of each matrix.

    .. math:: \exp\Bigl(-\sum_i p_i \log p_i\Bigr), \qquad p_i = \sigma_i / \sum_j \sigma_j

    Args:
        G: shape (..., m, n), any floating-point or complex dtype.

    Raises:
        TypeError, ValueError: as :func:`anisotropy`.

    Example:
        >>> print(f"{effective_rank(torch.eye(4)):.3f}")
        4.000

    Source: O. Roy and M. Vetterli, *The effective rank*, EUSIPCO 2007.
    """
    return _effective_rank(_relative_singular_values(G))


def stable_rank(G: Tensor) -> Tensor:
    r"""Return the squared Frobenius norm over the squared spectral norm of each matrix.

    .. math:: \|G\|_F^2 / \|G\|_2^2 = \sum_i \sigma_i^2 / \sigma_1^2

    Args:
        G: shape (..., m, n), any floating-point or complex dtype.

    Raises:
        TypeError, ValueError: as :func:`anisotropy`.

    Example:
        >>> stable_rank(torch.diag(torch.tensor([2.0, 1.0])))
        tensor(1.2500, dtype=torch.float64)

    Source: M. Rudelson and R. Vershynin, *Sampling from large matrices*, J. ACM 54 (2007).
    """
    return _stable_rank(_relative_singular_values(G))


def nuclear_rank(G: Tensor) -> Tensor:
    r"""Return the squared nuclear norm over the squared Frobenius norm of each matrix.

    .. math:: \|G\|_*^2 / \|G\|_F^2 = \bigl(\sum_i \sigma_i\bigr)^2 / \sum_i \sigma_i^2

    A spectral step lowers the loss by more than a gradient step, as far as one step's guarantee
    says, where this exceeds the stable rank of the layer's input activations.

    Args:
        G: shape (..., m, n), any floating-point or complex dtype.

    Raises:
        TypeError, ValueError: as :func:`anisotropy`.

    Example:
        >>> nuclear_rank(torch.diag(torch.tensor([2.0, 1.0])))
        tensor(1.8000, dtype=torch.float64)

    Source: D. Davis and D. Drusvyatskiy, arXiv 2512.04299, whose nuclear rank is this.
    """
    return _nuclear_rank(_relative_singular_values(G))


def _relative_singular_values(G: Tensor) -> Tensor:
    """σᵢ/σ₁, (..., min(m, n)) in float64: zero for a zero matrix, NaN where G is not finite."""
    check_matrix(G, "G")
    wide = G.detach().to(double_dtype(G.dtype))
    if wide.numel() == 0:
        return torch.zeros(*G.shape[:-2], 1, dtype=torch.float64, device=G.device)
    finite = torch.isfinite(wide).flatten(start_dim=-2).all(dim=-1)[..., None]
    scaled, _ = scale_by_power_of_two(torch.where(finite[..., None], wide, 0.0))
    sigma = torch.linalg.svdvals(scaled)
    largest = sigma[..., :1]
    relative = torch.where(largest > 0, sigma / torch.where(largest > 0, largest, 1.0), 0.0)
    return torch.where(finite, relative, torch.nan)


def _cutoff(G: Tensor) -> float:
    return rank_cutoff(min(G.shape[-2:]), working_dtype(G.dtype))


def _condition_number(relative: Tensor, cutoff: float) -> Tensor:
    """1/σᵣ of relative singular values; 1 where there is none."""
    counted = torch.where(relative > cutoff, relative, 1.0).amin(dim=-1)
    return torch.where(relative[..., 0].isnan(), torch.nan, 1.0 / counted)


def _effective_rank(relative: Tensor) -> Tensor:
    total = relative.sum(dim=-1, keepdim=True)
    share = relative / torch.where(total == 0, 1.0, total)
    # σ₁/σ₁ is 1, and 0 for a zero matrix.
    entropy: Tensor = torch.special.entr(share).sum(dim=-1)
    return entropy.exp() * relative[..., 0]


def _stable_rank(relative: Tensor) -> Tensor:
    return relative.square().sum(dim=-1)


def _nuclear_rank(relative: Tensor) -> Tensor:
    squares = relative.square().sum(dim=-1)
    return relative.sum(dim=-1).square() / torch.where(squares == 0, 1.0, squares)
