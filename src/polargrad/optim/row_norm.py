"""Row and column normalisation: steepest descent in the largest row or column."""

from __future__ import annotations

from typing import ClassVar, Unpack

from torch import Tensor
from torch.optim.optimizer import ParamsT

from polargrad.geometry import Centred, LargestColumn, LargestRow
from polargrad.optim.common_options import EngineOptions, point
from polargrad.optim.engine import MatrixOptimizer

__all__ = ["ColumnNorm", "RowNorm"]


class _NormalisedDescent(MatrixOptimizer):
    """Steepest descent in the norm of the largest row, or of the largest column."""

    norm: ClassVar[type[LargestRow] | type[LargestColumn]]

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor | None = 1e-3,
        *,
        momentum: float = 0.95,
        scaled: bool = False,
        centred: bool = False,
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
                geometry=Centred(self.norm()) if centred else self.norm(),
                magnitude="dual_norm" if scaled else "unit",
                momentum=momentum,
                weight_decay=weight_decay,
            ),
        )


class RowNorm(_NormalisedDescent):
    r"""Row normalisation: steepest descent in the norm of the largest row.

    .. math:: X_i \leftarrow (1-\gamma\lambda) X_i - \gamma\, a\,\frac{M_i}{\|M_i\|_2}

    with M the momentum and a = 1; with ``scaled=True`` a is the sum of the row norms, their dual.
    There are no products of matrices. It commutes with permutations of the rows and rotations of
    the columns, which is the symmetry of an embedding.

    Args:
        params: parameters or groups, best from :func:`polargrad.param_groups`.
        lr: γ, the length of a row's step, unless ``scaled``.
        momentum: β in [0, 1).
        scaled: multiply by the dual norm.
        centred: subtract the mean of the rows, before and after.
        weight_decay: λ.
        **options: what every optimizer here takes (:class:`MatrixOptimizer`).

    Raises:
        ValueError, TypeError, NonFiniteError: as :class:`polargrad.optim.MatrixOptimizer`.

    Example:
        >>> import torch
        >>> X = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
        >>> optimizer = RowNorm([X], lr=1.0, momentum=0.0)
        >>> (0.5 * X.square().sum()).backward()
        >>> optimizer.step()
        >>> X.detach()
        tensor([[2.4000, 3.2000],
                [0.0000, 1.0000]])

    Source: T. T.-K. Lau, W. Su, arXiv 2605.18106, which adds 1e-8 to a norm; here a zero row
    stays.
    """

    norm = LargestRow


class ColumnNorm(_NormalisedDescent):
    r"""Column normalisation: steepest descent in the norm of the largest column.

    .. math:: X_{\cdot j} \leftarrow (1-\gamma\lambda) X_{\cdot j}
              - \gamma\, a\,\frac{M_{\cdot j}}{\|M_{\cdot j}\|_2}

    with M the momentum and a = 1; with ``scaled=True`` a is the sum of their norms, the dual.
    The mirror image of row normalisation, for a projection whose inputs are interchangeable
    neurons.

    Args:
        params: parameters or groups, best from :func:`polargrad.param_groups`.
        lr: γ, the length of a column's step, unless ``scaled``.
        momentum: β in [0, 1).
        scaled: multiply by the dual norm.
        centred: subtract the mean of the rows, before and after.
        weight_decay: λ.
        **options: what every optimizer here takes (:class:`MatrixOptimizer`).

    Raises:
        ValueError, TypeError, NonFiniteError: as :class:`polargrad.optim.MatrixOptimizer`.

    Example:
        >>> import torch
        >>> X = torch.nn.Parameter(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
        >>> optimizer = ColumnNorm([X], lr=1.0, momentum=0.0)
        >>> (0.5 * X.square().sum()).backward()
        >>> optimizer.step()
        >>> X.detach().round(decimals=4)
        tensor([[2.0000, 3.1056],
                [0.0000, 1.5528]])

    Source: T. T.-K. Lau, W. Su, arXiv 2605.18106, which adds 1e-8 to a norm; here a zero
    column stays.
    """

    norm = LargestColumn
