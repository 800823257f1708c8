"""Views: which logical matrices a parameter holds, as plain data that is saved with the state.

=============================================  ==================================================
``{"kind": "whole"}``                          a matrix is a matrix
``{"kind": "flatten"}``                        first dimension × all others (a convolution)
``{"kind": "taps"}``                           one matrix for each tap of a convolution
``{"kind": "experts", "each": …}``             the leading dimensions count matrices
``{"kind": "split", "parts": 3}``              equal blocks of rows (query, key, value; gates)
``{"kind": "split", "sizes": [8, 2, 2]}``      unequal blocks of rows (grouped queries)
``{"kind": "heads", "heads": 4, "dim": 0}``    one block of rows (1: of columns) for each head
``{"kind": "interleaved", "parts": 2}``        rows i, i + parts, … (gate and up by turns)
``{"kind": "interleaved", "groups": 2,         in each group of rows the same sizes in a row
"sizes": [8, 2, 2]}``                          (query, key and value of a head or of a group)
=============================================  ==================================================

``"each"`` is the view of every part, ``"parts_each"`` a list of one view a part; without them a
part is whole. With ``"transpose": True`` the matrix is stored as (inputs, outputs) and is turned
first. Every entry of a parameter belongs to exactly one logical matrix.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polargrad.optim.routing.cutting import Cut, cut, turn

__all__ = [
    *("FLATTEN", "WHOLE", "Region", "View"),
    *("check", "conv", "experts", "heads", "interleaved", "logical_shapes", "regions", "split"),
]

View = dict[str, Any]
WHOLE: View = {"kind": "whole"}
FLATTEN: View = {"kind": "flatten"}
# What each kind may say beside its name.
OPTIONS: dict[str, frozenset[str]] = {
    "whole": frozenset({"transpose"}),
    "flatten": frozenset({"transpose"}),
    "taps": frozenset({"transpose"}),
    "experts": frozenset({"each", "leading"}),
    "stack": frozenset(),  # experts, whole: the name in states of version 0.1
    "split": frozenset({"parts", "sizes", "each", "parts_each", "transpose"}),
    "heads": frozenset({"heads", "dim", "each", "transpose"}),
    "interleaved": frozenset({"parts", "groups", "sizes", "each", "parts_each", "transpose"}),
}


class Region(NamedTuple):
    """One logical matrix where it lies: a view of the parameter's memory, never a copy.

    Attributes:
        tensor: its entries, with the dimensions of the rows first and those of the columns behind.
        rows: how many of the dimensions form the rows.

    A matrix goes back by ``region.tensor.copy_(matrix.reshape(region.tensor.shape))``.

    Example:
        >>> x = torch.zeros(2, 3, 5)  # a convolution with three inputs and five taps
        >>> (region,) = regions(FLATTEN, x)
        >>> region.shape, region.matrix().shape
        ((2, 15), torch.Size([2, 15]))
    """

    tensor: Tensor
    rows: int

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of the logical matrix."""
        shape = self.tensor.shape
        if self.rows == 1 and len(shape) == 2:
            return shape[0], shape[1]
        return math.prod(shape[: self.rows]), math.prod(shape[self.rows :])

    def matrix(self) -> Tensor:
        """Return the entries as a matrix (m, n): a view where the layout allows, or a copy."""
        plain = self.rows == 1 and self.tensor.ndim == 2
        return self.tensor if plain else self.tensor.reshape(self.shape)


def split(
    parts: int | Sequence[int],
    *,
    each: View | Sequence[View] | None = None,
    transpose: bool = False,
) -> View:
    """Return the view of a matrix that holds blocks of rows.

    Args:
        parts: how many equal blocks, or the number of rows of each block.
        each: the view of every block, or a list of one view a block; None for whole.
        transpose: whether the matrix is stored as (inputs, outputs).

    Example:
        >>> logical_shapes(split([4, 2, 2]), (8, 5))
        [(4, 5), (2, 5), (2, 5)]
    """
    blocks = {"parts": parts} if isinstance(parts, int) else {"sizes": list(parts)}
    return {"kind": "split", **blocks, **_inner(each), **_turned(transpose)}


def heads(count: int, *, dim: int = 0, each: View | None = None, transpose: bool = False) -> View:
    """Return the view of a matrix that holds one equal block of rows for each head.

    Args:
        count: how many heads.
        dim: 0 for blocks of rows (queries, keys, values), 1 for blocks of columns (the projection
            of the heads' outputs).
        each: the view of every block; None for whole.
        transpose: whether the matrix is stored as (inputs, outputs).

    Example:
        >>> logical_shapes(heads(2, dim=1), (6, 8))
        [(6, 4), (6, 4)]
    """
    return {"kind": "heads", "heads": count, "dim": dim, **_inner(each), **_turned(transpose)}


def interleaved(
    parts: int | None = None,
    *,
    groups: int | None = None,
    sizes: Sequence[int] | None = None,
    each: View | Sequence[View] | None = None,
    transpose: bool = False,
) -> View:
    """Return the view of a matrix whose parts take turns in its rows.

    Args:
        parts: row i belongs to part i mod ``parts``.
        groups: instead, how many equal groups of rows there are;
        sizes: and the number of rows of each part in every group.
        each: the view of every part, or a list of one view a part; None for whole.
        transpose: whether the matrix is stored as (inputs, outputs).

    Example:
        >>> x = torch.arange(6.0).reshape(6, 1)
        >>> [r.matrix().flatten().tolist() for r in regions(interleaved(2), x)]
        [[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]
        >>> [r.matrix().flatten().tolist() for r in regions(interleaved(groups=2, sizes=[2, 1]), x)]
        [[0.0, 1.0, 3.0, 4.0], [2.0, 5.0]]
    """
    turns: dict[str, Any] = {"parts": parts} if groups is None else {"groups": groups}
    if sizes is not None:
        turns["sizes"] = list(sizes)
    return {"kind": "interleaved", **turns, **_inner(each), **_turned(transpose)}


def experts(each: View | None = None, *, leading: int | None = None) -> View:
    """Return the view of a parameter whose leading dimensions count matrices.

    Args:
        each: the view of what is behind them; None for whole.
        leading: how many dimensions are leading; None for all but the last two.

    Example:
        >>> logical_shapes(experts(split(2)), (3, 8, 5))[:2]
        [(4, 5), (4, 5)]
    """
    return {
        "kind": "experts",
        **_inner(each),
        **({} if leading is None else {"leading": leading}),
    }


def conv(*, taps: bool = False, transpose: bool = False) -> View:
    """Return the view of a convolution's weight (outputs, inputs, taps …).

    Args:
        taps: one matrix (outputs, inputs) for each tap, instead of one matrix
            (outputs, inputs · taps).
        transpose: whether it is stored as (inputs, outputs, taps …), as a transposed convolution
            is; its one matrix is then (outputs · taps, inputs).

    Example:
        >>> logical_shapes(conv(), (8, 3, 5, 5)), logical_shapes(conv(taps=True), (8, 3, 1, 2))
        ([(8, 75)], [(8, 3), (8, 3)])
    """
    return {"kind": "taps" if taps else "flatten", **_turned(transpose)}


def _inner(each: View | Sequence[View] | None) -> View:
    """The views of the parts, under the key that says whether they are equal."""
    if each is None:
        return {}
    return {"each": each} if isinstance(each, dict) else {"parts_each": list(each)}


def _turned(transpose: bool) -> View:
    return {"transpose": True} if transpose else {}


def regions(view: Mapping[str, Any], x: Tensor) -> list[Region]:
    """Return the logical matrices of a tensor where they lie, in the order of the view.

    Each region shares the memory of ``x``, whatever its strides: writing to one writes to ``x``.

    Raises:
        ValueError: if the view is not one, or does not fit the shape; the message names both.

    Example:
        >>> x = torch.zeros(4, 3)
        >>> for number, region in enumerate(regions(split(2), x)):
        ...     _ = region.tensor.fill_(number)
        >>> x[:, 0]
        tensor([0., 0., 1., 1.])
    """
    try:
        if x.ndim < 2:
            raise ValueError("it needs at least two dimensions")
        return [Region(c.tensor, c.rows) for c in _walk(view, Cut(x, 1, x.ndim))]
    except ValueError as error:
        raise ValueError(
            f"view {dict(view)} does not fit shape {tuple(x.shape)}: {error}"
        ) from None


def _walk(view: Mapping[str, Any], whole: Cut) -> list[Cut]:
    """Take one cut apart, and its parts in turn."""
    kind = view.get("kind")
    if kind not in OPTIONS:
        raise ValueError(f"kind must be one of {', '.join(OPTIONS)}, got {kind!r}")
    strange = view.keys() - OPTIONS[kind] - {"kind"}
    if strange:
        allowed = ", ".join(sorted(OPTIONS[kind]))
        raise ValueError(f"{kind!r} may say {allowed}, got {', '.join(sorted(strange))}")
    if kind == "whole":
        if whole.dimensions != 2:
            raise ValueError(f"'whole' is for a matrix, got {whole.dimensions} dimensions")
        return [turn(whole) if view.get("transpose") else whole]
    if kind == "flatten":
        return [turn(whole) if view.get("transpose") else whole]
    if kind == "taps":
        taps = cut(view, whole)
        return [turn(tap) for tap in taps] if view.get("transpose") else taps
    parts = cut(view, turn(whole) if view.get("transpose") else whole)
    inner = view.get("parts_each", [view.get("each", WHOLE)] * len(parts))
    if len(inner) != len(parts):
        raise ValueError(f"parts_each must have {len(parts)} entries, got {len(inner)}")
    return [leaf for each, part in zip(inner, parts, strict=True) for leaf in _walk(each, part)]


def check(view: Mapping[str, Any], shape: tuple[int, ...]) -> None:
    """Raise ValueError unless a tensor of ``shape`` has this view; the message names both."""
    regions(view, torch.empty(shape, device="meta"))


def logical_shapes(view: Mapping[str, Any], shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """Return (m, n) of every logical matrix of a tensor of ``shape``, in order.

    Raises:
        ValueError: if the view is not one, or does not fit.

    Example:
        >>> logical_shapes(FLATTEN, (8, 3, 5, 5))
        [(8, 75)]
    """
    return [region.shape for region in regions(view, torch.empty(shape, device="meta"))]
