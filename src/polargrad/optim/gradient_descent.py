"""Gradient descent, in the frame: steepest descent in the Frobenius norm."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from polargrad.optim.common_options import EngineOptions, point
from polargrad.optim.engine import MatrixOptimizer

__all__ = ["GradientDescent"]


class GradientDescent(MatrixOptimizer):
    r"""Gradient descent: steepest descent in the Frobenius norm, where nothing is preconditioned.

    .. math:: M_k = \beta M_{k-1} + (1-\beta) G_k, \qquad
              X_{k+1} = (1-\gamma\lambda) X_k - \gamma M_k

    The baseline of every comparison in this package. ``torch.optim.SGD`` has momentum without the
    factor 1 − β: that is ``momentum_form="heavy-ball"``. What is not a matrix still takes AdamW.

    Args:
        params: parameters or groups, best from :func:`polargrad.param_groups`.
        lr: γ, in the unit of 1/curvature.
        momentum: β in [0, 1).
        momentum_form: ``"ema"`` or ``"heavy-ball"``.
        nesterov: use βM + (1 − β)G (heavy-ball: βM + G) in the place of M; a number a in (0, 1)
            for (1 − a)M + aG.
        weight_decay: λ.
        **options: what every optimizer here takes (:class:`MatrixOptimizer`).

    Raises:
        ValueError, TypeError, NonFiniteError: as :class:`polargrad.optim.MatrixOptimizer`.

    Example:
        >>> import torch
        >>> X = torch.nn.Parameter(torch.eye(2))
        >>> optimizer = GradientDescent([X], lr=0.25)
        >>> X.square().sum().backward()
        >>> optimizer.step()
        >>> X.detach().diag()
        tensor([0.5000, 0.5000])

    Source: A. Cauchy (1847); arXiv 2505.21799, section 3.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None,
        *,
        momentum: float = 0.0,
        momentum_form: str = "ema",
        nesterov: bool | float = False,
        weight_decay: float = 0.0,
        **options: Unpack[EngineOptions],
    ) -> None:
        super().__init__(
            params,
            lr,
            **point(
                self,
                EngineOptions,
                options,
                geometry="frobenius",
                magnitude="dual_norm",
                momentum=momentum,
                momentum_form=momentum_form,
                nesterov=nesterov,
                weight_decay=weight_decay,
            ),
        )
