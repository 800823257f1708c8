"""The method of a group for matrices of one shape: chosen once, kept as plain data."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from polargrad.linalg import Method, plain, plan
from polargrad.linalg import method as method_of
from polargrad.linalg.precision import COMPUTE_DTYPES


def resolve(group: dict[str, Any], stack: Tensor, *, device: str | None = None) -> Method:
    """The method for matrices of this shape, chosen once and kept in the group as plain data.

    So that it is saved, is the same after a resume, and does not depend on how many such matrices
    there are. A ``device``, ``"cpu"`` or ``"cuda"``, has the choice made for it instead of the
    stack's own: for matrices on the meta device, which stand for others.
    """
    if group["method"] != "auto":
        return described(group["method"])
    m, n = stack.shape[-2:]
    key = f"{m}x{n} {stack.dtype} {stack.device.type}"
    if key not in group["resolved"]:
        dtype = COMPUTE_DTYPES.get(group["compute_dtype"])
        chosen = plan(stack, tol=group["tol"], compute_dtype=dtype, device=device)
        group["resolved"][key] = plain(chosen.method)
    return described(group["resolved"][key])


def described(spec: str | Mapping[str, Any] | Method) -> Method:
    """The description that plain data stands for, made once: its options are checked as it is made.

    Example:
        >>> described({"name": "qdwh", "steps": 2}) is described({"name": "qdwh", "steps": 2})
        True
    """
    try:
        return _described(tuple(spec.items())) if isinstance(spec, Mapping) else method_of(spec)
    except TypeError:  # a list among the options, as in a file: not to be remembered by
        return method_of(spec)


@functools.lru_cache(maxsize=256)
def _described(options: tuple[tuple[str, Any], ...]) -> Method:
    return method_of(dict(options))
