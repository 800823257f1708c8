"""The optimum of a smooth convex problem, by a truncated Newton method in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from polargrad.problems.problem import OptimumError

__all__ = ["Minimum", "minimise"]

EPS = torch.finfo(torch.float64).eps
# Armijo: the part of the decrease that the slope promises, and how often the step is halved.
SUFFICIENT, HALVINGS = 1e-4, 40
# Rounding of f, as a multiple of eps |f|: a rise below it is none.
ROUNDING = 10.0
# Products with the Hessian in one Newton step, and the relative residual of its linear system: at
# most the first, and the second for the step that decides about the end. Conjugate gradients give
# no more than λ², and with the second at least half of it up to a condition number of 1e8.
PRODUCTS, FORCING, DECISIVE = 1000, 0.1, 1e-4
# Where the infimum is not attained, a step stays about 1/k of the way after k steps; near a
# minimiser whose gap is below the tolerance it is far shorter.
SHORT_STEP = 1e-3
# A start with less to gain, relative to |f|, is a minimiser: what its gradient shows is rounding.
NOTHING = EPS**1.5


@dataclass(frozen=True, eq=False)
class Minimum:
    """A minimiser, and what certifies it.

    Attributes:
        point: the minimiser.
        value: f there.
        gradient_norm: ‖∇f‖_F there; for a μ-strongly convex f the gap is at most its square / 2μ.
        decrement: λ² = ⟨∇f, H⁻¹∇f⟩ where the last step began. To first order the gap was λ²/2
            there, and at ``point`` it is smaller.
        steps: how many Newton steps were made.
        products: how many products with a Hessian were made.
    """

    point: Tensor
    value: float
    gradient_norm: float
    decrement: float
    steps: int
    products: int


def minimise(
    objective: Callable[[Tensor], Tensor],
    gradient: Callable[[Tensor], Tensor],
    hessian_at: Callable[[Tensor], Callable[[Tensor], Tensor]],
    start: Tensor,
    *,
    precondition: Callable[[Tensor], Tensor] | None = None,
    tolerance: float = EPS,
    max_steps: int = 100,
) -> Minimum:
    r"""Minimise a smooth convex f over matrices of one shape.

    .. math:: H(X_k) S_k = \nabla f(X_k), \qquad X_{k+1} = X_k - t_k S_k, \qquad
              \lambda_k^2 = \langle \nabla f(X_k), S_k\rangle

    The system is solved by preconditioned conjugate gradients, the more accurately the smaller the
    gradient; t_k is the first of 1, ½, ¼, … that decreases f by Armijo's rule. It ends with the
    second step in a row for which :math:`\tfrac12\lambda_k^2 \le` ``tolerance`` · max |f|, if it
    is short.

    Cost: one gradient and one or more values a Newton step, and the products with the Hessian: with
    a good preconditioner a few a step, without one about √κ_H.

    Args:
        objective: f, as a tensor of one number.
        gradient: ∇f, of the shape of its argument.
        hessian_at: maps a point to the product of the Hessian there with a direction.
        start: any float64 tensor in the domain of f.
        precondition: a symmetric positive definite approximation of H⁻¹, applied to a direction. It
            may be singular where the Hessian is at every point.
        tolerance: on the gap before the last step, relative to the largest |f| on the way.
        max_steps: how many Newton steps to make at most.

    Raises:
        ValueError: if ``start`` is not float64, f or its gradient is not finite there, or
            ``max_steps`` is smaller than 1.
        OptimumError: if the tolerance is not reached in ``max_steps``, as where the infimum is not
            attained, or no step along a Newton direction decreases f.

    Example:
        >>> minimum = minimise(
        ...     lambda x: (x.exp() - 2 * x).sum(),
        ...     lambda x: x.exp() - 2,
        ...     lambda x: lambda v: x.exp() * v,
        ...     torch.zeros(1, 1, dtype=torch.float64),
        ... )
        >>> print(f"{minimum.point.item():.15f}")  # log 2
        0.693147180559945

    Source: J. Nocedal and S. J. Wright, *Numerical Optimization* (2006), algorithm 7.1.
    """
    if start.dtype != torch.float64:
        raise ValueError(f"start must be float64, got {start.dtype}")
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps}")
    point, value = start, float(objective(start))
    scale, longest, products, decrement = abs(value), float(start.norm()), 0, 0.0
    slope = gradient(point)
    apply = precondition if precondition is not None else torch.clone
    first_size = _inner(slope, apply(slope))
    if not (math.isfinite(value) and math.isfinite(first_size)):
        raise ValueError(
            f"f and ∇f must be finite at start, got f = {value} and ‖∇f‖² = {first_size}"
        )
    near = False
    for step in range(max_steps):
        size = _inner(slope, apply(slope))
        if size == 0.0:
            return Minimum(point, value, float(slope.norm()), 0.0, step, products)
        most = DECISIVE if near else FORCING
        forcing = min(most, (size / first_size) ** 0.25)  # √(‖g‖/‖g₀‖), as size is a square
        direction, made = _newton_direction(hessian_at(point), slope, apply, forcing)
        products += made
        decrement = _inner(slope, direction)
        if step == 0 and 0.5 * decrement <= NOTHING * scale:
            return Minimum(point, value, float(slope.norm()), decrement, step, products)
        point, value = _line_search(objective, point, value, direction, decrement)
        slope = gradient(point)
        longest, scale = max(longest, float(point.norm())), max(scale, abs(value))
        short = float(direction.norm()) <= SHORT_STEP * longest
        reached = 0.5 * decrement <= tolerance * scale
        if near and short and reached:
            return Minimum(point, value, float(slope.norm()), decrement, step + 1, products)
        near = reached
    raise OptimumError(
        f"no minimum within {max_steps} Newton steps: f = {value:.6g}, and the last step still "
        f"promised {0.5 * decrement:.1e} and went {float(direction.norm()):.1e} at a point of norm "
        f"{float(point.norm()):.1e}. Perhaps the infimum is not attained"
    )


def _newton_direction(
    hessian: Callable[[Tensor], Tensor],
    slope: Tensor,
    precondition: Callable[[Tensor], Tensor],
    forcing: float,
) -> tuple[Tensor, int]:
    """Solve H S = ``slope`` to the relative accuracy ``forcing``; the solution and the products."""
    solution = torch.zeros_like(slope)
    residual = slope
    along = scaled = precondition(residual)
    size = target = _inner(residual, scaled)
    for made in range(1, PRODUCTS + 1):
        image = hessian(along)
        curvature = _inner(along, image)
        if not curvature > 0.0:  # flat to rounding: go no further, but go
            return (solution if made > 1 else along), made
        length = size / curvature
        solution = solution + length * along
        residual = residual - length * image
        scaled = precondition(residual)
        size, previous = _inner(residual, scaled), size
        if size <= forcing**2 * target:
            return solution, made
        along = scaled + (size / previous) * along
    return solution, PRODUCTS


def _line_search(
    objective: Callable[[Tensor], Tensor],
    point: Tensor,
    value: float,
    direction: Tensor,
    decrement: float,
) -> tuple[Tensor, float]:
    """The first point of X - S, X - S/2, … that decreases f by Armijo's rule, and f there."""
    length, noise = 1.0, ROUNDING * EPS * abs(value)
    for _ in range(HALVINGS):
        new = point - length * direction
        new_value = float(objective(new))
        if new_value <= value - SUFFICIENT * length * decrement + noise:
            return new, new_value
        length *= 0.5
    raise OptimumError(
        f"no step along the Newton direction decreases f = {value:.6g}, where {decrement:.1e} was "
        "promised: f is not smooth and convex, or its derivatives are not those of f"
    )


def _inner(X: Tensor, Y: Tensor) -> float:
    """⟨X, Y⟩."""
    return float((X * Y).sum())
