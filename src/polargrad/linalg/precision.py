"""In which precision a matrix is worked on: what the hardware multiplies fast, and what is exact.

A rule of this package: half-precision input is worked on in float32 unless half precision is asked
for by name. On a processor without bfloat16 units a bfloat16 product takes 60 to 600 times as long
as a float32 one, and flags that say "bfloat16 is supported" are often true of an emulation.
"""

from __future__ import annotations

import torch

__all__ = [
    "COMPUTE_DTYPES",
    "HALF",
    "compute_dtype",
    "double_dtype",
    "rank_cutoff",
    "working_dtype",
]

HALF = (torch.float16, torch.bfloat16)
COMPUTE_DTYPES: dict[str, torch.dtype] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which a matrix is scaled, factorized and summed: at least float32.

    Example:
        >>> working_dtype(torch.bfloat16), working_dtype(torch.float64)
        (torch.float32, torch.float64)
    """
    return torch.float32 if dtype in HALF else dtype


def compute_dtype(dtype: torch.dtype, requested: torch.dtype | None) -> torch.dtype:
    """Return the dtype of a method's arithmetic for input of ``dtype``.

    Raises:
        ValueError: if ``requested`` is none of the real floating dtypes, or the input is complex.

    Example:
        >>> compute_dtype(torch.bfloat16, None)
        torch.float32
    """
    if requested is None:
        return working_dtype(dtype)
    if requested not in COMPUTE_DTYPES.values() or dtype.is_complex:
        allowed = ", ".join(COMPUTE_DTYPES)
        raise ValueError(
            f"compute_dtype must be None or, for real matrices, one of {allowed}, "
            f"got {requested} for a matrix of {dtype}"
        )
    return requested


def double_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return float64, or complex128 for a complex dtype.

    Example:
        >>> double_dtype(torch.float32), double_dtype(torch.complex64)
        (torch.float64, torch.complex128)
    """
    return torch.complex128 if dtype.is_complex else torch.float64


def rank_cutoff(columns: int, dtype: torch.dtype) -> float:
    r"""Return τ = √n · eps: singular values of at most :math:`\tau\sigma_1` count as zero.

    ``columns`` is n, the smaller side; ``dtype`` the working dtype.

    Example:
        >>> rank_cutoff(4, torch.float64) == 2 * torch.finfo(torch.float64).eps
        True
    """
    return float(columns**0.5 * torch.finfo(dtype).eps)
