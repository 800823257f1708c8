"""A diagonal preconditioner: Adam's second moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from polargrad.geometry.base import State, divided
from polargrad.geometry.checks import check_flag, check_number
from polargrad.geometry.preconditioner import Preconditioner
from polargrad.linalg.precision import double_dtype

__all__ = ["Diagonal", "root_mean_square"]


@dataclass(frozen=True)
class Diagonal(Preconditioner):
    r"""The norm of Adam: P is the root mean square of each entry of the gradient.

    .. math:: V \leftarrow \beta_2 V + (1 - \beta_2)\,G^{\circ 2}, \qquad
              P = \operatorname{diag}\Bigl(\sqrt{V/(1 - \beta_2^t)} + \varepsilon\Bigr), \qquad
              P^{-1}S = \frac{S}{\sqrt{V/(1 - \beta_2^t)} + \varepsilon}

    The dual norm times the direction is Adam's step, with S in the place of its first moment (which
    Adam divides by :math:`1 - \beta_1^t` before). With ε = 0 an entry whose gradients were all zero
    is not moved.

    ε has the unit of a gradient. For gradients far above it, it is lost in rounding; far below it,
    the step is S/ε: with ε = 1e-8 and gradients of 1e-30, 1e-22 instead of 1. The step does not
    depend on the unit of the gradient only for ε = 0.

    State: ``second_moment`` (B, m, n), float64, 8 bytes an entry; ``count`` (B,), int64. The whole
    range of float32 gradients has its squares in it. Real matrices.

    Args:
        beta2: β₂ in [0, 1).
        eps: ε, at least 0.
        bias_correction: divide V by :math:`1 - \beta_2^t`.

    Raises:
        ValueError: for a number outside its range.
        TypeError: for an option of another type.

    Example:
        >>> adam = Diagonal(eps=0.0)
        >>> G = torch.tensor([[[3.0, -4.0]]])
        >>> adam.sharp(G, adam.accumulate(adam.start(G), G))
        tensor([[[ 1.0000, -1.0000]]])

    Source: D. P. Kingma, J. Ba, *Adam* (2015), algorithm 1.
    """

    beta2: float = 0.999
    eps: float = 1e-8
    bias_correction: bool = True

    name: ClassVar[str] = "diagonal"
    accumulates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("beta2", self.beta2, below=1.0)
        check_number("eps", self.eps)
        check_flag("bias_correction", self.bias_correction)

    def start(self, example: Tensor) -> State:
        """Return V = 0 and t = 0."""
        dtype = double_dtype(example.dtype)
        return {
            "second_moment": torch.zeros_like(example, dtype=dtype),
            "count": torch.zeros(example.shape[0], dtype=torch.int64, device=example.device),
        }

    def accumulate(self, state: State, gradient: Tensor) -> State:
        """Return V averaged with the squares of the gradient, and t + 1."""
        second_moment, count = (
            self._known(gradient, state)[key] for key in ("second_moment", "count")
        )
        square = gradient.to(second_moment.dtype).square()
        return {
            "second_moment": torch.lerp(second_moment, square, 1.0 - self.beta2),
            "count": count + 1,
        }

    def _solve(self, S: Tensor, state: State) -> Tensor:
        return divided(S.to(double_dtype(S.dtype)), self._diagonal(state))

    def _apply(self, X: Tensor, state: State) -> Tensor:
        return X * self._diagonal(state)

    def _diagonal(self, state: State) -> Tensor:
        """The entries of P, in the dtype of the second moment."""
        beta2 = self.beta2 if self.bias_correction else None
        return root_mean_square(state["second_moment"], state["count"], beta2) + self.eps


def root_mean_square(second_moment: Tensor, count: Tensor, beta2: float | None) -> Tensor:
    """Return √(V/(1 − β₂ᵗ)), without the division for β₂ = None; 0 before the first square."""
    root = second_moment.sqrt()
    if beta2 is None:
        return root
    weight = torch.where(count > 0, 1.0 - beta2 ** count.to(torch.float64), 1.0)
    return root / weight.sqrt().to(root.dtype)[:, None, None]
