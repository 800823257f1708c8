"""Which learning rates a sweep tries: coarse ones first, then more where something happens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

# All learning rates lie on one lattice, γ = 10^(i/100), so that they have exact names i and sweeps
# of several optimizers share them. One step is 2.3 %.
POINTS_PER_DECADE = 100
# A learning rate is good if it comes within this factor of the best final metric.
GOOD = 10.0
# Upwards of the best, where a run is so much worse, every other coarse point is left out.
HOPELESS = 100.0


@dataclass(frozen=True, kw_only=True)
class Grid:
    """How densely a sweep looks, in steps of the lattice.

    Args:
        coarse: between two points of the first look.
        fine: between two points near the best one and near the limit.
        finest: how narrowly the limit, and the ends of a narrow good region, are enclosed.
        near: how far on either side "near" is.
        beyond: how far outside of its window a sweep may go on when the best, or an end of the
            good region, lies at an end of it.
    """

    coarse: int = 20
    fine: int = 4
    finest: int = 1
    near: int = 12
    beyond: int = 200


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Args:
        value: its last metric, with what float32 does not resolve counted as the resolution.
        lost: whether it diverged: it grew beyond the bound, or ended above its start.
        blown: whether it grew beyond the bound, or was not finite.
    """

    value: float
    lost: bool = False
    blown: bool = False


Tried = Mapping[int, Outcome]


def rate(index: int) -> float:
    """Return the learning rate of a point of the lattice.

    Example:
        >>> [rate(i) for i in (-200, 0, 100)]
        [0.01, 1.0, 10.0]
    """
    return float(10.0 ** (index / POINTS_PER_DECADE))


def next_point(grid: Grid, window: tuple[int, int], tried: Tried) -> int | None:
    """Return the point that is to be tried next, or None if the sweep has seen enough.

    It depends on nothing but the outcomes so far: a sweep that is interrupted goes on as if it had
    not been. In order: coarse points upwards from the window's lower end to the first that is lost;
    a limit above which runs blow up, by bisection, and fine points below it; fine points about the
    best one; the ends of the good region by bisection.

    Args:
        grid: how densely.
        window: the first point, and one beyond which only a best or good region leads.
        tried: the outcomes so far.

    Example:
        >>> tried = {}  # of a method whose error is 1/γ, and that blows up beyond γ = 3
        >>> while (i := next_point(Grid(), (-40, 100), tried)) is not None:
        ...     tried[i] = Outcome(1 / rate(i)) if rate(i) <= 3 else Outcome(9.9, True, True)
        >>> round(rate(limit(tried)), 2), round(rate(first_lost(tried)), 2)
        (2.95, 3.02)
    """
    rules: tuple[Callable[[Grid, tuple[int, int], Tried], Iterable[int]], ...] = (
        _coarse,
        _around_limit,
        _around_best,
        _at_edges,
    )
    for rule in rules:
        for index in rule(grid, window, tried):
            if index not in tried:
                return index
    return None


def first_lost(tried: Tried) -> int | None:
    """Return the smallest learning rate whose run was lost."""
    return min((i for i, outcome in tried.items() if outcome.lost), default=None)


def limit(tried: Tried) -> int | None:
    """Return the largest learning rate below which, itself included, no run was lost."""
    lost = first_lost(tried)
    return max((i for i in tried if lost is None or i < lost), default=None)


def blows_up(tried: Tried) -> bool:
    """Return whether a run grew beyond the bound: there is a limit of stability to be found."""
    return any(outcome.blown for outcome in tried.values())


def best(tried: Tried) -> int | None:
    """Return the point of the least value; of equal ones that nearest to the middle of them."""
    kept = {i: outcome.value for i, outcome in tried.items() if not outcome.lost}
    if not kept:
        return None
    least = min(kept.values())
    equal = [i for i, value in kept.items() if value == least]
    middle = (min(equal) + max(equal)) / 2.0
    return min(equal, key=lambda i: (abs(i - middle), i))


def good_region(tried: Tried) -> tuple[int, int] | None:
    """Return the first and last point of the good region: the good points about the best one.

    They are neighbours among the points that were tried: a worse one between two good ones ends
    the region.

    Example:
        >>> good_region({0: Outcome(50.0), 4: Outcome(9.0), 8: Outcome(1.0), 9: Outcome(11.0)})
        (4, 8)
    """
    centre = best(tried)
    if centre is None:
        return None
    bound = GOOD * tried[centre].value

    def reach(points: list[int]) -> int:
        end = centre
        for i in points:
            if tried[i].lost or tried[i].value > bound:
                break
            end = i
        return end

    below = sorted((i for i in tried if i < centre), reverse=True)
    return reach(below), reach(sorted(i for i in tried if i > centre))


def _coarse(grid: Grid, window: tuple[int, int], tried: Tried) -> Iterable[int]:
    """Upwards to the first that is lost; out of the window while the best is at an end of it."""
    index, top = window
    least = math.inf
    while index <= top:
        yield index
        if index not in tried or tried[index].lost:
            break
        least = min(least, tried[index].value)
        hopeless = tried[index].value > HOPELESS * least
        index += grid.coarse * (2 if hopeless else 1)
    lowest, highest = min(tried), max(tried)
    if tried[lowest].lost or best(tried) == lowest:
        yield from _downwards(grid, window, lowest)
    if best(tried) == highest:
        yield from _upwards(grid, window, highest)


def _downwards(grid: Grid, window: tuple[int, int], least: int) -> Iterable[int]:
    if least - grid.coarse >= window[0] - grid.beyond:
        yield least - grid.coarse


def _upwards(grid: Grid, window: tuple[int, int], largest: int) -> Iterable[int]:
    if largest + grid.coarse <= window[1] + grid.beyond:
        yield largest + grid.coarse


def _around_limit(grid: Grid, window: tuple[int, int], tried: Tried) -> Iterable[int]:
    """Between the last point that is kept and the first that is lost; then below it.

    Where nothing blows up there is no limit of stability: a run that ends just above its start is
    not looked for.
    """
    kept, lost = limit(tried), first_lost(tried)
    if kept is not None and lost is not None and blows_up(tried):
        yield from _between(grid, kept, lost, grid.finest)
        yield from _fine(grid, kept - grid.near, kept)


def _around_best(grid: Grid, window: tuple[int, int], tried: Tried) -> Iterable[int]:
    centre, lost = best(tried), first_lost(tried)
    if centre is None:
        return
    top = centre + grid.near if lost is None else min(centre + grid.near, lost)
    points = _fine(grid, centre - grid.near, min(top, max(window[1], *tried)))
    yield from sorted(points, key=lambda i: (abs(i - centre), i))


def _at_edges(grid: Grid, window: tuple[int, int], tried: Tried) -> Iterable[int]:
    """Between the ends of the good region and their neighbours outside."""
    region = good_region(tried)
    if region is None:
        return
    low, high = region
    step = grid.finest if high - low <= 2 * grid.near else grid.fine
    below = max((i for i in tried if i < low), default=None)
    above = min((i for i in tried if i > high), default=None)
    if below is None:
        yield from _downwards(grid, window, low)
    else:
        yield from _between(grid, below, low, step)
    if above is None:
        yield from _upwards(grid, window, high)
    else:
        yield from _between(grid, high, above, step)


def _between(grid: Grid, low: int, high: int, step: int) -> Iterable[int]:
    """The middle of an interval that is wider than ``step``: on the fine points while there are."""
    if high - low > step:
        middle = (low + high) // 2
        fine = round(middle / grid.fine) * grid.fine
        yield fine if low < fine < high else middle


def _fine(grid: Grid, low: int, high: int) -> Iterable[int]:
    """The multiples of the fine step in an interval, its ends included."""
    return range(-(-low // grid.fine) * grid.fine, high + 1, grid.fine)
