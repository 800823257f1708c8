"""Matrix sign descent: Muon without momentum, the baseline of the analysis."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from polargrad.optim.common_options import PolarOptions, point
from polargrad.optim.engine import MatrixOptimizer

__all__ = ["MatrixSignDescent"]


class MatrixSignDescent(MatrixOptimizer):
    r"""Matrix sign descent: the polar factor of the gradient, and nothing of its size.

    .. math:: U_k H_k = \operatorname{polar}(G_k), \qquad
              X_{k+1} = (1-\gamma\lambda) X_k - \gamma U_k

    Its step has the spectral norm γ whatever the gradient: with a constant γ it cannot settle, and
    reaches a plateau instead of the minimum (theorem 3 of the paper's analysis). With momentum it
    is Muon without a factor of the shape.

    Args:
        params: parameters or groups, best from :func:`polargrad.param_groups`.
        lr: γ, the spectral norm of a step.
        momentum: β in [0, 1).
        weight_decay: λ.
        **options: ``method``, ``tol``, and what every optimizer here takes
            (:class:`MatrixOptimizer`).

    Raises:
        ValueError, TypeError, NonFiniteError: as :class:`polargrad.optim.MatrixOptimizer`.

    Example:
        >>> import torch
        >>> X = torch.nn.Parameter(torch.diag(torch.tensor([3.0, -1.0])))
        >>> optimizer = MatrixSignDescent([X], lr=0.5, method="svd")
        >>> X.square().sum().backward()
        >>> optimizer.step()
        >>> X.detach().diag()
        tensor([ 2.5000, -0.5000])

    Source: arXiv 2505.21799, section 4.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        **options: Unpack[PolarOptions],
    ) -> None:
        super().__init__(
            params,
            lr,
            **point(
                self,
                PolarOptions,
                options,
                magnitude="unit",
                momentum=momentum,
                weight_decay=weight_decay,
            ),
        )
