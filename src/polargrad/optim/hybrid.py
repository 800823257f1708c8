"""Hybrid PolarGrad: rows normalised before, or after, the polar factor."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from polargrad.optim.common_options import PolarOptions, point
from polargrad.optim.engine import MatrixOptimizer

__all__ = ["HybridPolarGrad"]

ORDERS = {"row_then_polar": "row_then_polar", "polar_then_row": "polar_then_row"}


class HybridPolarGrad(MatrixOptimizer):
    r"""Hybrid PolarGrad: two directions, one after the other.

    .. math::
       \begin{aligned}
         &\text{row\_then\_polar:} & W &= \operatorname{rows}(M), & U H &= \operatorname{polar}(W),
           & X &\leftarrow (1-\gamma\lambda)X - \gamma \langle W, U\rangle^\alpha\, U \\
         &\text{polar\_then\_row:} & U H &= \operatorname{polar}(M), & &
           & X &\leftarrow (1-\gamma\lambda)X - \gamma \langle M, U\rangle^\alpha
               \operatorname{rows}(U)
       \end{aligned}

    rows(M) has every row of M divided by its norm. The first does not depend on the gradient's
    scale; the second is of degree α in it. The published code of the second order divides its own
    scale away, so that α has no effect there; here it has.

    Args:
        params: parameters or groups, best from :func:`polargrad.param_groups`.
        lr: γ.
        hybrid: ``"row_then_polar"`` or ``"polar_then_row"``.
        exponent: α at least 0.
        centred: subtract the mean of the rows, before and after.
        momentum: β in [0, 1).
        weight_decay: λ; refused where γλ ≥ 0.1.
        **options: ``method``, ``tol``, and what every optimizer here takes
            (:class:`MatrixOptimizer`).

    Raises:
        ValueError, TypeError, NonFiniteError: as :class:`polargrad.optim.MatrixOptimizer`.

    Example:
        >>> import torch
        >>> X = torch.nn.Parameter(torch.diag(torch.tensor([3.0, 1.0])))
        >>> optimizer = HybridPolarGrad([X], lr=0.1, momentum=0.0, method="svd")
        >>> (0.5 * X.square().sum()).backward()
        >>> optimizer.step()  # the rows become those of the identity, of nuclear norm 2
        >>> X.detach().diag()
        tensor([2.8000, 0.8000])

    Source: T. T.-K. Lau, W. Su, arXiv 2605.18106.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None,
        *,
        hybrid: str = "row_then_polar",
        exponent: float = 1.0,
        centred: bool = False,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        **options: Unpack[PolarOptions],
    ) -> None:
        if hybrid not in ORDERS:
            raise ValueError(f"hybrid must be one of {', '.join(ORDERS)}, got {hybrid!r}")
        geometry = {"name": hybrid}
        super().__init__(
            params,
            lr,
            **point(
                self,
                PolarOptions,
                options,
                geometry={"name": "centred", "inner": geometry} if centred else geometry,
                magnitude="dual_norm",
                exponent=exponent,
                momentum=momentum,
                weight_decay=weight_decay,
            ),
        )
