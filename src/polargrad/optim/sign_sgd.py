"""Sign descent: steepest descent in the largest entry."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from polargrad.optim.common_options import EngineOptions, point
from polargrad.optim.engine import MatrixOptimizer

__all__ = ["SignSGD"]


class SignSGD(MatrixOptimizer):
    r"""signSGD, with momentum Signum: normalised steepest descent in the largest entry.

    .. math:: M_k = \beta M_{k-1} + (1-\beta) G_k, \qquad
              X_{k+1} = (1-\gamma\lambda) X_k - \gamma\, a \operatorname{sgn}(M_k)

    with a = 1; with ``scaled=True`` :math:`a = \sum_{ij} |M_{ij}|`, the dual norm, which is
    steepest descent proper. Every entry moves by the same amount: Adam with both betas 0.

    Args:
        params: parameters or groups, best from :func:`polargrad.param_groups`.
        lr: γ; the RMS of a step, unless ``scaled``.
        momentum: β in [0, 1).
        scaled: multiply by the dual norm.
        weight_decay: λ.
        **options: what every optimizer here takes (:class:`MatrixOptimizer`).

    Raises:
        ValueError, TypeError, NonFiniteError: as :class:`polargrad.optim.MatrixOptimizer`.

    Example:
        >>> import torch
        >>> X = torch.nn.Parameter(torch.tensor([[3.0, -2.0], [0.0, 1.0]]))
        >>> optimizer = SignSGD([X], lr=0.5)
        >>> X.square().sum().backward()
        >>> optimizer.step()
        >>> X.detach()
        tensor([[ 2.5000, -1.5000],
                [ 0.0000,  0.5000]])

    Source: J. Bernstein et al., arXiv 1802.04434; arXiv 2505.21799, section 3.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None,
        *,
        momentum: float = 0.0,
        scaled: bool = False,
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
                geometry="max_entry",
                magnitude="dual_norm" if scaled else "unit",
                momentum=momentum,
                weight_decay=weight_decay,
            ),
        )
