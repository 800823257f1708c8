"""Times that can be compared: all candidates in turn, round after round, and ratios by round."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

# A call shorter than this is repeated within its turn: below it the clock and the caller matter.
SHORTEST_TURN = 2e-3
MOST_CALLS_A_TURN = 100


def time_in_rounds(
    calls: Mapping[str, Callable[[], object]],
    *,
    repetitions: int,
    budget: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time the calls in interleaved rounds and return the milliseconds a call of each round.

    Every call takes part in the first rounds, in an order that changes from round to round; two
    calls are therefore timed next to each other in every round that both take part in. A call
    whose ``repetitions`` would take more than its equal share of the ``budget`` is in fewer rounds,
    at least in one. Each is warmed up before, outside of the times and of the budget.

    Args:
        calls: by label; each must have returned only when its work is done.
        repetitions: rounds, at least 1.
        budget: seconds for all rounds together.
        clock: seconds.

    Example:
        >>> times = time_in_rounds({"nothing": lambda: None}, repetitions=3, budget=1.0)
        >>> len(times["nothing"])
        3
    """
    share = budget / max(len(calls), 1)
    turns: dict[str, int] = {}
    rounds: dict[str, int] = {}
    for label, call in calls.items():
        seconds = _seconds(call, 1, clock)
        if seconds < share:  # a call that is slower than that is in one round however it is warmed
            seconds = _seconds(call, 1, clock)
        turns[label] = max(1, min(MOST_CALLS_A_TURN, math.ceil(SHORTEST_TURN / max(seconds, 1e-9))))
        affordable = int(share / max(seconds * turns[label], 1e-9))
        rounds[label] = max(1, min(repetitions, affordable))
    order = random.Random(0)
    times: dict[str, list[float]] = {label: [] for label in calls}
    for number in range(max(rounds.values(), default=0)):
        labels = [label for label in calls if rounds[label] > number]
        order.shuffle(labels)
        for label in labels:
            times[label].append(1e3 * _seconds(calls[label], turns[label], clock))
    return times


def _seconds(call: Callable[[], object], number: int, clock: Callable[[], float]) -> float:
    """Seconds a call takes, on average over ``number`` of them."""
    began = clock()
    for _ in range(number):
        call()
    return (clock() - began) / number


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the lower quartile, the median and the upper quartile.

    Example:
        >>> quartiles([3.0, 1.0, 2.0])
        (1.5, 2.0, 2.5)
        >>> quartiles([7.0])
        (7.0, 7.0, 7.0)
    """
    if len(values) == 1:
        return (values[0],) * 3
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return lower, median, upper


def ratio(times: Sequence[float], reference: Sequence[float]) -> tuple[float, float]:
    """Return the median and the better (lower) quartile of time over reference, round by round.

    Example:
        >>> ratio([1.0, 4.0, 3.0], [2.0, 4.0, 4.0])
        (0.75, 0.625)
    """
    lower, median, _ = quartiles([t / r for t, r in zip(times, reference, strict=False)])
    return median, lower
