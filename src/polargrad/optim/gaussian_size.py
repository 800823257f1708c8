"""Sizes to expect of Gaussian gradients: of their singular values, and of their averages."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from polargrad.linalg import NewtonSchulz
from polargrad.linalg.odd_polynomials import compose

__all__ = ["expected_nuclear_norm", "matrix_shape", "momentum_rms", "newton_schulz_rms"]

# Nodes of the midpoint rule below: exact for polynomials in x of degree up to 2·NODES − 3, so for
# the square of five quintic steps (degree 3124); for √x of a square matrix the error is 1e-7.
NODES = 2048


def expected_nuclear_norm(shape: Sequence[int], gradient_rms: float = 1.0) -> float:
    r"""Return the nuclear norm to expect of an m × n matrix of independent Gaussian entries.

    .. math:: \mathbb E\|G\|_* \approx g\,r\sqrt{M}\;\frac2\pi\int_0^\pi
              \frac{\sin^2\theta}{\sqrt{1 + y + 2\sqrt y\cos\theta}}\,d\theta

    with M = max(m, n), r = min(m, n), y = r/M: the mean of σ under the law of Marchenko and Pastur,
    written with x = σ²/(g²M) = 1 + y + 2√y cos θ. A square matrix has 8/(3π)·g·n^{3/2}, a flat one
    g·r·√M. It is the limit of large matrices; a square one has some 0.16/n less.

    Args:
        shape: (m, n).
        gradient_rms: g, the root mean square of the entries.

    Raises:
        ValueError: if ``shape`` is not two positive integers, or ``gradient_rms`` not positive.

    Example:
        >>> round(expected_nuclear_norm((100, 100)) / 100**1.5, 4), round(8 / (3 * math.pi), 4)
        (0.8488, 0.8488)

    Source: V. A. Marchenko, L. A. Pastur, Math. USSR-Sbornik 1 (1967), 457–483.
    """
    rows, columns = matrix_shape(shape)
    if not 0.0 < gradient_rms < math.inf:
        raise ValueError(f"gradient_rms must be positive and finite, got {gradient_rms}")
    small, large = sorted((rows, columns))
    mean = _spectral_mean(small / large, lambda x: x)
    return gradient_rms * small * math.sqrt(large) * mean


def newton_schulz_rms(shape: Sequence[int], method: NewtonSchulz | None = None) -> float:
    r"""Return the RMS of the singular values that Newton–Schulz leaves of a Gaussian matrix.

    .. math:: \Big(\mathbb E\,p\big(\sigma/\|G\|_F\big)^2\Big)^{1/2}, \qquad
              \sigma/\|G\|_F \approx \sqrt{x/r}

    p is the composition of all steps, and x follows the law in :func:`expected_nuclear_norm`. An
    exact factor has 1; Muon's five quintic steps have 0.82 to 0.95, so their updates are that much
    smaller than the formulas for learning rates assume.

    Args:
        shape: (m, n).
        method: the steps; None for Muon's five.

    Raises:
        ValueError: if ``shape`` is not two positive integers.

    Example:
        >>> round(newton_schulz_rms((512, 512)), 2)
        0.94

    Source: as :func:`expected_nuclear_norm`.
    """
    small, large = sorted(matrix_shape(shape))
    polynomials = (method or NewtonSchulz()).polynomials
    root = math.sqrt(small)
    return math.sqrt(
        _spectral_mean(small / large, lambda s: compose(polynomials, min(s / root, 1.0)) ** 2)
    )


def momentum_rms(momentum: float, *, nesterov: bool | float = False) -> float:
    r"""Return how much smaller than a gradient its average is, if gradients are independent.

    For M ← βM + (1 − β)G with independent G of mean zero, after many steps,

    .. math:: \frac{\operatorname{rms} M}{\operatorname{rms} G} = \sqrt{\frac{1-\beta}{1+\beta}},
              \qquad \frac{\operatorname{rms}(\beta M + (1-\beta)G)}{\operatorname{rms} G}
              = (1-\beta)\sqrt{(1+\beta)^2 + \frac{\beta^4}{1-\beta^2}}

    and for (1 − a)M + aG the same with the weights (1 − a)(1 − β) + a and (1 − a)(1 − β)βᵏ.

    This is the limit of pure noise. A gradient that stays the same has the ratio 1; a real one lies
    between.

    Args:
        momentum: β in [0, 1).
        nesterov: whether the gradient is looked at once more; a number is a.

    Raises:
        ValueError: if ``momentum`` is outside [0, 1).

    Example:
        >>> round(momentum_rms(0.95), 3), momentum_rms(0.0, nesterov=True)
        (0.16, 1.0)

    Source: the geometric series M = (1 − β) Σ βᵏ G₋ₖ.
    """
    if not 0.0 <= momentum < 1.0:
        raise ValueError(f"momentum must be in [0, 1), got {momentum}")
    if nesterov:
        share = 1.0 - momentum if nesterov is True else nesterov
        past = (1.0 - share) * (1.0 - momentum)
        return math.sqrt((past + share) ** 2 + (past * momentum) ** 2 / (1.0 - momentum**2))
    return math.sqrt((1.0 - momentum) / (1.0 + momentum))


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Return (m, n); raise for anything but the shape of one matrix.

    Raises:
        ValueError: if ``shape`` is not two positive integers.
    """
    sides = tuple(shape)
    if len(sides) != 2 or any(isinstance(s, bool) or int(s) != s or s < 1 for s in sides):
        raise ValueError(
            f"shape must be two positive integers, rows and columns of one logical matrix, got "
            f"{sides}: of a stack or a convolution give the shape that polargrad.explain shows"
        )
    return int(sides[0]), int(sides[1])


def _spectral_mean(ratio: float, function: Callable[[float], float]) -> float:
    r"""The mean of f(√x), x under the law of Marchenko and Pastur with y = ``ratio``.

    .. math:: \frac2\pi\int_0^\pi f(\sqrt x)\,\frac{\sin^2\theta}{x}\,d\theta,
              \qquad x = 1 + y + 2\sqrt y\cos\theta
    """
    total = 0.0
    for index in range(NODES):
        angle = (index + 0.5) * math.pi / NODES
        x = 1.0 + ratio + 2.0 * math.sqrt(ratio) * math.cos(angle)
        total += function(math.sqrt(x)) * math.sin(angle) ** 2 / x
    return 2.0 * total / NODES
