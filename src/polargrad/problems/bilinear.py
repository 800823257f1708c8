"""What regressions on A X B share: their data, the checks of them, and the product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from polargrad.problems.problem import ConvexProblem, check_alike, check_matrix

__all__ = ["BilinearProblem", "product"]


@dataclass(frozen=True, eq=False, repr=False)
class BilinearProblem(ConvexProblem):
    """A convex function of the entries of A X B, each compared with one of C.

    Args:
        A: p × m, float32 or float64.
        B: n × q, of the dtype and on the device of ``A``.
        C: p × q, likewise.

    Raises:
        TypeError: if one of them is not a tensor.
        ValueError: if one of them is not a finite real matrix, or their shapes, dtypes or devices
            do not fit together.
    """

    A: Tensor
    B: Tensor
    C: Tensor

    def __post_init__(self) -> None:
        for name in ("A", "B", "C"):
            check_matrix(name, getattr(self, name))
        check_alike(A=self.A, B=self.B, C=self.C)
        wanted = (self.A.shape[0], self.B.shape[1])
        if tuple(self.C.shape) != wanted:
            raise ValueError(
                f"C has shape {tuple(self.C.shape)}, but A of shape {tuple(self.A.shape)} and B of "
                f"shape {tuple(self.B.shape)} need a C of shape {wanted}"
            )

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the data."""
        return self.A.dtype

    @property
    def device(self) -> torch.device:
        """Where the data are."""
        return self.A.device

    @property
    def shape(self) -> tuple[int, int]:
        """The shape m × n of X."""
        return (self.A.shape[1], self.B.shape[0])

    def to(self, dtype: torch.dtype) -> Self:
        """Return the same problem with its data in ``dtype``, float32 or float64."""
        return type(self)(*(data.to(dtype) for data in (self.A, self.B, self.C)))


def product(*matrices: Tensor) -> Tensor:
    """Return the product of matrices, associated in the order that costs least."""
    result: Tensor = torch.linalg.multi_dot(matrices)
    return result
