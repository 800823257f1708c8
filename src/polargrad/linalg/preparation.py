"""What stands in front of every method: checks, exact scaling, orientation."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad

from polargrad.errors import NonFiniteError
from polargrad.linalg.precision import working_dtype
from polargrad.linalg.scaling import (
    greatest_entry,
    largest_entry,
    scale_by_power_of_two,
    times_power_of_two,
)

__all__ = [
    "NonFinite",
    "Prepared",
    "check_choice",
    "check_matrix",
    "is_plain",
    "is_traced",
    "prepare",
]

NonFinite = Literal["raise", "propagate"]

SUPPORTED = (
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
)


class Prepared(NamedTuple):
    """A stack that methods can work on.

    Attributes:
        scaled: the stack in its working dtype, every matrix divided by a power of two so that its
            largest entry is in [1/2, 1), or by 1 where a method has seen that its norm is well
            within the range; a matrix that is not finite is zero.
        exponent: the powers, an int or int32 of shape (..., 1, 1).
        finite: which matrices are finite, (..., 1, 1), or None where all are.
    """

    scaled: Tensor
    exponent: Tensor | int
    finite: Tensor | None


def check_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise ValueError unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}")


def check_matrix(A: Tensor, name: str = "A") -> None:
    """Raise unless A is a floating-point tensor of at least two dimensions."""
    if not isinstance(A, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(A).__name__}")
    if not (A.is_floating_point() or A.is_complex()):
        raise TypeError(f"{name} must hold floating-point or complex numbers, got {A.dtype}")
    if A.dtype not in SUPPORTED:
        raise TypeError(f"{name} must be of one of {', '.join(map(str, SUPPORTED))}, got {A.dtype}")
    if A.ndim < 2:
        raise ValueError(
            f"{name} must be a matrix or a stack of matrices, got shape {tuple(A.shape)}"
        )


def is_traced(x: Tensor) -> bool:
    """Whether values cannot be looked at: inside torch.compile, torch.export or torch.func.vmap."""
    return bool(torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(x))


def is_plain(x: Tensor) -> bool:
    """Whether x has its values in memory and nobody asks for a derivative: it may be worked on.

    Otherwise blocks and kernels, which write in place, leave products to the library.
    """
    return not (
        is_traced(x)
        or (torch.is_grad_enabled() and x.requires_grad)
        or forward_ad.unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]
    )


def prepare(A: Tensor, nonfinite: NonFinite) -> Prepared:
    """Check that A is finite, or note where it is not, and scale it exactly.

    Raises:
        NonFiniteError: for an entry that is not finite, with ``nonfinite="raise"``; where values
            cannot be looked at (see :func:`is_traced`) such a matrix becomes NaN instead.
    """
    working = A.to(working_dtype(A.dtype))
    if A.numel() == 0:
        return Prepared(working, 0, None)
    if nonfinite == "propagate" or is_traced(A):
        largest = largest_entry(working)
        finite = torch.isfinite(largest)[..., None, None]
        clean = torch.where(finite, working, torch.zeros_like(working))
        scaled, exponent = scale_by_power_of_two(clean, torch.where(finite[..., 0, 0], largest, 0))
        return Prepared(scaled, exponent[..., None, None], finite)
    if working.ndim == 2:
        # What is looked at once tells both whether it is finite and how large it is.
        greatest = greatest_entry(working)
        if not math.isfinite(greatest):
            _raise_non_finite(A)
        power = math.frexp(greatest)[1]
        return Prepared(times_power_of_two(working, -power), power, None)
    largest = largest_entry(working)
    if not math.isfinite(float(largest.amax())):
        _raise_non_finite(A)
    scaled, exponent = scale_by_power_of_two(working, largest)
    return Prepared(scaled, exponent[..., None, None], None)


def _raise_non_finite(A: Tensor) -> NoReturn:
    count = int(torch.isfinite(A).logical_not().sum())
    raise NonFiniteError(
        f"A of shape {tuple(A.shape)} has {count} non-finite entries: "
        "remove them, or pass nonfinite='propagate'"
    )
