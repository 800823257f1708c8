"""Views: which logical matrices a parameter holds, as plain data that is saved with the state.

======================================  ====================================================
``{"kind": "whole"}``                   a matrix is a matrix
``{"kind": "flatten"}``                 the first dimension × all others (a convolution)
``{"kind": "stack"}``                   the last two dimensions, for each of the leading ones
``{"kind": "split", "parts": 3}``       equal blocks of rows (fused query, key, value; gates)
======================================  ====================================================

With ``"transpose": True`` the matrix is stored as (inputs, outputs), and is turned first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

View = dict[str, Any]
WHOLE: View = {"kind": "whole"}
FLATTEN: View = {"kind": "flatten"}
STACK: View = {"kind": "stack"}
KINDS = ("whole", "flatten", "stack", "split")


def split(parts: int, *, transpose: bool = False) -> View:
    """Return the view of a matrix that holds ``parts`` equal blocks of rows."""
    return {"kind": "split", "parts": parts, **({"transpose": True} if transpose else {})}


def logical_matrices(view: Mapping[str, Any], x: Tensor) -> list[Tensor]:
    """Return the logical matrices of a tensor, views of it where its layout allows.

    Raises:
        ValueError: if the view does not fit the shape; the message names both.

    Example:
        >>> [tuple(part.shape) for part in logical_matrices(split(3), torch.zeros(6, 5))]
        [(2, 5), (2, 5), (2, 5)]
    """
    check(view, tuple(x.shape))
    match view["kind"]:
        case "flatten":
            return [x.reshape(x.shape[0], -1)]
        case "stack":
            return list(x.reshape(-1, *x.shape[-2:]).unbind(0))
    turned = x.mT if view.get("transpose") else x
    if view["kind"] == "split":
        return list(turned.chunk(view["parts"], dim=0))
    return [turned]


def join(view: Mapping[str, Any], matrices: Sequence[Tensor], shape: torch.Size) -> Tensor:
    """Return the tensor of ``shape`` that holds these logical matrices: the inverse of the above.

    Example:
        >>> x = torch.arange(12.0).reshape(6, 2)
        >>> torch.equal(join(split(3), logical_matrices(split(3), x), x.shape), x)
        True
    """
    if view["kind"] == "stack":
        return torch.stack(list(matrices)).reshape(shape)
    joined = torch.cat(list(matrices), dim=0) if view["kind"] == "split" else matrices[0]
    return joined.mT if view.get("transpose") else joined.reshape(shape)


def check(view: Mapping[str, Any], shape: tuple[int, ...]) -> None:
    """Raise ValueError unless a tensor of ``shape`` has this view."""
    kind = view.get("kind")
    if kind not in KINDS:
        raise ValueError(f"view must be one of {', '.join(KINDS)}, got {kind!r}")
    if kind in ("whole", "split") and len(shape) != 2:
        raise ValueError(f"view {kind!r} is for a matrix, got shape {shape}")
    if len(shape) < 2:
        raise ValueError(f"view {kind!r} needs at least two dimensions, got shape {shape}")
    rows = shape[1] if view.get("transpose") else shape[0]
    if kind == "split" and (view.get("parts", 0) < 1 or rows % view["parts"]):
        raise ValueError(f"{rows} rows cannot be split into {view.get('parts')} equal parts")


def logical_shape(view: Mapping[str, Any], shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return how many logical matrices a tensor of ``shape`` holds, and their (m, n).

    Example:
        >>> logical_shape(FLATTEN, (8, 3, 5, 5))
        (1, 8, 75)
    """
    example = logical_matrices(view, torch.empty(shape, device="meta"))
    if not example:
        return 0, shape[-2], shape[-1]
    return len(example), example[0].shape[0], example[0].shape[1]
