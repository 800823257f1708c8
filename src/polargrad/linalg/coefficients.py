r"""Coefficients of the polynomial methods: tables with their source, and what recomputes them.

An odd quintic :math:`p(x) = a x + b x^3 + c x^5` is a triple ``(a, b, c)``; a cubic has ``c = 0``.
Applied to a matrix by :math:`X \leftarrow aX + X(bG + cG^2)`, :math:`G = X^{\mathsf H}X`, it acts
on every singular value alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

__all__ = [
    "CLASSIC_CUBIC",
    "MUON_QUINTIC",
    "POLAR_EXPRESS",
    "Triple",
    "compose",
    "deviation",
    "minimax_quintics",
]

Triple = tuple[float, float, float]

# p(x) = 3/2 x − 1/2 x³ is the only odd cubic with p(1) = 1 and p'(1) = 0.
# N. J. Higham, Functions of Matrices (2008), section 8.3.
CLASSIC_CUBIC: Triple = (1.5, -0.5, 0.0)

# Chosen by hand for the steepest slope at zero with all values kept near 1; it does not converge.
# K. Jordan, https://kellerjordan.github.io/posts/muon/ (2024); torch.optim.Muon has the same.
MUON_QUINTIC: Triple = (3.4445, -4.7750, 2.0315)

# N. Amsel, D. Persson, C. Musco, R. Gower, "The Polar Express", arXiv 2505.16932 (2025), the list
# for l = 1e-3: `minimax_quintics(1e-3, 8, cushion=0.02407327424182761)`; 1.875, -1.25, 0.375
# from then on.
POLAR_EXPRESS: tuple[Triple, ...] = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)


def compose(polynomials: Sequence[Triple], x: float) -> float:
    """Return what the polynomials, one after the other, make of the singular value ``x``.

    Example:
        >>> compose([CLASSIC_CUBIC], 1.0)
        1.0
    """
    for a, b, c in polynomials:
        square = x * x
        x *= a + square * (b + square * c)
    return x


@functools.lru_cache(maxsize=256)
def deviation(polynomials: tuple[Triple, ...], lower: float, points: int = 4000) -> float:
    r"""Return :math:`\max |p(x) - 1|` over lower ≤ x ≤ 1, on a grid that is dense near both ends.

    Example:
        >>> deviation((CLASSIC_CUBIC,), 0.5) == 1 - (1.5 * 0.5 - 0.5 * 0.125)
        True
    """
    if lower >= 1.0:
        return abs(compose(polynomials, 1.0) - 1.0)
    step = -math.log(lower) / points
    logarithmic = (lower * math.exp(step * i) for i in range(points))
    linear = (lower + (1.0 - lower) * i / points for i in range(points + 1))
    grid = (lower, *logarithmic, *linear, 1.0)
    return max(abs(compose(polynomials, min(x, 1.0)) - 1.0) for x in grid)


@functools.lru_cache(maxsize=64)
def minimax_quintics(
    lower: float, steps: int, *, cushion: float = 0.0, safety: float = 1.0
) -> tuple[Triple, ...]:
    r"""Return the quintics of Polar Express: each is the best one on what its predecessors leave.

    .. math:: p_k = \arg\min_p \max_{x \in [l_k, u_k]} |p(x) - 1|,
              \quad l_{k+1} = p_k(l_k),\; u_{k+1} = 2 - l_{k+1}

    Where :math:`l_k` is much smaller than :math:`u_k` the polynomial is made for
    :math:`[\max(l_k, \text{cushion}\,u_k), u_k]` instead and rescaled so that it is centred on 1
    again; without this it comes close to zero inside the interval and is fragile in low precision.

    Args:
        lower: :math:`l_0`, in (0, 1); :math:`u_0 = 1`.
        steps: how many polynomials.
        cushion: the least ratio of lower to upper end that a polynomial is made for.
        safety: s, at least 1: every polynomial but the last is p(x/s), against rounding that
            pushes a value above the interval, and the next one is made for what that leaves.

    Raises:
        ValueError: if ``lower`` is not in (0, 1), or ``steps`` or ``safety`` is below 1.

    Example:
        >>> [round(c, 6) for c in minimax_quintics(1e-3, 1, cushion=0.02407327424182761)[0]]
        [8.287212, -23.595887, 17.300387]

    Source: Amsel et al., arXiv 2505.16932, sections 3 and 4.
    """
    if not 0.0 < lower < 1.0:
        raise ValueError(f"lower must lie in (0, 1), got {lower}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not safety >= 1.0:
        raise ValueError(f"safety must be at least 1, got {safety}")
    low, high = lower, 1.0
    result = []
    for index in range(steps):
        a, b, c = _minimax_quintic(max(low, cushion * high), high)
        ends = compose([(a, b, c)], low) + compose([(a, b, c)], high)
        s = safety if index < steps - 1 else 1.0
        centred = (2.0 * a / ends / s, 2.0 * b / ends / s**3, 2.0 * c / ends / s**5)
        result.append(centred)
        low = compose([centred], low)
        high = 2.0 - low
    return tuple(result)


def _minimax_quintic(low: float, high: float, *, rounds: int = 200) -> Triple:
    r"""Best odd quintic approximation of 1 on [low, high], by Remez' exchange on four points.

    The error of the best one alternates, :math:`p = 1-e, 1+e, 1-e, 1+e`, at low < q < r < high,
    where q and r are the zeros of :math:`p'`.
    """
    if 1.0 - low / high < 5e-6:
        # The interval is a point up to rounding: p with p = 1 and p' = p'' = 0 there.
        return (15.0 / 8.0 / high, -10.0 / 8.0 / high**3, 3.0 / 8.0 / high**5)
    q, r = (3.0 * low + high) / 4.0, (low + 3.0 * high) / 4.0
    previous = math.inf
    for _ in range(rounds):
        a, b, c, error = _alternate(low, q, r, high)
        if abs(error - previous) <= 1e-16 * abs(error):
            break
        previous = error
        root = math.sqrt(max(9.0 * b * b - 20.0 * a * c, 0.0))
        q, r = (math.sqrt((-3.0 * b + sign * root) / (10.0 * c)) for sign in (-1.0, 1.0))
    return a, b, c


def _alternate(low: float, q: float, r: float, high: float) -> tuple[float, float, float, float]:
    """Solve p(x_i) + (−1)^i e = 1 at the four points for a, b, c, e, by elimination."""
    rows = [
        [x, x**3, x**5, sign, 1.0] for x, sign in ((low, 1.0), (q, -1.0), (r, 1.0), (high, -1.0))
    ]
    for column in range(4):
        pivot = max(range(column, 4), key=lambda i: abs(rows[i][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for i in range(4):
            if i != column:
                factor = rows[i][column] / rows[column][column]
                rows[i] = [s - factor * t for s, t in zip(rows[i], rows[column], strict=True)]
    a, b, c, error = (rows[i][4] / rows[i][i] for i in range(4))
    return a, b, c, error
