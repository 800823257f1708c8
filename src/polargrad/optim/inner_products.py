"""How two matrices lie to each other: their inner product and both squares, read once."""

from __future__ import annotations

import torch
from torch import Tensor

from polargrad.linalg.precision import double_dtype, working_dtype

__all__ = ["inner_product", "products", "products_on_host", "projection", "projection_on_host"]

# Parts of so many entries stay in a processor's own cache between the products of them.
PART = 2**17
# Squares of float32 whose sums lie between these have lost nothing to overflow or underflow.
SMALLEST, LARGEST = 1e-24, 1e36


def products(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return :math:`\langle X, Y\rangle, \|X\|_F^2, \|Y\|_F^2` without a look at them.

    Args:
        x, y: matrices of one shape, of any real dtypes, on one device.

    Returns:
        Three tensors of one number each, in float64, in which the squares of float32 and narrower
        dtypes neither overflow nor vanish.

    Example:
        >>> torch.stack(products(torch.eye(2), torch.full((2, 2), 0.5)))
        tensor([1.0000, 2.0000, 1.0000], dtype=torch.float64)
    """
    y = y.to(working_dtype(x.dtype))
    inner, of_x = projection(x, y)
    return inner, of_x, torch.linalg.vector_norm(y, dtype=double_dtype(y.dtype)).square()


def inner_product(x: Tensor, y: Tensor) -> Tensor:
    r"""Return :math:`\langle X, Y\rangle` of two matrices of one dtype: one number, in float64.

    Example:
        >>> inner_product(torch.eye(2), torch.full((2, 2), 0.5))
        tensor(1., dtype=torch.float64)
    """
    total: Tensor = torch.linalg.vecdot(x, y).sum(dtype=double_dtype(x.dtype))
    return total


def projection(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return :math:`\langle X, Y\rangle` and :math:`\|X\|_F^2`, as :func:`products` does."""
    x = x.to(working_dtype(x.dtype))
    square = torch.linalg.vector_norm(x, dtype=double_dtype(x.dtype)).square()
    return inner_product(x, y.to(x.dtype)), square


def products_on_host(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return what :func:`products` does, of matrices on a CPU, reading each of them once.

    Both are taken part by part to the wider of their dtypes, so that neither is copied as a whole.

    Example:
        >>> products_on_host(torch.eye(2), torch.full((2, 2), 0.5))[0]
        tensor(1., dtype=torch.float64)
    """
    inner, *squares = _summed(x, y, 2)
    if x.dtype != torch.float64 and not all(SMALLEST < float(s) < LARGEST for s in squares):
        return products(x, y)
    return inner, squares[0], squares[1]


def projection_on_host(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return what :func:`projection` does, of matrices on a CPU, reading each of them once.

    Example:
        >>> projection_on_host(torch.eye(2), torch.full((2, 2), 0.5))
        (tensor(1., dtype=torch.float64), tensor(2., dtype=torch.float64))
    """
    inner, square = _summed(x, y, 1)
    if x.dtype != torch.float64 and not SMALLEST < float(square) < LARGEST:
        return projection(x, y)
    return inner, square


def _summed(x: Tensor, y: Tensor, squares: int) -> tuple[Tensor, ...]:
    """The inner product of two matrices, and the squares of one or both of them."""
    dtype = working_dtype(x.dtype)
    if x.is_contiguous() and y.is_contiguous():
        size, matrices = PART, (x.view(-1), y.view(-1))
        pieces = [torch.split(m, PART) for m in matrices]
    else:
        size = max(1, PART // max(1, x.shape[1])) * x.shape[1]
        pieces = [torch.split(m, size // x.shape[1]) for m in (x, y)]
    copied = [m.dtype != dtype or m.ndim > 1 for m in (pieces[0][0], pieces[1][0])]
    room = torch.empty(2, min(size, x.numel()), dtype=dtype)
    sums = []
    for a, b in zip(*pieces, strict=True):
        if copied[0]:
            a = _copied(a, room[0])
        if copied[1]:
            b = _copied(b, room[1])
        sums += [a.dot(b), a.dot(a)]
        if squares > 1:
            sums.append(b.dot(b))
    return torch.stack(sums).view(-1, 1 + squares).sum(0, dtype=torch.float64).unbind()


def _copied(part: Tensor, place: Tensor) -> Tensor:
    """Some entries in a row, copied to a place of another dtype."""
    flat = place[: part.numel()]
    flat.view(part.shape).copy_(part)
    return flat
