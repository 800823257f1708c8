r"""Derivatives of the polar factor of every order, forward and backward, from its definition.

The polar factor is the gradient of the nuclear norm, so its derivative is a symmetric linear map:
one formula serves tangents and cotangents alike, and no iteration is ever differentiated.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import Function

from polargrad.errors import RankDeficiencyWarning
from polargrad.linalg.precision import double_dtype, rank_cutoff
from polargrad.linalg.preparation import is_traced

__all__ = ["differentiable_factor", "factor_derivative"]

Compute = Callable[[Tensor], Tensor]


def differentiable_factor(x: Tensor, compute: Compute) -> Tensor:
    """Return ``compute(x)``, the exact polar factor of a tall stack, with its true derivatives.

    Args:
        x: shape (..., m, n), m ≥ n.
        compute: what computes the factor; called on plain tensors, without a graph.
    """
    return cast(Tensor, _PolarFactor.apply(x, compute))  # type: ignore[no-untyped-call]


def factor_derivative(x: Tensor, u: Tensor, e: Tensor) -> Tensor:
    r"""Return the derivative of the polar factor at x in the direction e.

    .. math:: D_X[E] = U Y + (I - UU^{\mathsf H}) E H^{-1}, \qquad
              HY + YH = U^{\mathsf H}E - E^{\mathsf H}U

    The Sylvester equation is solved in H's own eigenbasis. Where X is singular to rounding the
    factor has no derivative: inverses of what counts as zero are taken as zero then, which keeps
    the result finite, and a :class:`RankDeficiencyWarning` is given.

    Args:
        x: shape (..., m, n), m ≥ n.
        u: its polar factor.
        e: the direction, tangent or cotangent, of the same shape.

    Example:
        >>> x, e = torch.eye(2), torch.tensor([[0.0, 1.0], [0.0, 0.0]])
        >>> factor_derivative(x, x, e)
        tensor([[ 0.0000,  0.5000],
                [-0.5000,  0.0000]])

    Source: N. J. Higham, *Functions of Matrices* (2008), section 8.3; C. Kenney, A. J. Laub, SIAM
    J. Matrix Anal. Appl. 12 (1991).
    """
    h = u.mH @ x
    h = 0.5 * (h + h.mH)
    inner = u.mH @ e
    derivative = u @ cast(Tensor, _Sylvester.apply(h, inner - inner.mH))  # type: ignore[no-untyped-call]
    if x.shape[-2] > x.shape[-1]:
        inverse = cast(Tensor, _Inverse.apply(h))  # type: ignore[no-untyped-call]
        derivative = derivative + (e - u @ inner) @ inverse
    return derivative


class _PolarFactor(Function):
    """The factor as a differentiable function: forward by any method, derivatives by formula."""

    @staticmethod
    def forward(x: Tensor, compute: Compute) -> Tensor:
        return compute(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(inputs[0], output)
        ctx.save_for_forward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        x, u = ctx.saved_tensors
        return factor_derivative(x, u, cotangents[0]), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        x, u = ctx.saved_tensors
        return factor_derivative(x, u, tangents[0])

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor, compute: Compute) -> Any:
        moved = x.movedim(in_dims[0], 0)
        stack = moved.reshape(-1, *moved.shape[-2:])  # methods know stacks of one dimension
        return differentiable_factor(stack, compute).reshape(moved.shape), 0


class _Sylvester(Function):
    """The solution X of HX + XH = C for Hermitian H ⪰ 0; zero where H is zero twice."""

    generate_vmap_rule = True

    @staticmethod
    def forward(h: Tensor, c: Tensor) -> Tensor:
        values, vectors, cutoff = _eigenbasis(h)
        sums = values.unsqueeze(-1) + values.unsqueeze(-2)
        rotated = vectors.mH @ c.to(vectors.dtype) @ vectors
        solved = torch.where(sums > cutoff.unsqueeze(-1), rotated / sums, torch.zeros_like(rotated))
        return (vectors @ solved @ vectors.mH).to(c.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(inputs[0], output)
        ctx.save_for_forward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        h, x = ctx.saved_tensors
        z = _Sylvester.apply(h, cotangents[0])  # type: ignore[no-untyped-call]
        return -(z @ x.mH + x.mH @ z), z

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        h, x = ctx.saved_tensors
        dh, dc = tangents
        return _Sylvester.apply(h, dc - dh @ x - x @ dh)  # type: ignore[no-untyped-call]


class _Inverse(Function):
    """The inverse of Hermitian H ⪰ 0, the pseudo-inverse where it is singular to rounding."""

    generate_vmap_rule = True

    @staticmethod
    def forward(h: Tensor) -> Tensor:
        values, vectors, cutoff = _eigenbasis(h)
        inverse = torch.where(values > cutoff, 1.0 / values, torch.zeros_like(values))
        return ((vectors * inverse.unsqueeze(-2)) @ vectors.mH).to(h.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        (inverse,) = ctx.saved_tensors
        return -inverse @ cotangents[0] @ inverse

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        (inverse,) = ctx.saved_tensors
        return -inverse @ tangents[0] @ inverse


def _eigenbasis(h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvalues and eigenvectors in double precision, and what counts as zero, (..., 1)."""
    values, vectors = torch.linalg.eigh(h.to(double_dtype(h.dtype)))
    # Where the factor itself stays zero the eigenvalue is zero up to rounding: √n eps, tenfold.
    cutoff = 10.0 * rank_cutoff(h.shape[-1], h.dtype) * values[..., -1:].clamp_min(0.0)
    deficient = values[..., :1] <= cutoff
    if not is_traced(h) and bool(deficient.any()):
        warnings.warn(
            f"{int(deficient.sum())} of {deficient.numel()} matrices are singular to rounding, "
            "where the polar factor has no derivative: directions that count as zero get none",
            RankDeficiencyWarning,
            stacklevel=2,
        )
    return values, vectors, cutoff
