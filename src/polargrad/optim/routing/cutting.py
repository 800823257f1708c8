"""Cuts: parts of a tensor as views of its memory, whatever its strides.

A step along rows can only be a view while the rows stay apart: ``reshape`` would merge dimensions
and copy where the strides forbid it. So a part keeps as many dimensions as its memory needs, and
remembers how many of them are rows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor


class Cut(NamedTuple):
    """A part of a tensor.

    Attributes:
        tensor: its entries, a view, row dimensions first.
        rows: how many dimensions form the rows.
        dimensions: how many dimensions the part has as its module sees it: 2 for a matrix, however
            many it takes to keep its rows apart.
    """

    tensor: Tensor
    rows: int
    dimensions: int

    @property
    def height(self) -> int:
        """How many rows it has."""
        return math.prod(self.tensor.shape[: self.rows])


def turn(whole: Cut) -> Cut:
    """Return the transpose: column dimensions first, then those of the rows."""
    count = whole.tensor.ndim
    order = [*range(whole.rows, count), *range(whole.rows)]
    return Cut(whole.tensor.permute(order), count - whole.rows, whole.dimensions)


def cut(view: Mapping[str, Any], whole: Cut) -> list[Cut]:
    """Return the parts of one level of a view; ValueError says why it does not fit."""
    match view["kind"]:
        case "taps":
            return _taps(whole)
        case "experts" | "stack":
            return _experts(whole, view.get("leading"))
        case "split":
            return _split(whole, view)
        case "heads":
            return _heads(whole, view)
    return _interleaved(whole, view)


def _taps(whole: Cut) -> list[Cut]:
    """One matrix (outputs, inputs) for each tap."""
    if whole.dimensions < 3 or whole.rows != 1:
        raise ValueError(f"'taps' needs at least three dimensions, got {whole.dimensions}")
    places = itertools.product(*(range(size) for size in whole.tensor.shape[2:]))
    taps_first = whole.tensor.movedim((0, 1), (-2, -1))
    return [Cut(taps_first[place], 1, 2) for place in places]


def _experts(whole: Cut, leading: int | None) -> list[Cut]:
    """What is behind the leading dimensions, once for each of their indices."""
    if whole.rows != 1 or whole.tensor.ndim != whole.dimensions:
        raise ValueError("'experts' must come before all that takes rows apart")
    leading = whole.dimensions - 2 if leading is None else leading
    if not isinstance(leading, int) or not 0 <= leading <= whole.dimensions - 2:
        raise ValueError(f"leading must be from 0 to {whole.dimensions - 2}, got {leading!r}")
    places = itertools.product(*(range(size) for size in whole.tensor.shape[:leading]))
    return [Cut(whole.tensor[place], 1, whole.dimensions - leading) for place in places]


def _split(whole: Cut, view: Mapping[str, Any]) -> list[Cut]:
    """Blocks of rows, equal or of given sizes."""
    if ("parts" in view) == ("sizes" in view):
        raise ValueError("'split' says either parts or sizes")
    if "parts" in view:
        parts = _count("parts", view["parts"])
        if whole.height % parts:
            raise ValueError(f"{whole.height} rows cannot be split into {parts} equal parts")
        sizes = [whole.height // parts] * parts
    else:
        sizes = _sizes(view["sizes"])
        if sum(sizes) != whole.height:
            raise ValueError(f"sizes {sizes} are not {whole.height} rows in all")
    starts = itertools.accumulate(sizes[:-1], initial=0)
    return [
        Cut(*_rows(whole.tensor, whole.rows, start, size), whole.dimensions)
        for start, size in zip(starts, sizes, strict=True)
    ]


def _heads(whole: Cut, view: Mapping[str, Any]) -> list[Cut]:
    """One equal block of rows, or of columns, for each head."""
    count, dim = _count("heads", view.get("heads")), view.get("dim", 0)
    if dim not in (0, 1):
        raise ValueError(f"dim must be 0 or 1, got {dim!r}")
    side = whole if dim == 0 else turn(whole)
    if side.height % count:
        name = ("rows", "columns")[dim]
        raise ValueError(f"{side.height} {name} cannot be split into {count} heads")
    blocks = _split(side, {"parts": count})
    return blocks if dim == 0 else [turn(block) for block in blocks]


def _interleaved(whole: Cut, view: Mapping[str, Any]) -> list[Cut]:
    """Parts that take turns, row by row or in groups of rows."""
    grouped = "groups" in view
    if grouped == ("parts" in view) or grouped != ("sizes" in view):
        raise ValueError("'interleaved' says either parts, or groups and sizes")
    last = whole.rows - 1
    fastest = whole.tensor.shape[last]
    if not grouped:
        parts = _count("parts", view["parts"])
        if fastest % parts:
            raise ValueError(f"{fastest} rows cannot be split into {parts} parts by turns")
        turns = _apart(whole.tensor, last, fastest // parts, parts)
        return [Cut(turns.select(last + 1, i), whole.rows, whole.dimensions) for i in range(parts)]
    groups, sizes = _count("groups", view["groups"]), _sizes(view["sizes"])
    if whole.rows != 1 or groups * sum(sizes) != fastest:
        raise ValueError(f"{groups} groups of {sizes} rows are not {whole.height} rows in all")
    apart = _apart(whole.tensor, 0, groups, sum(sizes))
    starts = itertools.accumulate(sizes[:-1], initial=0)
    return [
        Cut(apart.narrow(1, start, size), 2, whole.dimensions)
        for start, size in zip(starts, sizes, strict=True)
    ]


def _apart(tensor: Tensor, dim: int, outer: int, inner: int) -> Tensor:
    """One dimension as two; always possible without a copy."""
    return tensor.view(*tensor.shape[:dim], outer, inner, *tensor.shape[dim + 1 :])


def _rows(tensor: Tensor, rows: int, start: int, length: int) -> tuple[Tensor, int]:
    """Rows ``start`` to ``start + length`` of the first ``rows`` dimensions, as a view."""
    if rows == 1:
        return tensor.narrow(0, start, length), 1
    inner = math.prod(tensor.shape[1:rows])
    if inner and start % inner == 0 and length % inner == 0:
        return tensor.narrow(0, start // inner, length // inner), rows
    if inner and start // inner == (start + length - 1) // inner:
        return _rows(tensor.select(0, start // inner), rows - 1, start % inner, length)
    if not inner and not length:
        return tensor.narrow(0, 0, 0), rows
    raise ValueError(f"rows {start} to {start + length} cross groups of {inner} rows")


def _count(name: str, value: object) -> int:
    """A positive integer."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be at least 1, got {value!r}")
    return value


def _sizes(values: object) -> list[int]:
    """A list of numbers of rows, none of them negative."""
    if (
        not isinstance(values, Sequence)
        or not values
        or not all(isinstance(v, int) and v >= 0 for v in values)
    ):
        raise ValueError(f"sizes must be numbers of rows, got {values!r}")
    return list(values)
