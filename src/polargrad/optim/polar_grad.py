"""PolarGrad: the polar factor of the gradient, scaled by its nuclear norm."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from polargrad.optim.common_options import PolarOptions, point
from polargrad.optim.engine import MatrixOptimizer

__all__ = ["PolarGrad"]


class PolarGrad(MatrixOptimizer):
    r"""PolarGrad: steepest descent in the spectral norm.

    .. math::
       \begin{aligned}
         M_k &= \beta M_{k-1} + (1-\beta) G_k, \qquad U_k H_k = \operatorname{polar}(M_k), \\
         X_{k+1} &= (1 - \gamma\lambda) X_k - \gamma \operatorname{tr}(H_k)\, U_k
       \end{aligned}

    and with ``order="polar-first"``

    .. math::
       U_k H_k = \operatorname{polar}(G_k), \quad M_k = \beta M_{k-1} + (1-\beta) U_k, \quad
       X_{k+1} = (1 - \gamma\lambda) X_k - \gamma \operatorname{tr}(H_k)\, M_k

    :math:`\operatorname{tr} H = \langle M, U\rangle` is the nuclear norm. ``momentum=0`` is
    PolarGrad, or PolarSGD where gradients are stochastic; otherwise it is PolarGradM, PolarSGDM.
    There is no bias correction unless asked for: the first steps are smaller by 1 − β, a built-in
    warmup. Heavy ball has two readings: ``momentum_form="heavy-ball"``, M = βM + G, is the same
    method with γ/(1 − β) in the place of γ; ``order="polyak"`` is Polyak's own,

    .. math:: X_{k+1} = X_k - \gamma \operatorname{tr}(H_k) U_k + \beta (X_k - X_{k-1}),
              \qquad U_k H_k = \operatorname{polar}(G_k),

    with decay, if any, outside the momentum.

    **Units.** The step is homogeneous of degree 1 in the gradient, so γ has the unit of
    1/curvature: the paper uses 4e-8 on one problem and 50 on another. A loss that is summed instead
    of averaged over a batch needs a γ that much smaller. Without momentum and with an exact factor
    on an L-smooth function, any γ < 2/(L r) decreases it, r the rank. γ is never used for vectors.

    **Accuracy.** The default ``tol=0.11`` is training accuracy: singular values of U within 0.11 of
    1 for every singular value of M of at least a thousandth of its norm. ``tol=None`` converges.

    Args:
        params: parameters or groups, best from :func:`polargrad.param_groups`.
        lr: γ; None for a size that the run finds, because no number fits two problems.
        momentum: β in [0, 1).
        order: ``"momentum-first"``, ``"polar-first"`` or ``"polyak"``.
        momentum_form: ``"ema"`` or ``"heavy-ball"``.
        nesterov: use βM + (1 − β)G in the place of M; a number a in (0, 1) for (1 − a)M + aG.
        bias_correction: divide M by 1 − βᵗ.
        weight_decay: λ; refused where γλ ≥ 0.1.
        decay_per_step: a decay (1 − λ'·lr/initial lr) that does not depend on the unit of γ.
        max_dual_norm: clips each matrix's signal to this nuclear norm; None for no bound.
        **options: ``method``, ``tol``, ``compute_dtype`` (see :func:`polargrad.polar`), and what
            every optimizer here takes (:class:`polargrad.MatrixOptimizer`).

    Raises:
        ValueError, TypeError, NonFiniteError: as :class:`polargrad.optim.MatrixOptimizer`.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> A, B = torch.randn(20, 5), torch.randn(20, 3)
        >>> X = torch.nn.Parameter(torch.zeros(5, 3))
        >>> smoothness = torch.linalg.matrix_norm(A, 2).item() ** 2
        >>> optimizer = PolarGrad([X], lr=1 / (3 * smoothness), momentum=0)
        >>> def loss():
        ...     optimizer.zero_grad()
        ...     value = 0.5 * (A @ X - B).square().sum()
        ...     value.backward()
        ...     return value.item()
        >>> values = [optimizer.step(loss) for _ in range(10)]
        >>> values == sorted(values, reverse=True)
        True

    Source: T. T.-K. Lau, Q. Long, W. Su, arXiv 2505.21799, section 4.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None = None,
        *,
        momentum: float = 0.95,
        momentum_form: str = "ema",
        order: str = "momentum-first",
        nesterov: bool | float = False,
        bias_correction: bool = False,
        weight_decay: float = 0.0,
        max_dual_norm: float | None = None,
        **options: Unpack[PolarOptions],
    ) -> None:
        super().__init__(
            params,
            lr,
            **point(
                self,
                PolarOptions,
                options,
                momentum=momentum,
                momentum_form=momentum_form,
                order=order,
                nesterov=nesterov,
                bias_correction=bias_correction,
                magnitude="dual_norm",
                weight_decay=weight_decay,
                max_dual_norm=max_dual_norm,
            ),
        )
