"""What every objective over matrices offers, and the checks of data and points that they share."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from polargrad.errors import PolarGradError
from polargrad.geometry.hessian_spectrum import HessianSpectrum, lanczos

__all__ = [
    "ConvexProblem",
    "OptimumError",
    "Problem",
    "SingleMatrixProblem",
    "check_alike",
    "check_matrix",
]

# Lanczos finds the largest eigenvalue to many digits in fewer products; the smallest needs more.
CURVATURE_STEPS = 100


class OptimumError(PolarGradError):
    """The optimum of a problem is unknown, was not reached, or does not exist."""


class Problem(abc.ABC):
    r"""An objective f over one or several matrices, its unknowns.

    Values and derivatives are computed in the dtype of the data, by closed formulas; ``objective``
    can be differentiated by autograd as well. Optimum, gap and curvature are float64 quantities of
    the same data, whatever their dtype.

    A subclass states its data, ``shapes``, ``dtype``, ``device``, ``objective``, ``gradients``,
    ``hessian_vectors``, ``optimum`` and ``to``. Its methods name the unknowns: ``objective(X, Y)``.
    """

    names: ClassVar[tuple[str, ...]] = ("X", "Y")
    """What the unknowns are called, in their order."""

    @property
    @abc.abstractmethod
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """The shape of each unknown."""

    @property
    @abc.abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of the data, in which values and derivatives are computed."""

    @property
    @abc.abstractmethod
    def device(self) -> torch.device:
        """Where the data are."""

    # An override of (*Any, **Any) may have any arguments: each problem names its own unknowns.
    @abc.abstractmethod
    def objective(self, *unknowns: Any, **named: Any) -> Tensor:
        """Return f as a tensor without dimensions, in the dtype of the data."""

    @abc.abstractmethod
    def gradients(self, *unknowns: Any, **named: Any) -> tuple[Tensor, ...]:
        """Return the partial gradients, one of the shape of each unknown."""

    @abc.abstractmethod
    def hessian_vectors(
        self, unknowns: Sequence[Tensor], along: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Return the Hessian at ``unknowns`` times the direction ``along``, one part an unknown."""

    def hessian_at(
        self, unknowns: Sequence[Tensor]
    ) -> Callable[[Sequence[Tensor]], tuple[Tensor, ...]]:
        """Return the Hessian at a point, as a function of the direction it is multiplied with.

        For many products at one point: a problem that can do a part of the work once overrides it.
        """
        return lambda along: self.hessian_vectors(unknowns, along)

    @property
    @abc.abstractmethod
    def optimum(self) -> float:
        """f*, the least value of f, in float64.

        Raises:
            OptimumError: if it is not known, or not attained.
        """

    @abc.abstractmethod
    def to(self, dtype: torch.dtype) -> Self:
        """Return the same problem with its data in ``dtype``, float32 or float64."""

    @cached_property
    def in_double(self) -> Self:
        """The same problem with its data in float64; itself if they are."""
        return self if self.dtype == torch.float64 else self.to(torch.float64)

    def gap(self, *unknowns: Any, **named: Any) -> float:
        """Return f - f* in float64, for unknowns of any real floating dtype.

        Here it is the difference of the two, good to a few roundings of f*. Problems whose
        structure allows more override it.
        """
        points = self.checked(unknowns, any_dtype=True)
        value = self.in_double.objective(*(point.double() for point in points))
        return float(value) - self.optimum

    def curvature(
        self, *unknowns: Any, steps: int = CURVATURE_STEPS, generator: torch.Generator | None = None
    ) -> HessianSpectrum:
        """Return the extreme eigenvalues of the Hessian at a point, by Lanczos in float64.

        Both lie inside the spectrum: look at ``smallest_error`` before you believe the smallest.

        Args:
            unknowns: the point, of any real floating dtype.
            steps: how many products with the Hessian to make, at most as many as there are numbers
                in the unknowns.
            generator: draws the first vector; a fixed one if it is not given.
        """
        points = [point.double() for point in self.checked(unknowns, any_dtype=True)]
        sizes = [math.prod(shape) for shape in self.shapes]
        hessian = self.in_double.hessian_at(points)

        def product(vector: Tensor) -> Tensor:
            parts = zip(torch.split(vector, sizes), self.shapes, strict=True)
            along = [part.reshape(shape) for part, shape in parts]
            return torch.cat([image.reshape(-1) for image in hessian(along)])

        if generator is None:
            generator = torch.Generator().manual_seed(0)
        dimension = sum(sizes)
        return lanczos(product, dimension, min(steps, dimension), generator, device=self.device)

    def checked(self, unknowns: Sequence[Tensor], *, any_dtype: bool = False) -> tuple[Tensor, ...]:
        """Return the unknowns if they are a point of this problem.

        Args:
            unknowns: as many matrices as the problem has unknowns.
            any_dtype: whether another dtype than that of the data is allowed.

        Raises:
            TypeError: for another number of unknowns.
            ValueError: for an unknown of another shape or dtype.
        """
        names = self.names[: len(self.shapes)]
        if len(unknowns) != len(self.shapes):
            raise TypeError(
                f"this problem has {len(names)} unknowns ({', '.join(names)}), got {len(unknowns)}"
            )
        for name, unknown, shape in zip(names, unknowns, self.shapes, strict=True):
            if tuple(unknown.shape) != shape:
                raise ValueError(
                    f"{name} has shape {tuple(unknown.shape)}, but this problem needs {shape}"
                )
            if not any_dtype and unknown.dtype != self.dtype:
                raise ValueError(
                    f"{name} has dtype {unknown.dtype}, but the data have {self.dtype}: "
                    f"convert {name}, or the problem with to()"
                )
        return tuple(unknowns)


class SingleMatrixProblem(Problem):
    """A problem with one unknown X: ``shape``, ``gradient(X)`` and ``hessian_vector(X, V)``."""

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """The shape m × n of X."""

    @abc.abstractmethod
    def gradient(self, X: Tensor) -> Tensor:
        """Return ∇f(X), m × n, in the dtype of the data."""

    @abc.abstractmethod
    def hessian_vector(self, X: Tensor, V: Tensor) -> Tensor:
        """Return ∇²f(X)[V], m × n, for a direction V of the shape of X."""

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """The shape of X, alone."""
        return (self.shape,)

    def gradients(self, X: Tensor) -> tuple[Tensor, ...]:
        """Return ∇f(X), alone."""
        return (self.gradient(X),)

    def hessian_vectors(
        self, unknowns: Sequence[Tensor], along: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Return ∇²f(X)[V], alone."""
        (X,), (V,) = self.checked(unknowns), self.checked(along)
        return (self.hessian_vector(X, V),)


class ConvexProblem(SingleMatrixProblem):
    r"""A convex problem with one unknown, with the constants of its theory.

    .. math:: \mu \|V\|_F^2 \le \langle V, \nabla^2 f(X)[V]\rangle \le L \|V\|_F^2
              \quad\text{for all } X \text{ and } V, \qquad \kappa_H = L / \mu
    """

    @property
    @abc.abstractmethod
    def smoothness(self) -> float:
        """L, a Lipschitz constant of the gradient, in float64."""

    @property
    @abc.abstractmethod
    def strong_convexity(self) -> float:
        """μ, a constant of strong convexity that holds everywhere; 0 if there is none."""

    @property
    def condition_number(self) -> float:
        """κ_H = L / μ; infinite where μ is 0."""
        mu = self.strong_convexity
        return self.smoothness / mu if mu > 0 else math.inf

    @abc.abstractmethod
    def solution(self) -> Tensor:
        """Return a minimiser, m × n in float64; it may be changed freely.

        Raises:
            OptimumError: if there is none, or it was not reached.
        """


def check_matrix(name: str, matrix: object) -> None:
    """Raise unless ``matrix`` is a finite, non-empty float32 or float64 matrix.

    Raises:
        TypeError: if it is not a tensor.
        ValueError: otherwise.
    """
    if not isinstance(matrix, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(matrix).__name__}")
    if matrix.ndim != 2 or matrix.numel() == 0:
        raise ValueError(f"{name} must be a non-empty matrix, got shape {tuple(matrix.shape)}")
    if matrix.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name} must be float32 or float64, got {matrix.dtype}")
    if not matrix.isfinite().all():
        raise ValueError(f"{name} must be finite, got an infinite or undefined entry")


def check_alike(**matrices: Tensor) -> None:
    """Raise unless all have the dtype and the device of the first.

    Raises:
        ValueError: naming the one that differs.
    """
    (first, reference), *others = matrices.items()
    count = {2: "both", 3: "all three"}.get(len(matrices), "all")
    for name, matrix in others:
        if matrix.dtype != reference.dtype:
            raise ValueError(
                f"{name} has dtype {matrix.dtype}, but {first} has {reference.dtype}: "
                f"give {count} the same"
            )
        if matrix.device != reference.device:
            raise ValueError(
                f"{name} is on {matrix.device}, but {first} is on {reference.device}: "
                f"put {count} on one device"
            )
