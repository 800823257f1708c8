"""The method of a group for matrices of one shape: chosen once, kept as plain data."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from polargrad.linalg import Method, plain, plan
from polargrad.linalg import method as method_of
from polargrad.linalg.precision import COMPUTE_DTYPES


def resolve(group: dict[str, Any], stack: Tensor) -> Method:
    """The method for matrices of this shape, chosen once and kept in the group as plain data.

    So that it is saved, is the same after a resume, and does not depend on how many such matrices
    there are.
    """
    if group["method"] != "auto":
        return method_of(group["method"])
    m, n = stack.shape[-2:]
    key = f"{m}x{n} {stack.dtype} {stack.device.type}"
    if key not in group["resolved"]:
        dtype = COMPUTE_DTYPES.get(group["compute_dtype"])
        chosen = plan(stack, tol=group["tol"], compute_dtype=dtype)
        group["resolved"][key] = plain(chosen.method)
    return method_of(group["resolved"][key])
