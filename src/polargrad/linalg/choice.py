"""Which method a call names, and what happens where a tolerance is not kept."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from polargrad.errors import PolarGradError, ToleranceError, ToleranceWarning
from polargrad.linalg.methods import SVD, GramEigh, Method, label
from polargrad.linalg.methods import method as method_of
from polargrad.linalg.planner import plan
from polargrad.linalg.precision import compute_dtype as resolve_compute_dtype
from polargrad.linalg.preparation import NonFinite, check_choice, check_matrix

__all__ = ["MethodSpec", "OnFailure", "choose", "fail"]

NON_FINITE = get_args(NonFinite)
OnFailure = Literal["raise", "warn", "fallback"]
MethodSpec = str | Mapping[str, Any] | Method


def fail(message: str, on_failure: OnFailure) -> None:
    """Warn, or raise, as the caller of ``polar`` has chosen."""
    if on_failure == "warn":
        warnings.warn(message, ToleranceWarning, stacklevel=3)
    else:
        raise ToleranceError(message)


def choose(
    A: Tensor,
    spec: MethodSpec,
    tol: float | None,
    dtype: torch.dtype | None,
    nonfinite: NonFinite,
    on_failure: OnFailure,
) -> Method:
    """Check the matrix, resolve the method and check one against the other."""
    check_choice("nonfinite", nonfinite, NON_FINITE)
    check_matrix(A)
    traced = torch.compiler.is_compiling()
    if isinstance(spec, str) and spec == "auto":
        chosen = _planned(A, tol, dtype, on_failure)
        if traced and chosen.adaptive:
            chosen = SVD() if chosen.name == "newton" else GramEigh()
    elif tol is not None:
        raise ValueError(f"tol is for method='auto' alone, got tol={tol} with method={spec!r}")
    else:
        chosen = method_of(spec)
    if traced and chosen.adaptive:
        raise PolarGradError(
            f"method {label(chosen)!r} looks at values to decide how to go on, which torch.compile "
            "and torch.export cannot: give one with a fixed budget, such as SVD(), "
            "GramEigh(polish=2), QDWH(steps=6) or Zolotarev(iterations=2)"
        )
    resolved = resolve_compute_dtype(A.dtype, dtype)
    if not chosen.products_only and resolved in (torch.float16, torch.bfloat16):
        raise ValueError(
            f"compute_dtype must be None, float32 or float64 for method {chosen.name!r}, "
            f"got {dtype}"
        )
    return chosen


def _planned(
    A: Tensor, tol: float | None, dtype: torch.dtype | None, on_failure: OnFailure
) -> Method:
    """The planner's choice, or the best there is where nothing keeps the tolerance."""
    try:
        return plan(A, tol=tol, compute_dtype=dtype).method
    except ToleranceError as error:
        if on_failure == "raise":
            raise
        if on_failure == "warn":
            warnings.warn(str(error), ToleranceWarning, stacklevel=4)
        return plan(A, compute_dtype=dtype).method
