"""Which process works on which matrix: decided alike by all of them, without a word exchanged."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["assign", "imbalance"]


def assign(
    costs: Sequence[float], ranks: int, holders: Sequence[Sequence[int]] | None = None
) -> list[int]:
    """Return an owner for each matrix: the longest first, each to the process with least to do.

    The longest processing time first is within 4/3 − 1/(3R) of the best for R processes. Equal
    costs are taken in the order in which they are given, equal loads by the lower rank, so that the
    same arguments have the same result everywhere.

    Args:
        costs: of each matrix, at least 0, in any unit.
        ranks: R, how many processes there are.
        holders: for each matrix the processes that hold all of it, one of which owns it then,
            because nothing has to be sent to it; an empty list where none does, and any process
            may be the owner.

    Raises:
        ValueError: if there is no process, or not one list of holders for each cost.

    Example:
        >>> assign([1.0, 5.0, 3.0, 2.0], 2)
        [0, 0, 1, 1]

    Source: R. L. Graham, *Bounds on multiprocessing timing anomalies*, SIAM J. Appl. Math. 17
    (1969), 416–429.
    """
    if ranks < 1:
        raise ValueError(f"ranks must be at least 1, got {ranks}")
    everyone = range(ranks)
    may = [list(held) or everyone for held in holders] if holders else [everyone] * len(costs)
    if len(may) != len(costs):
        raise ValueError(f"holders must have {len(costs)} entries, got {len(may)}")
    owners, loads = [0] * len(costs), [0.0] * ranks
    # Those that have no choice first: the others fill up around them.
    order = sorted(range(len(costs)), key=lambda i: (len(may[i]) == ranks, -costs[i], i))
    for i in order:
        owners[i] = min(may[i], key=lambda rank: (loads[rank], rank))
        loads[owners[i]] += costs[i]
    return owners


def imbalance(costs: Sequence[float], owners: Sequence[int], ranks: int) -> float:
    """Return by how much the busiest process has more to do than the average one, as a share of it.

    Example:
        >>> imbalance([3.0, 1.0], [0, 1], 2)
        0.5
    """
    loads = [0.0] * ranks
    for cost, owner in zip(costs, owners, strict=True):
        loads[owner] += cost
    total = sum(loads)
    return max(loads) * ranks / total - 1.0 if total else 0.0
