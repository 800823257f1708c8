"""Shampoo: the Kronecker-factored preconditioner of all gradients so far."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from polargrad.geometry import Kronecker, OneSidedKronecker
from polargrad.optim.common_options import EngineOptions, point
from polargrad.optim.engine import MatrixOptimizer

__all__ = ["Shampoo"]


class Shampoo(MatrixOptimizer):
    r"""Shampoo: steepest descent in a norm that the gradients' second moments make.

    .. math::
       L \leftarrow L + G G^{\mathsf T}, \quad R \leftarrow R + G^{\mathsf T} G, \qquad
       X \leftarrow (1-\gamma\lambda) X - \gamma\, L^{-1/4} M R^{-1/4}

    with M the momentum, or G without one; ``beta2`` makes the sums averages, and a ``side`` keeps
    one factor, with the power −1/2. Without accumulation the direction is the polar factor: Shampoo
    is the memory of PolarGrad's direction. The powers are taken at every step, by eigenvalues in
    float64: exact, and for matrices of up to about a thousand rows or columns.

    Args:
        params: parameters or groups, best from :func:`polargrad.param_groups`.
        lr: γ. With sums (``beta2=None``) the step shrinks like 1/√k, as AdaGrad's.
        beta2: decay of the averages L and R in (0, 1); None for sums.
        damping: added to each factor before its root, relative to its largest eigenvalue.
        side: None for both factors, ``"left"`` or ``"right"`` for one.
        momentum: β in [0, 1).
        bias_correction: divide the momentum by 1 − βᵗ.
        weight_decay: λ.
        **options: what every optimizer here takes (:class:`MatrixOptimizer`).

    Raises:
        ValueError, TypeError, NonFiniteError: as :class:`polargrad.optim.MatrixOptimizer`.

    Example:
        >>> import torch
        >>> X = torch.nn.Parameter(torch.diag(torch.tensor([3.0, 1.0])))
        >>> optimizer = Shampoo([X], lr=0.1)
        >>> X.square().sum().backward()
        >>> optimizer.step()  # at the first step that of matrix sign descent
        >>> X.detach().diag()
        tensor([2.9000, 0.9000])

    Source: V. Gupta, T. Koren, Y. Singer, arXiv 1802.09568.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None,
        *,
        beta2: float | None = None,
        damping: float = 0.0,
        side: str | None = None,
        momentum: float = 0.0,
        bias_correction: bool = False,
        weight_decay: float = 0.0,
        **options: Unpack[EngineOptions],
    ) -> None:
        if side not in (None, "left", "right"):
            raise ValueError(f"side must be None, 'left' or 'right', got {side!r}")
        geometry = (
            Kronecker(beta=beta2, damping=damping)
            if side is None
            else OneSidedKronecker(side=side, beta=beta2, damping=damping)  # type: ignore[arg-type]
        )
        super().__init__(
            params,
            lr,
            **point(
                self,
                EngineOptions,
                options,
                geometry=geometry,
                magnitude="dual_norm",
                momentum=momentum,
                bias_correction=bias_correction,
                weight_decay=weight_decay,
            ),
        )
