"""Stochastic spectral descent: PolarGrad along the leading directions."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from polargrad.linalg import RandomizedSVD
from polargrad.optim.common_options import EngineOptions, point
from polargrad.optim.engine import MatrixOptimizer

__all__ = ["SSD"]


class SSD(MatrixOptimizer):
    r"""Stochastic spectral descent: steepest descent in the spectral norm, on k directions.

    .. math:: G_k \approx W \Sigma V^{\mathsf T} \;\text{(a randomized SVD of rank k)}, \qquad
              X_{k+1} = (1-\gamma\lambda) X_k - \gamma \operatorname{tr}(\Sigma)\, W V^{\mathsf T}

    PolarGrad without momentum is the same with all directions. Use it where the gradient's spectrum
    decays: what is left out of the k directions is not descended.

    Args:
        params: parameters or groups, best from :func:`polargrad.param_groups`.
        lr: γ, in the unit of 1/curvature.
        rank: k.
        oversampling, power_iterations, seed: of the randomized SVD
            (:class:`polargrad.linalg.RandomizedSVD`).
        momentum: β in [0, 1).
        weight_decay: λ; refused where γλ ≥ 0.1.
        **options: what every optimizer here takes (:class:`MatrixOptimizer`).

    Raises:
        ValueError, TypeError, NonFiniteError: as :class:`polargrad.optim.MatrixOptimizer`.

    Example:
        >>> import torch
        >>> X = torch.nn.Parameter(torch.diag(torch.tensor([3.0, 2.0, 0.5])))
        >>> optimizer = SSD([X], lr=0.1, rank=2)
        >>> (0.5 * X.square().sum()).backward()
        >>> optimizer.step()  # the two leading singular values add up to 5
        >>> X.detach().diag()
        tensor([2.5000, 1.5000, 0.5000])

    Source: D. Carlson et al., *Stochastic spectral descent for restricted Boltzmann machines*,
    AISTATS (2015); arXiv 2505.21799, section 2.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None,
        *,
        rank: int,
        oversampling: int = 8,
        power_iterations: int = 2,
        seed: int = 0,
        momentum: float = 0.0,
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
                method=RandomizedSVD(rank, oversampling, power_iterations, seed),
                tol=None,
                magnitude="dual_norm",
                momentum=momentum,
                weight_decay=weight_decay,
            ),
        )
