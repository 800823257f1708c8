"""Rows of a benchmark: in groups, as CSV, and as lines of text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from polargrad.records import write_atomically

Row = dict[str, Any]


def write_csv(path: Path, rows: Iterable[Row], columns: Sequence[str]) -> None:
    """Write these columns of the rows; what a row does not have is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, lambda file: file.write(text.getvalue().encode()))


def by(rows: Iterable[Row], *keys: str) -> dict[tuple[str, ...], list[Row]]:
    """Return the rows in groups of equal values of the keys, in order of first appearance."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(str(row[key]) for key in keys), []).append(row)
    return groups


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines with their cells in columns: the first to the left, the others to the right.

    Example:
        >>> aligned([("", "ms"), ("svd", "12.5")])
        ['       ms', 'svd  12.5']
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def left_out(rows: Iterable[Row], *keys: str) -> list[str]:
    """Return a line for each candidate that was left out, with the cases unless in all of them."""
    rows = list(rows)
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row["skipped"]:
            cases = reasons.setdefault(f"{row['label']}: {row['skipped']}", [])
            cases.append(" ".join(str(row[key]) for key in keys))
    everywhere = len(by(rows, *keys))
    return [
        f"left out: {what}" + ("" if len(cases) == everywhere else f" ({', '.join(cases)})")
        for what, cases in reasons.items()
    ]
