r"""Symmetric products on a GPU: the tiles on and below the diagonal, and their mirror images.

With c = ⌈n/block⌉ tiles a side, c(c + 1)/2 of c² are computed: 0.53 of the work for c = 16. This
file imports no Triton; nothing is compiled before the first product of its kind.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from polargrad.linalg.preparation import is_plain

__all__ = ["LEAST_SIZE", "TILES", "Tiles", "covers", "tiled_product", "tiles_for"]


class Tiles(NamedTuple):
    """How a product is cut.

    Attributes:
        block: rows and columns of a tile of the result.
        depth: how many terms of each sum are loaded at a time.
        warps: groups of 32 threads that share a tile.
        stages: how many loads are under way at a time.
    """

    block: int
    depth: int
    warps: int
    stages: int


# Below this size the tiles of one matrix are fewer than a large GPU has processors.
LEAST_SIZE = 1024
# From which size on which tiles: fixed, so that all ranks and all runs sum in the same order.
# Chosen by arithmetic, not yet measured: 64 rows give 136 tiles at 1024, 128 rows at 2048, about
# one for each processor of a large GPU. 128 × 64 half precision entries of both factors in three
# stages take 96 of the 99 KiB of shared memory that compute capability 8.0 and later ones have.
# Products in full float32 use no matrix units, so that larger tiles would gain less.
HALF_TILES = ((0, Tiles(64, 64, 4, 3)), (2048, Tiles(128, 64, 8, 3)))
TILES: dict[torch.dtype, tuple[tuple[int, Tiles], ...]] = {
    torch.float16: HALF_TILES,
    torch.bfloat16: HALF_TILES,
    torch.float32: ((0, Tiles(64, 32, 4, 3)),),
}
DEVICE = "cuda"
LEAST_CAPABILITY = (8, 0)


def tiles_for(n: int, dtype: torch.dtype) -> Tiles:
    """Return how an n × n result of this dtype is cut.

    Example:
        >>> tiles_for(2047, torch.float16).block, tiles_for(2048, torch.float16).block
        (64, 128)
    """
    return next(tiles for least, tiles in reversed(TILES[dtype]) if n >= least)


def covers(left: Tensor, right: Tensor) -> bool:
    """Whether :func:`tiled_product` may stand for left · right, and is expected to be faster.

    Decided by size, dtype and device alone, not by the number of matrices: one matrix alone and the
    same in a stack get the same bits. Products that are traced or differentiated are the library's.

    Example:
        >>> covers(torch.zeros(2048, 4096), torch.zeros(4096, 2048))
        False
    """
    return (
        left.device.type == DEVICE
        and left.ndim in (2, 3)
        and left.dtype in TILES
        and left.shape[-2] >= LEAST_SIZE
        and _match(left, right)
        and type(left) is type(right) is Tensor
        and is_plain(left)
        and is_plain(right)
        and _is_usable(left.device)
    )


def tiled_product(
    left: Tensor,
    right: Tensor,
    addend: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
) -> Tensor:
    r"""Return the symmetric matrix whose lower triangle is that of the result.

    .. math:: C = \alpha\,L R + \beta\,Y

    Which is C where the caller knows that C is symmetric: :math:`X^{\mathsf T}X`, or
    :math:`\beta G + \alpha G^2` of a symmetric G. What L, R and Y would put above the diagonal is
    neither computed nor read, and C is symmetric to the last bit. Sums are taken in float32, for
    float32 matrices in TF32 where PyTorch's own products are.

    Cost: (1 + 1/c) n² k flops with c tiles a side, of the 2 n² k of a plain product.

    Args:
        left: L, (n, k) or (B, n, k): float16, bfloat16 or float32, of any strides.
        right: R, (k, n) or (B, k, n).
        addend: Y, of the result's shape (n, n) or (B, n, n), or None.
        alpha, beta: the factors of the product and of the addend.

    Returns:
        C, contiguous, of the dtype of the factors. Nothing waits for the device.

    Raises:
        TypeError: for another dtype.
        ValueError: for shapes, dtypes or devices that do not match.
        ModuleNotFoundError: where Triton is not installed: ``pip install "polargrad[triton]"``.
    """
    _check(left, right, addend)
    n, depth = left.shape[-2:]
    result = left.new_empty(*left.shape[:-1], n)
    if result.numel() == 0:
        return result
    # Here and not above: to import polargrad must not need Triton, nor take the time for it.
    from polargrad.linalg.kernels.tiles import lower_tiles

    tiles = tiles_for(n, left.dtype)
    count = -(-n // tiles.block)
    # One dimension for tiles and matrices: the others of a grid end at 65535.
    grid = (result.numel() // (n * n) * (count * (count + 1) // 2),)
    with torch.cuda.device(left.device) if left.is_cuda else contextlib.nullcontext():
        lower_tiles[grid](
            left,
            right,
            left if addend is None else addend,
            result,
            n,
            depth,
            alpha,
            beta,
            *_strides(left),
            *_strides(right),
            *_strides(left if addend is None else addend),
            ADDED=addend is not None,
            BLOCK=tiles.block,
            DEPTH=tiles.depth,
            PRECISION="tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee",
            num_warps=tiles.warps,
            num_stages=tiles.stages,
        )
    return result


def _strides(x: Tensor) -> tuple[int, ...]:
    """The strides of a stack; one matrix is a stack of one."""
    return x.stride() if x.ndim == 3 else (0, *x.stride())


def _match(left: Tensor, right: Tensor) -> bool:
    """Whether left · right is a product of equally many matrices, and square."""
    turned = (*right.shape[:-2], right.shape[-1], right.shape[-2])
    alike = left.dtype == right.dtype and left.device == right.device
    return alike and left.ndim == right.ndim and tuple(left.shape) == turned


@functools.cache
def _is_usable(device: torch.device) -> bool:
    """Whether Triton builds kernels for this GPU, tried out once."""
    if torch.version.hip is not None or importlib.util.find_spec("triton") is None:
        return False
    if torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        return False
    try:
        sample = torch.zeros(16, 16, dtype=torch.float16, device=device)
        tiled_product(sample, sample)
    except Exception as error:
        # Triton builds a launcher with the C compiler of the machine, which may be missing: its
        # errors are of many kinds, and all of them leave the library's product.
        warnings.warn(
            "symmetric products take the library's way, at twice the work, because Triton cannot "
            f"build a kernel for {device}: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return False
    return True


def _check(left: Tensor, right: Tensor, addend: Tensor | None) -> None:
    if left.dtype not in TILES:
        allowed = ", ".join(str(dtype) for dtype in TILES)
        raise TypeError(f"left must be of one of {allowed}, got {left.dtype}")
    if left.ndim not in (2, 3) or not _match(left, right):
        raise ValueError(
            "left and right must be (n, k) and (k, n), or stacks of them, of one dtype on one "
            f"device, got {tuple(left.shape)} of {left.dtype} on {left.device} and "
            f"{tuple(right.shape)} of {right.dtype} on {right.device}"
        )
    square = (*left.shape[:-1], left.shape[-2])
    if addend is not None and (
        tuple(addend.shape) != square or addend.dtype != left.dtype or addend.device != left.device
    ):
        raise ValueError(
            f"addend must be {square} of {left.dtype} on {left.device}, got "
            f"{tuple(addend.shape)} of {addend.dtype} on {addend.device}"
        )
