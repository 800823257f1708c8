"""The routing table of a deep model in few lines: what repeats from layer to layer, once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace

from polargrad.optim.routing.explain import Explanation, Row

__all__ = ["condense"]

# A number that is a whole part of a qualified name: a layer's, an expert's, a place in a sequence.
NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")
# What stands before a number and after it, and all else that a row says but its size.
Pattern = tuple[str, str, Row]


def condense(explanation: Explanation) -> Explanation:
    """Return a table with one row for parameters that differ in the number of their layer alone.

    Such rows agree in everything else but the size of what they hold, which is added up. A row
    that differs in its rule, shape or rate keeps a line of its own. The totals do not change.
    Where a name has several numbers, the one that joins the most rows is the layer's.

    Args:
        explanation: as :func:`polargrad.explain` returns it.

    Example:
        >>> import polargrad as pg
        >>> from torch import nn
        >>> layers = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4)) for _ in range(9)))
        >>> condense(pg.explain(nn.Sequential(nn.Embedding(8, 4), layers))).rows[1].name
        '1.{0–8}.0.weight'
    """
    counts = Counter(pattern for row in explanation.rows for pattern, _ in _patterns(row))
    found: dict[Pattern, list[tuple[Row, int]]] = {}
    for row in explanation.rows:
        pattern, number = max(
            _patterns(row), key=lambda each: counts[each[0]], default=((row.name, "", row), 0)
        )
        found.setdefault(pattern, []).append((row, number))
    return replace(explanation, rows=tuple(_joined(*item) for item in found.items()))


def _patterns(row: Row) -> Iterator[tuple[Pattern, int]]:
    """For each number in the name of a row, the rest of the row and the number."""
    rest = replace(row, name="", numel=0)
    for match in NUMBER.finditer(row.name):
        before, after = row.name[: match.start()], row.name[match.end() :]
        yield (before, after, rest), int(match.group())


def _joined(pattern: Pattern, members: list[tuple[Row, int]]) -> Row:
    """One row in place of those of a pattern."""
    if len(members) == 1:
        return members[0][0]
    before, after, rest = pattern
    name = f"{before}{{{_ranges(number for _, number in members)}}}{after}"
    return replace(rest, name=name, numel=sum(row.numel for row, _ in members))


def _ranges(numbers: Iterable[int]) -> str:
    """The numbers as ranges, ``0–6, 8–11``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(f"{a}" if a == b else f"{a}–{b}" for a, b in runs)
