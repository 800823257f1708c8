"""How far the softplus lies above its tangent, without cancellation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

__all__ = ["LINEAR", "softplus_divergence"]

# Beyond it softplus(x) = x to the last bit of float64 (torch's default of 20 is for float32).
LINEAR = 40.0
# Below it the series is exact to rounding; above it the logarithm loses less than that.
SMALL = 2e-3
# Above it e^x - 1 = e^x to rounding, and the difference of two values cancels nothing.
LARGE = 40.0


def softplus_divergence(base: Tensor, change: Tensor) -> Tensor:
    r"""Return D(v + δ, v) = φ(v + δ) - φ(v) - φ'(v) δ for φ = softplus, entry by entry.

    .. math:: D = \log(1 + p\,(e^\delta - 1)) - p\,\delta, \qquad p = \sigma(v)

    It is zero or positive, and relatively exact to about 1e-12 at every v and δ. The formula is
    used where p is at most ½: D does not change if v and δ both change their sign. For small δ it
    is the series of the cumulants of a Bernoulli variable, with :math:`w = p (1 - p)`:

    .. math:: D = w \delta^2 \Bigl(\tfrac{1}{2} + \tfrac{1 - 2p}{6} \delta
                  + \tfrac{1 - 6w}{24} \delta^2 + \tfrac{(1 - 2p)(1 - 12w)}{120} \delta^3
                  + \cdots\Bigr)

    Args:
        base: v, float64 of any shape.
        change: δ, float64 of the same shape.

    Example:
        >>> v, change = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        >>> print(f"{softplus_divergence(v, 1e-9 * change).item():.6e}")  # δ² / 8
        1.250000e-19
    """
    flip = torch.where(base > 0, -1.0, 1.0).to(base)
    v, delta = flip * base, flip * change
    p = torch.sigmoid(v)
    w, skew = p * (1 - p), 1 - 2 * p
    terms = 0.5 + delta * (
        skew / 6 + delta * ((1 - 6 * w) / 24 + delta * skew * (1 - 12 * w) / 120)
    )
    series = w * delta.square() * terms
    logarithm = torch.log1p(p * torch.expm1(delta.clamp(max=LARGE))) - p * delta
    difference = softplus(v + delta, threshold=LINEAR) - softplus(v, threshold=LINEAR) - p * delta
    result = torch.where(delta.abs() < SMALL, series, logarithm)
    return torch.where(delta > LARGE, difference, result)
