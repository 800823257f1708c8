"""Matrix sensing: a matrix of low rank from inner products with given matrices."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from polargrad.problems.factored import (
    FactoredProblem,
    check_known_optimum,
    check_rank,
    required_optimum,
)
from polargrad.problems.problem import check_alike

__all__ = ["MatrixSensing"]


@dataclass(frozen=True, eq=False, repr=False)
class MatrixSensing(FactoredProblem):
    r"""Least squares in two factors from k linear measurements of their product.

    .. math:: f(X, Y) = \frac1{2k}\sum_{i=1}^k \bigl(\langle A_i, X Y^{\mathsf T}\rangle
              - y_i\bigr)^2, \qquad \nabla_X f = G Y, \quad \nabla_Y f = G^{\mathsf T} X,
              \qquad G = \frac1k\sum_{i=1}^k \bigl(\langle A_i, X Y^{\mathsf T}\rangle - y_i\bigr)
              A_i

    Not provided: the restricted isometry constant of the measurements, on which theorems on the
    convergence of factored methods rest; it is NP-hard to compute. f* is known only where it is
    given as ``known_optimum``; :meth:`random` without noise states 0.

    Cost: about 4 k m n flops a gradient; the measurements are stored densely.

    Args:
        measurements: the A_i, k × m × n, float32 or float64.
        values: the y_i, of length k, of the dtype and on the device of ``measurements``.
        rank: r, the number of columns of X and Y, from 1 to min(m, n).
        known_optimum: f*, if it is known, such as 0 for consistent measurements.

    Raises:
        TypeError: if the data are not tensors or ``rank`` is not an integer.
        ValueError: if the data are not finite, or shapes, dtypes, devices or numbers are not as
            stated.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> problem = MatrixSensing.random(4, 3, 1, 20, generator)
        >>> problem.optimum
        0.0

    Source: B. Recht, M. Fazel and P. A. Parrilo, *Guaranteed minimum-rank solutions of linear
    matrix equations via nuclear norm minimization*, SIAM Review 52 (2010).
    """

    measurements: Tensor
    values: Tensor
    rank: int
    known_optimum: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        for name, ndim, kind in (("measurements", 3, "stack k × m × n"), ("values", 1, "vector")):
            data = getattr(self, name)
            if not isinstance(data, Tensor):
                raise TypeError(f"{name} must be a tensor, got {type(data).__name__}")
            if data.ndim != ndim or data.numel() == 0:
                raise ValueError(
                    f"{name} must be a non-empty {kind}, got shape {tuple(data.shape)}"
                )
            if data.dtype not in (torch.float32, torch.float64):
                raise ValueError(f"{name} must be float32 or float64, got {data.dtype}")
            if not data.isfinite().all():
                raise ValueError(f"{name} must be finite, got an infinite or undefined entry")
        check_alike(measurements=self.measurements, values=self.values)
        k, m, n = self.measurements.shape
        if len(self.values) != k:
            raise ValueError(
                f"values has length {len(self.values)}, but there are {k} measurements"
            )
        check_rank(self.rank, m, n)
        check_known_optimum(self.known_optimum)

    @classmethod
    def random(
        cls,
        m: int,
        n: int,
        rank: int,
        k: int,
        generator: torch.Generator | None = None,
        *,
        noise: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> MatrixSensing:
        """Draw Gaussian measurements of U Vᵀ: the A_i, U, V, then the noise, all standard Gaussian.

        Without noise f* is known to be 0, up to the rounding of the values in ``dtype``.

        Args:
            m: rows of X.
            n: rows of Y.
            rank: of U Vᵀ, and the number of columns of X and Y.
            k: how many measurements, at least 1.
            generator: where the numbers come from; torch's global one if it is not given.
            noise: the standard deviation of Gaussian noise in the values, at least 0.
            dtype: float32 or float64.

        Raises:
            TypeError: if ``rank`` is not an integer.
            ValueError: for a number outside its range.
        """
        check_rank(rank, m, n)
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        if not 0 <= noise < math.inf:
            raise ValueError(f"noise must be finite and at least 0, got {noise}")
        shapes = ((k, m, n), (m, rank), (n, rank))
        A, U, V = (torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes)
        values = A.flatten(1) @ (U @ V.mT).flatten()
        if noise:
            values = values + noise * torch.randn(k, generator=generator, dtype=dtype)
        return cls(A, values, rank, known_optimum=None if noise else 0.0)

    def __repr__(self) -> str:
        k, m, n = self.measurements.shape
        return f"MatrixSensing(m={m}, n={n}, rank={self.rank}, k={k}, dtype={self.dtype})"

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """The shapes m × r of X and n × r of Y."""
        _, m, n = self.measurements.shape
        return ((m, self.rank), (n, self.rank))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the measurements."""
        return self.measurements.dtype

    @property
    def device(self) -> torch.device:
        """Where the measurements are."""
        return self.measurements.device

    def to(self, dtype: torch.dtype) -> MatrixSensing:
        """Return the same problem with its data in ``dtype``, float32 or float64."""
        measurements, values = self.measurements.to(dtype), self.values.to(dtype)
        return dataclasses.replace(self, measurements=measurements, values=values)

    def measure(self, Z: Tensor) -> Tensor:
        """Return the inner products of Z, m × n, with the k measurements."""
        return self.measurements.flatten(1) @ Z.flatten()

    def adjoint(self, z: Tensor) -> Tensor:
        """Return Σ zᵢ Aᵢ, m × n, for z of length k."""
        return (z @ self.measurements.flatten(1)).reshape(self.measurements.shape[1:])

    def loss(self, Z: Tensor) -> Tensor:
        """Return ½ ‖measure(Z) - y‖² / k."""
        return 0.5 * (self.measure(Z) - self.values).square().mean()

    def loss_gradient(self, Z: Tensor) -> Tensor:
        """Return adjoint(measure(Z) - y) / k, m × n."""
        return self.adjoint((self.measure(Z) - self.values) / len(self.values))

    def loss_hessian_vector(self, Z: Tensor, V: Tensor) -> Tensor:
        """Return adjoint(measure(V)) / k, m × n, whatever Z is."""
        return self.adjoint(self.measure(V) / len(self.values))

    @cached_property
    def loss_smoothness(self) -> float:
        """The largest eigenvalue of adjoint ∘ measure / k, in float64."""
        matrix = self.measurements.double().flatten(1)
        return float(torch.linalg.matrix_norm(matrix, ord=2)) ** 2 / len(matrix)

    @property
    def optimum(self) -> float:
        """f*, in float64, where it was stated as known.

        Raises:
            OptimumError: if it was not.
        """
        return required_optimum(self.known_optimum, "matrix sensing has no closed form")
