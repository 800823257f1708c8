"""Losses of the observed entries of a matrix: what the completion problems share."""

from __future__ import annotations

import abc
import dataclasses
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from polargrad.errors import PolarGradError
from polargrad.problems.factored import (
    FactoredProblem,
    check_known_optimum,
    check_rank,
    required_optimum,
)
from polargrad.problems.problem import check_alike

__all__ = ["ObservedEntries", "draw_low_rank"]


@dataclass(frozen=True, eq=False, repr=False)
class ObservedEntries(FactoredProblem):
    r"""The mean loss of the observed entries of a matrix, in two factors.

    .. math:: f(X, Y) = \frac1{|\Omega|} \sum_{(i,j)\in\Omega} W_{ij}\,
              \rho\bigl((X Y^{\mathsf T} - M)_{ij}\bigr)

    A subclass states ρ and its two derivatives.

    Args:
        M: m × n, float32 or float64. Only observed entries are read in f; others may be NaN.
        mask: m × n of bool, or of zeros and ones: where M is observed. None: where it is not NaN.
            Rows and columns without an observed entry are allowed; f does not depend on theirs.
        rank: r, the number of columns of X and Y, from 1 to min(m, n).
        weights: W, m × n, finite and not negative, of the dtype of ``M``; None for ones.
        known_optimum: f*, if it is known, such as 0 for exact data.

    Raises:
        TypeError: if one of the matrices is not a tensor or ``rank`` not an integer.
        ValueError: if M is not finite where it is observed, if nothing is observed, or if shapes,
            dtypes, devices or numbers are not as stated.
    """

    M: Tensor
    mask: Tensor | None
    rank: int
    weights: Tensor | None = field(default=None, kw_only=True)
    known_optimum: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        _check_shape("M", self.M)
        for name in ("mask", "weights"):
            if getattr(self, name) is not None:
                _check_shape(name, getattr(self, name), tuple(self.M.shape))
        if self.M.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"M must be float32 or float64, got {self.M.dtype}")
        if self.mask is not None:
            _check_mask(self.mask, self.M.device)
        check_rank(self.rank, *self.M.shape)
        check_known_optimum(self.known_optimum)
        if not self.observed.any():
            raise ValueError("M must have at least one observed entry, got none")
        self._check_finite()
        if self.weights is not None:
            check_alike(M=self.M, weights=self.weights)
            if not (self.weights.isfinite() & (self.weights >= 0)).all():
                raise ValueError("weights must be finite and at least 0, got an entry that is not")
            if not self.entry_weights.any():
                raise ValueError("weights must be above 0 on an observed entry, got zeros on all")

    def _check_finite(self) -> None:
        wrong = (self.fitted & ~self.M.isfinite()).nonzero()
        if len(wrong):
            i, j = wrong[0].tolist()
            raise ValueError(
                f"M must be finite in every entry that is fitted, got {self.M[i, j].item()} "
                f"at row {i}, column {j}"
            )

    def __repr__(self) -> str:
        m, n = self.M.shape
        return (
            f"{type(self).__name__}(m={m}, n={n}, rank={self.rank}, observed={self.count}, "
            f"dtype={self.dtype})"
        )

    @abc.abstractmethod
    def penalty(self, R: Tensor) -> Tensor:
        """Return ρ of each residual."""

    @abc.abstractmethod
    def penalty_slope(self, R: Tensor) -> Tensor:
        """Return ρ' of each residual."""

    @abc.abstractmethod
    def penalty_curvature(self, R: Tensor) -> Tensor:
        """Return ρ'' of each residual."""

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """The shapes m × r of X and n × r of Y."""
        m, n = self.M.shape
        return ((m, self.rank), (n, self.rank))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of M."""
        return self.M.dtype

    @property
    def device(self) -> torch.device:
        """Where M is."""
        return self.M.device

    def to(self, dtype: torch.dtype) -> Self:
        """Return the same problem with its data in ``dtype``, float32 or float64."""
        weights = None if self.weights is None else self.weights.to(dtype)
        return dataclasses.replace(self, M=self.M.to(dtype), weights=weights)

    @cached_property
    def observed(self) -> Tensor:
        """Ω as a bool matrix, m × n."""
        return ~self.M.isnan() if self.mask is None else self.mask.bool()

    @property
    def fitted(self) -> Tensor:
        """Where f reads M, a bool matrix, m × n: the observed entries."""
        return self.observed

    @cached_property
    def count(self) -> int:
        """|Ω|, the number of observed entries."""
        return int(self.observed.sum())

    @cached_property
    def entry_weights(self) -> Tensor:
        """The weight of each entry in f, m × n, in the dtype of M: 0 where it is not fitted."""
        fitted = self.fitted.to(self.dtype)
        return fitted if self.weights is None else fitted * self.weights

    @cached_property
    def filled(self) -> Tensor:
        """M with 0 in place of what is not fitted."""
        return torch.where(self.fitted, self.M, 0.0)

    @cached_property
    def _mean_weights(self) -> Tensor:
        return self.entry_weights / self.count

    def loss(self, Z: Tensor) -> Tensor:
        """Return the mean loss of a matrix Z, m × n, in place of X Yᵀ."""
        return (self.entry_weights * self.penalty(Z - self.filled)).sum() / self.count

    def loss_gradient(self, Z: Tensor) -> Tensor:
        """Return its gradient W∘ρ'(Z - M)/|Ω|, m × n, zero where M is not fitted."""
        return self._mean_weights * self.penalty_slope(Z - self.filled)

    def loss_hessian_vector(self, Z: Tensor, V: Tensor) -> Tensor:
        """Return W∘ρ''(Z - M)∘V/|Ω|, m × n."""
        return self._mean_weights * self.penalty_curvature(Z - self.filled) * V

    @cached_property
    def optimum(self) -> float:
        """f*, in float64: 0 where the rank is min(m, n), or what was stated as known.

        Raises:
            OptimumError: if it is neither; completion has no closed form in general.
        """
        if self.rank == min(self.M.shape):
            return 0.0  # X Yᵀ can be any matrix
        return required_optimum(self.known_optimum, "matrix completion has no closed form")

    @property
    def _known(self) -> Tensor:
        """Where M holds a number, whether it is observed or not."""
        return self.M.isfinite()

    def observed_error(self, X: Tensor, Y: Tensor) -> float:
        """Return the mean of (X Yᵀ - M)² over the observed entries, unweighted, in float64."""
        return self._mean_square(self.observed, X, Y)

    def unobserved_error(self, X: Tensor, Y: Tensor) -> float:
        """Return the mean of (X Yᵀ - M)² over the other entries of which M is known, in float64.

        Raises:
            PolarGradError: if there are none.
        """
        return self._mean_square(self._known & ~self.observed, X, Y)

    def full_error(self, X: Tensor, Y: Tensor) -> float:
        """Return the mean of (X Yᵀ - M)² over all entries, in float64.

        Raises:
            PolarGradError: if M is not known everywhere.
        """
        self._check_all_known()
        return self._mean_square(self._known, X, Y)

    def relative_error(self, X: Tensor, Y: Tensor) -> float:
        """Return ‖X Yᵀ - M‖_F / ‖M‖_F over all entries, in float64.

        Raises:
            PolarGradError: if M is not known everywhere, or is zero.
        """
        self._check_all_known()
        size = float(self.M.double().norm())
        if size == 0:
            raise PolarGradError("the relative error is undefined: M is zero")
        return math.sqrt(self._mean_square(self._known, X, Y) * self.M.numel()) / size

    def _mean_square(self, entries: Tensor, X: Tensor, Y: Tensor) -> float:
        X, Y = self.checked((X, Y), any_dtype=True)
        if not entries.any():
            raise PolarGradError("no entry of M is both unobserved and known: nothing to compare")
        residual = X.double() @ Y.double().mT - self.M.double()
        return float(residual[entries].square().mean())

    def _check_all_known(self) -> None:
        if not self._known.all():
            raise PolarGradError(
                "M is not known everywhere: compare with unobserved_error on a mask of held-out "
                "entries instead"
            )


def draw_low_rank(
    m: int,
    n: int,
    rank: int,
    fraction: float,
    generator: torch.Generator | None,
    noise: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Draw M = U Vᵀ + noise and a mask: U, V standard Gaussian, then the mask, then the noise.

    Args:
        m: rows of M.
        n: columns of M.
        rank: columns of U and V.
        fraction: the probability that an entry is observed, above 0 and at most 1.
        generator: where the numbers come from; torch's global one if it is not given.
        noise: the standard deviation of Gaussian noise in every entry, at least 0.
        dtype: float32 or float64.

    Raises:
        TypeError: if ``rank`` is not an integer.
        ValueError: for a number outside its range.
    """
    check_rank(rank, m, n)
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1, got {fraction}")
    if not 0 <= noise < math.inf:
        raise ValueError(f"noise must be finite and at least 0, got {noise}")
    U, V = (torch.randn(size, rank, generator=generator, dtype=dtype) for size in (m, n))
    mask = torch.rand(m, n, generator=generator, dtype=torch.float32) < fraction
    M = U @ V.mT
    if noise:
        M = M + noise * torch.randn(m, n, generator=generator, dtype=dtype)
    return M, mask


def _check_shape(name: str, matrix: object, shape: tuple[int, ...] | None = None) -> None:
    if not isinstance(matrix, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(matrix).__name__}")
    if matrix.ndim != 2 or matrix.numel() == 0:
        raise ValueError(f"{name} must be a non-empty matrix, got shape {tuple(matrix.shape)}")
    if shape is not None and tuple(matrix.shape) != shape:
        raise ValueError(
            f"{name} has shape {tuple(matrix.shape)}, but M has {shape}: give both the same"
        )


def _check_mask(mask: Tensor, device: torch.device) -> None:
    if mask.device != device:
        raise ValueError(f"mask is on {mask.device}, but M is on {device}: put both on one device")
    if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
        raise ValueError("mask must be of bool, or of zeros and ones, got another entry")
