"""SOAP: Adam in the eigenbases of Shampoo's factors."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from polargrad.geometry import RotatedDiagonal
from polargrad.optim.common_options import EngineOptions, point
from polargrad.optim.engine import MatrixOptimizer

__all__ = ["SOAP"]


class SOAP(MatrixOptimizer):
    r"""SOAP: Adam in slowly turning eigenbases of the gradients' second moments.

    .. math::
       \begin{aligned}
         L &\leftarrow \beta_2 L + (1-\beta_2) G G^{\mathsf T}, \quad
         R \leftarrow \beta_2 R + (1-\beta_2) G^{\mathsf T} G, \quad
         Q_L, Q_R \text{ their eigenbases} \\
         V &\leftarrow \beta_2 V + (1-\beta_2) (Q_L^{\mathsf T} G Q_R)^2, \qquad
         X \leftarrow (1-\gamma\lambda) X
           - \gamma\, Q_L \frac{Q_L^{\mathsf T} \hat M Q_R}{\sqrt{\hat V} + \varepsilon}
             Q_R^{\mathsf T}
       \end{aligned}

    with M the momentum and hats for division by 1 − βᵗ. It addresses both anisotropies: that of the
    gradient by the bases, that of the curvature by V. The first gradient makes the bases and
    nothing else: no step is taken along it, and the momentum leaves it out.

    Args:
        params: parameters or groups, best from :func:`polargrad.param_groups`.
        lr: γ, the RMS of a step in the first steps, as Adam's.
        betas: β of the momentum and β₂ of the second moments.
        eps: ε.
        refresh: the eigenbases are brought up to date every so many steps.
        weight_decay: λ.
        **options: what every optimizer here takes (:class:`MatrixOptimizer`).

    Raises:
        ValueError, TypeError, NonFiniteError: as :class:`polargrad.optim.MatrixOptimizer`.

    Example:
        >>> import torch
        >>> X = torch.nn.Parameter(torch.diag(torch.tensor([3.0, 1.0])))
        >>> optimizer = SOAP([X], lr=0.1, weight_decay=0.0)
        >>> for _ in range(2):
        ...     optimizer.zero_grad()
        ...     X.square().sum().backward()
        ...     optimizer.step()
        >>> X.detach().diag()
        tensor([2.9000, 0.9000])

    Source: N. Vyas et al., arXiv 2409.11321, and its authors' code for the first gradient.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None = 3e-3,
        *,
        betas: tuple[float, float] = (0.95, 0.95),
        eps: float = 1e-8,
        refresh: int = 10,
        weight_decay: float = 0.01,
        **options: Unpack[EngineOptions],
    ) -> None:
        if not isinstance(betas, tuple | list) or len(betas) != 2:
            raise ValueError(f"betas must be two numbers in [0, 1), got {betas!r}")
        super().__init__(
            params,
            lr,
            **point(
                self,
                EngineOptions,
                options,
                geometry=RotatedDiagonal(beta=betas[1], beta2=betas[1], eps=eps, refresh=refresh),
                magnitude="dual_norm",
                momentum=betas[0],
                bias_correction=betas[0] > 0,
                weight_decay=weight_decay,
            ),
        )
