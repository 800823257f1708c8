r"""Products and factorizations that use symmetry, in blocks where that is faster.

A symmetric product has half the entries to compute, which the library's product does not know; a
blocked Cholesky factorization with inverted diagonal blocks does nearly all of its work in
products. For one large matrix on a CPU both take 0.5 to 0.9 of the library's time. Large
symmetric products on a GPU go to :mod:`polargrad.linalg.kernels` where Triton can be imported.
Stacks, small matrices and other devices go to the library.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from polargrad.linalg import kernels
from polargrad.linalg.preparation import is_plain

__all__ = [
    "LEAST_INVERSE",
    "SpdFactor",
    "factorize",
    "gram",
    "inner",
    "inverse_triangle",
    "lies_transposed",
    "shifted_inverse",
    "solve_right",
    "symmetric_product",
    "times",
]

# Measured with one thread and with two, in both precisions: below these sizes the blocks cost more
# than they save. That depends on the processor: on an AMD EPYC symmetric products pay from 6
# million multiplications for each thread on and factorizations from 128 columns, on an Intel Xeon
# from 60 million and from 450; inverses from some 1000 there, if at all. The sums of long columns
# are batched up to 128 of them.
LEAST_WORK = 40_000_000
LEAST_COLUMNS = 96
LEAST_LOOP_COLUMNS = 128
LEAST_FACTOR = 448
LEAST_INVERSE = 896
STRIP = 256
# Rows whose products are summed by the library; more of them where one piece's product is large.
PIECE = 512
LARGE_PIECE = 1024
# 96 rather than 64 or 128: block columns that are not a power of two apart stay in the cache.
BLOCK = 96


class SpdFactor(NamedTuple):
    """A Cholesky factorization :math:`M = LL^{\\mathsf H}` of a stack of matrices.

    Attributes:
        lower: L; in a blocked factorization what stands above its diagonal is meaningless.
        inverses: the inverted diagonal blocks of L, or None for the library's factorization.
        info: int32, nonzero for a matrix that is not positive definite to rounding, whose L is
            meaningless. Nothing is raised and nothing is synchronized.
    """

    lower: Tensor
    inverses: tuple[Tensor, ...] | None
    info: Tensor


def gram(x: Tensor) -> Tensor:
    r"""Return :math:`X^{\mathsf H}X`, shape (..., n, n).

    On a CPU, long columns are summed in pieces: the library's sums of 20000 terms are off by up to
    40 eps of the largest one, those of pieces by 2, in the same time or less.

    Example:
        >>> gram(torch.tensor([[1.0, 2.0]]))
        tensor([[1., 2.],
                [2., 4.]])
    """
    rows, columns = x.shape[-2:]
    if rows < 2 * PIECE or x.device.type != "cpu":
        return symmetric_product(x.mH, x)
    if columns < LEAST_LOOP_COLUMNS or x.ndim > 2:
        number = rows // PIECE
        shape = (*x.shape[:-2], number, PIECE, columns)
        pieces = x[..., : number * PIECE, :].reshape(shape)
        rest = x[..., number * PIECE :, :]
        total: Tensor = (pieces.mH @ pieces).sum(dim=-3) + rest.mH @ rest
        return total
    first, *others = torch.split(x, LARGE_PIECE, dim=-2)
    whole = symmetric_product(first.mH, first)
    for piece in others:
        whole = whole + symmetric_product(piece.mH, piece)
    return whole


def lies_transposed(x: Tensor) -> bool:
    """Whether the columns of each matrix lie one after the other, as of a wide one's transpose."""
    return x.stride(-2) == 1 and x.stride(-1) >= x.shape[-2] > 1 and x.shape[-1] > 1


def times(x: Tensor, w: Tensor) -> Tensor:
    r"""Return :math:`XW`, which lies in memory as X does.

    The transpose of a wide matrix becomes the transpose of a wide product, so that nothing that is
    done with the product and the matrix later has to read one of them across.

    Example:
        >>> times(torch.ones(2, 3).mT, torch.eye(2)).mT.is_contiguous()
        True
    """
    if is_plain(x) and is_plain(w) and lies_transposed(x):
        return (w.mT @ x.mT).mT
    return x @ w


def symmetric_product(left: Tensor, right: Tensor) -> Tensor:
    """Return left · right, of which the caller knows that it is Hermitian.

    Example:
        >>> square = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
        >>> symmetric_product(square, square)
        tensor([[ 5.,  5.],
                [ 5., 10.]])
    """
    if kernels.covers(left, right):
        return kernels.tiled_product(left, right)
    n, length = left.shape[-2:]
    if n < LEAST_COLUMNS or length * n * n < LEAST_WORK * torch.get_num_threads():
        return left @ right
    if not (_in_blocks(left) and _in_blocks(right)):
        return left @ right
    result = left.new_empty(n, n)
    # Two halves, of which the library likes the one that ends at a multiple of 16.
    strip = STRIP if n >= 2 * STRIP else (n // 2 + 15) // 16 * 16
    for start in range(0, n, strip):
        stop = min(start + strip, n)
        torch.mm(left[start:stop], right[:, start:], out=result[start:stop, start:])
        result[stop:, start:stop] = result[start:stop, stop:].mH
    return result


def factorize(
    matrix: Tensor, shift: Tensor | float = 0.0, scale: Tensor | float = 1.0
) -> SpdFactor:
    r"""Return the Cholesky factorization of scale · M + shift · I.

    Args:
        matrix: M, shape (..., n, n), Hermitian. Not changed.
        shift: a number, or one for each matrix as (..., 1).
        scale: a number, or one for each matrix as (..., 1, 1).

    Example:
        >>> factorize(torch.eye(2), shift=3.0).lower
        tensor([[2., 0.],
                [0., 2.]])
    """
    shifted = _shifted(matrix, shift, scale)
    n = matrix.shape[-1]
    if n < LEAST_FACTOR or not _in_blocks(shifted):
        lower, info = _cholesky(shifted)
        return SpdFactor(lower, None, info)
    lower = torch.empty_like(shifted)
    identity = torch.eye(BLOCK, dtype=matrix.dtype)
    inverses, infos = [], []
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        column = shifted[start:, start:stop]
        if start:
            done = lower[start:, :start]
            column = torch.addmm(column, done, done[: stop - start].mH, alpha=-1)
        corner, info = _cholesky(column[: stop - start])
        inverse = torch.linalg.solve_triangular(
            corner, identity[: stop - start, : stop - start], upper=False
        )
        lower[start:stop, start:stop] = corner
        if stop < n:
            torch.mm(column[stop - start :], inverse.mH, out=lower[stop:, start:stop])
        inverses.append(inverse)
        infos.append(info)
    return SpdFactor(lower, tuple(inverses), torch.stack(infos).amax(dim=0))


def _shifted(matrix: Tensor, shift: Tensor | float, scale: Tensor | float = 1.0) -> Tensor:
    """A new matrix: scale · M + shift · I."""
    plain = isinstance(scale, float) and scale == 1.0
    shifted = matrix.clone() if plain else scale * matrix
    shifted.diagonal(dim1=-2, dim2=-1).add_(shift)
    return shifted


def _cholesky(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """L and info, by the upper triangle: that takes the library 0.6 to 0.75 of the time on a CPU.

    In float32 from some 64 columns on; below them, and in float64, the same.
    """
    upper, info = torch.linalg.cholesky_ex(matrix, upper=True)
    return upper.mH, info


def solve_right(x: Tensor, factor: SpdFactor) -> Tensor:
    r"""Return :math:`X M^{-1}` for the factorized M.

    Args:
        x: shape (..., m, n). Not changed.
        factor: of n × n matrices.

    Example:
        >>> solve_right(torch.ones(1, 2), factorize(torch.eye(2), 3.0))
        tensor([[0.2500, 0.2500]])
    """
    lower, inverses, _ = factor
    if inverses is None:
        half = torch.linalg.solve_triangular(lower.mH, x, upper=True, left=False)
        solved: Tensor = torch.linalg.solve_triangular(lower, half, upper=False, left=False)
        return solved
    n = lower.shape[-1]
    result = torch.empty_like(x, memory_format=torch.contiguous_format)
    starts = range(0, n, BLOCK)
    for start, inverse in zip(starts, inverses, strict=True):
        stop = start + inverse.shape[-1]
        column = x[:, start:stop]
        if start:
            column = torch.addmm(column, result[:, :start], lower[start:stop, :start].mH, alpha=-1)
        torch.mm(column, inverse.mH, out=result[:, start:stop])
    for start, inverse in zip(reversed(starts), reversed(inverses), strict=True):
        stop = start + inverse.shape[-1]
        if stop < n:
            below = lower[stop:, start:stop]
            column = torch.addmm(result[:, start:stop], result[:, stop:], below, alpha=-1)
            torch.mm(column, inverse, out=result[:, start:stop])
        else:
            result[:, start:stop] = result[:, start:stop] @ inverse
    return result


def _in_blocks(x: Tensor) -> bool:
    """Whether x is one matrix on a CPU that may be worked on in place."""
    return x.ndim == 2 and x.device.type == "cpu" and is_plain(x)


def inverse_triangle(factor: SpdFactor) -> Tensor:
    r"""Return :math:`L^{-1}`, lower triangular, so that :math:`M^{-1} = L^{-\mathsf H}L^{-1}`.

    Example:
        >>> inverse_triangle(factorize(torch.eye(2), 3.0))
        tensor([[0.5000, 0.0000],
                [0.0000, 0.5000]])
    """
    lower, inverses, _ = factor
    n = lower.shape[-1]
    if inverses is None:
        identity = torch.eye(n, dtype=lower.dtype, device=lower.device)
        identity = identity.expand_as(lower)
        triangle: Tensor = torch.linalg.solve_triangular(lower, identity, upper=False)
        return triangle
    result = torch.zeros_like(lower)
    for start, inverse in zip(range(0, n, BLOCK), inverses, strict=True):
        stop = start + inverse.shape[-1]
        result[start:stop, start:stop] = inverse
        if start:
            left = lower[start:stop, :start] @ result[:start, :start]
            result[start:stop, :start] = (-inverse) @ left
    return result


def inner(a: Tensor, u: Tensor) -> Tensor:
    r"""Return :math:`\operatorname{Re}\langle A, U\rangle` of each matrix in float64, shape (...).

    The long side is summed pairwise in the working dtype, those sums in float64: as good as U is,
    in a tenth of the time that a sum in float64 of all products takes.

    Example:
        >>> inner(torch.eye(2), torch.eye(2))
        tensor(2., dtype=torch.float64)
    """
    terms = (a.conj() * u).real if a.is_complex() else a * u
    long = -2 if a.shape[-2] > a.shape[-1] else -1
    total: Tensor = terms.sum(dim=long).sum(dim=-1, dtype=torch.float64)
    return total


def shifted_inverse(matrix: Tensor, shift: float) -> tuple[Tensor, Tensor]:
    r"""Return :math:`(M + sI)^{-1}`, and the info of its factorization, see :class:`SpdFactor`.

    Args:
        matrix: M, shape (..., n, n), Hermitian. Not changed.
        shift: s.

    Example:
        >>> shifted_inverse(torch.eye(2), 3.0)[0] + 0.0
        tensor([[0.2500, 0.0000],
                [0.0000, 0.2500]])
    """
    if matrix.shape[-1] >= LEAST_INVERSE and _in_blocks(matrix):
        factor = factorize(matrix, shift)
        return gram(inverse_triangle(factor)), factor.info
    lower, info = _cholesky(_shifted(matrix, shift))
    # By the upper triangle, as it was computed.
    inverse = torch.cholesky_inverse(lower.mH, upper=True)
    # Symmetric to the last bit, and by columns: what it is added to lies by rows.
    return inverse if inverse.is_complex() else inverse.mT, info
