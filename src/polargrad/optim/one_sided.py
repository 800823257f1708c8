"""One-sided PolarGrad: the factor from one Gram matrix, damped, with an exponent."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from polargrad.geometry import Centred, Geometry, Spectral
from polargrad.optim.common_options import EngineOptions, point
from polargrad.optim.engine import MatrixOptimizer

__all__ = ["OneSidedPolarGrad"]


class OneSidedPolarGrad(MatrixOptimizer):
    r"""One-sided PolarGrad: a square root of one Gram matrix as preconditioner.

    .. math::
       U = M (M^{\mathsf T} M + \varepsilon I)^{-1/2} \;\text{(right)}, \qquad
       U = (M M^{\mathsf T} + \varepsilon I)^{-1/2} M \;\text{(left)}, \qquad
       X \leftarrow (1-\gamma\lambda) X - \gamma\, \langle M, U\rangle^{\alpha}\, U

    with M the momentum. The right one commutes with permutations of the rows and rotations of the
    columns: the symmetry of an embedding or a head; the left one is its mirror image, for a router.
    Without damping U is the polar factor and both are PolarGrad. The damping is relative to M
    (:class:`polargrad.geometry.Spectral`), so the direction does not depend on the gradient's
    scale; the published one is an absolute 1e-8.

    Args:
        params: parameters or groups, best from :func:`polargrad.param_groups`.
        lr: γ; for α = 1 in the unit of 1/curvature.
        side: ``"right"`` or ``"left"``.
        exponent: α at least 0: 1 is PolarGrad's magnitude, 0 Muon's.
        damping: relative, at least 0.
        centred: subtract the mean of the rows, before and after: what a softmax over the rows
            cannot see.
        momentum: β in [0, 1).
        weight_decay: λ; refused where γλ ≥ 0.1.
        **options: what every optimizer here takes (:class:`MatrixOptimizer`).

    Raises:
        ValueError, TypeError, NonFiniteError: as :class:`polargrad.optim.MatrixOptimizer`.

    Example:
        >>> import torch
        >>> X = torch.nn.Parameter(torch.diag(torch.tensor([3.0, 1.0])))
        >>> optimizer = OneSidedPolarGrad([X], lr=0.1, exponent=0.5, momentum=0.0)
        >>> (0.5 * X.square().sum()).backward()
        >>> optimizer.step()  # the nuclear norm is 4, its root 2
        >>> X.detach().diag()
        tensor([2.8000, 0.8000])

    Source: T. T.-K. Lau, W. Su, arXiv 2605.18106; Emerging-Optimizers (the eigenvalue form).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None,
        *,
        side: str = "right",
        exponent: float = 1.0,
        damping: float = 0.0,
        centred: bool = False,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        **options: Unpack[EngineOptions],
    ) -> None:
        if side not in ("left", "right"):
            raise ValueError(f"side must be 'left' or 'right', got {side!r}")
        geometry: Geometry = Spectral(side=side, damping=damping)  # type: ignore[arg-type]
        super().__init__(
            params,
            lr,
            **point(
                self,
                EngineOptions,
                options,
                geometry=Centred(geometry) if centred else geometry,
                magnitude="dual_norm",
                exponent=exponent,
                momentum=momentum,
                weight_decay=weight_decay,
            ),
        )
