"""The paper's table of methods as data, and as tables for a page and a terminal.

``METHODS`` holds the entries (:mod:`polargrad.geometry.taxonomy_entries`), each with its view of
the parameter, the anisotropy that it addresses, its preconditioner, its behaviour under scaling and
symmetries, its point of the frame and its preset in :mod:`polargrad.optim`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from polargrad.geometry.taxonomy_entries import EXPLICIT, GROUPS, METHODS, Entry

__all__ = ["EXPLICIT", "GROUPS", "METHODS", "Entry", "as_markdown", "as_text", "to_data"]

PROPERTIES = (
    "method",
    "view",
    "anisotropy",
    "preconditioner",
    "null-gradient consistent",
    "degree",
    "commutes with",
    "κ of the update",
)
POINT = ("method", "update", "signal", "geometry", "magnitude", "in polargrad", "source")


def to_data(methods: Sequence[Entry] = METHODS) -> list[dict[str, Any]]:
    """Return the entries as plain data, which JSON can hold.

    Example:
        >>> to_data()[0]["name"]
        'gradient descent'
    """
    return [
        {**dataclasses.asdict(entry), "options": dict(entry.options), "call": entry.call}
        for entry in methods
    ]


def as_markdown(methods: Sequence[Entry] = METHODS) -> str:
    """Return two Markdown tables: what each method has, and which point of the frame it is.

    Example:
        >>> as_markdown().splitlines()[0][:24]
        '| method | view | anisot'
    """
    tables = []
    for heads, cells in ((PROPERTIES, _properties), (POINT, _point)):
        rows = [heads, ("---",) * len(heads), *(cells(entry) for entry in methods)]
        escaped = ([cell.replace("|", "\\|") for cell in row] for row in rows)
        tables.append("\n".join(f"| {' | '.join(row)} |" for row in escaped))
    return "\n\n".join(tables)


def as_text(methods: Sequence[Entry] = METHODS) -> str:
    """Return the properties as a table of plain text, and under it the update of each method.

    Example:
        >>> as_text().splitlines()[0].split()[:3]
        ['method', 'view', 'anisotropy']
    """
    rows = [PROPERTIES, *(_properties(entry) for entry in methods)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(PROPERTIES))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (rows[0], tuple("-" * width for width in widths), *rows[1:])
    ]
    updates = [f"{entry.name}: {entry.call}\n    {entry.rule}" for entry in methods]
    return "\n".join([*lines, "", *updates])


def _properties(entry: Entry) -> tuple[str, ...]:
    return (
        entry.name,
        entry.view,
        entry.anisotropy,
        entry.preconditioner,
        "yes" if entry.null_gradient_consistent else "no",
        f"{entry.scale_degree:g}",
        entry.equivariance,
        "" if entry.condition_number is None else f"{entry.condition_number:g}",
    )


def _point(entry: Entry) -> tuple[str, ...]:
    return (
        entry.name,
        entry.rule,
        entry.signal,
        *(f"`{name}`" for name in (entry.geometry, entry.magnitude, entry.call)),
        entry.source,
    )
