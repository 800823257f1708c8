"""The statistics of the insights: rank correlations, plain and with a third variable taken out."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

# Fewer pairs say nothing about an order.
FEWEST = 6


def ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value from 1; equal values share their mean rank.

    Example:
        >>> ranks([10.0, 30.0, 10.0])
        [1.5, 3.0, 1.5]
    """
    order = sorted(range(len(values)), key=lambda i: values[i])
    found = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for position in range(start, end + 1):
            found[order[position]] = (start + end) / 2 + 1
        start = end + 1
    return found


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    r"""Return Spearman's rank correlation: Pearson's of the ranks.

    Pairs with an undefined value are left out. NaN if there are fewer than six pairs, or if one
    side is constant.

    Raises:
        ValueError: if the lengths differ.

    Example:
        >>> print(f"{rank_correlation([1, 2, 3, 4, 5, 6], [1, 8, 27, 64, 125, 100]):.3f}")
        0.943

    Source: C. Spearman (1904).
    """
    if len(x) != len(y):
        raise ValueError(f"x and y must have one length, got {len(x)} and {len(y)}")
    pairs = [(a, b) for a, b in zip(x, y, strict=True) if not (math.isnan(a) or math.isnan(b))]
    if len(pairs) < FEWEST:
        return math.nan
    first, second = (ranks(side) for side in zip(*pairs, strict=True))
    if min(first) == max(first) or min(second) == max(second):
        return math.nan
    return statistics.correlation(first, second)


def partial_rank_correlation(
    x: Sequence[float], y: Sequence[float], given: Sequence[float]
) -> float:
    r"""Return the rank correlation of x and y with what both owe to a third variable taken out.

    .. math:: \rho_{xy \cdot z} = \frac{\rho_{xy} - \rho_{xz}\,\rho_{yz}}
                                       {\sqrt{(1 - \rho_{xz}^2)(1 - \rho_{yz}^2)}}

    Two series that both drift with the step are correlated through their drift alone; this is what
    is left of it. NaN as :func:`rank_correlation`, or if a side is monotone in ``given``.

    Example:
        >>> x = [1.0, 3.0, 2.0, 4.0, 6.0, 5.0]
        >>> print(f"{partial_rank_correlation(x, x[::-1], [1, 2, 3, 4, 5, 6]):.3f}")
        0.591

    Source: M. G. Kendall, *Rank Correlation Methods* (1970), for ranks; Yule (1907).
    """
    kept = [t for t in zip(x, y, given, strict=True) if not any(math.isnan(v) for v in t)]
    if len(kept) < FEWEST:
        return math.nan
    a, b, c = zip(*kept, strict=True)
    xy, xz, yz = rank_correlation(a, b), rank_correlation(a, c), rank_correlation(b, c)
    left = (1.0 - xz**2) * (1.0 - yz**2)
    return (xy - xz * yz) / math.sqrt(left) if left > 1e-12 else math.nan


def median(values: Sequence[float]) -> float:
    """Return the median of the values that are defined; NaN if there is none."""
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan


def signed(value: float) -> str:
    """Return a correlation as text.

    Example:
        >>> signed(0.5), signed(math.nan)
        ('+0.50', 'undefined')
    """
    return "undefined" if math.isnan(value) else f"{value:+.2f}"


def share(conditions: Sequence[bool]) -> float:
    """Return the share that is true; NaN of nothing."""
    return sum(conditions) / len(conditions) if conditions else math.nan
