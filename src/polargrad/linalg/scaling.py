"""Exact scaling: every matrix divided by a power of two, so that its largest entry is near 1."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["greatest_entry", "largest_entry", "scale_by_power_of_two", "times_power_of_two"]

LARGEST_SINGLE_EXPONENT = 120  # 2^±120 are normal numbers of float32


def largest_entry(A: Tensor) -> Tensor:
    """Return the largest absolute entry of each matrix; NaN where there is one, inf likewise.

    Of complex numbers the parts count, which cannot overflow.

    Example:
        >>> largest_entry(torch.tensor([[6.0, -8.0]]))
        tensor(8.)
    """
    size = (
        torch.view_as_real(A.detach().resolve_conj()).abs() if A.is_complex() else A.detach().abs()
    )
    return size.amax(dim=tuple(range(A.ndim - 2, size.ndim)))


def greatest_entry(A: Tensor) -> float:
    """Return the largest absolute entry of one matrix as a number, NaN where there is one.

    On a CPU in one pass that writes nothing: writing the magnitudes of 768 × 3072 entries takes
    some 4 % of the time of a polar factor at training accuracy.

    Example:
        >>> greatest_entry(torch.tensor([[6.0, -8.0]]))
        8.0
    """
    dense = A if A.is_contiguous() else A.mT
    if A.device.type != "cpu" or A.is_complex() or not dense.is_contiguous():
        return float(largest_entry(A))
    least, most = torch.aminmax(dense.detach())
    return float(torch.maximum(-least, most))


def scale_by_power_of_two(A: Tensor, largest: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""Return :math:`2^{-e}A` with its largest entry in [1/2, 1), and the exponents e.

    Exact: only exponents change, so U is the same to the last bit for A and 2A, and squares
    neither overflow nor underflow. Entries that are smaller than the largest one by more than the
    range of the dtype are lost, which no factor could show.

    Args:
        A: shape (..., m, n), finite, not empty, at least float32.
        largest: its largest entries, where they are known already.

    Returns:
        The scaled stack, and the exponents as int32, shape ``A.shape[:-2]`` (0 for a zero matrix).

    Example:
        >>> scale_by_power_of_two(torch.tensor([[6.0, -1.0]]))
        (tensor([[ 0.7500, -0.1250]]), tensor(3, dtype=torch.int32))
    """
    largest = largest_entry(A) if largest is None else largest
    _, exponent = torch.frexp(largest)
    return times_power_of_two(A, -exponent[..., None, None]), exponent


def times_power_of_two(x: Tensor, exponent: Tensor | int) -> Tensor:
    """Return x · 2^exponent, in two factors where need be: 2^149 does not exist in float32.

    Example:
        >>> times_power_of_two(torch.tensor(2.0) ** -149, torch.tensor(149))
        tensor(1.)
    """
    if isinstance(exponent, int):
        if exponent == 0:
            return x
        if abs(exponent) <= LARGEST_SINGLE_EXPONENT:
            return x * 2.0**exponent
        half = exponent // 2
        return x * 2.0**half * 2.0 ** (exponent - half)
    real = x.real.dtype
    halves = torch.div(exponent, 2, rounding_mode="floor")
    one = torch.ones_like(exponent, dtype=real)
    return x * torch.ldexp(one, halves) * torch.ldexp(one, exponent - halves)
