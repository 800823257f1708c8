"""The stages of a step, by which a profiler groups what it shows."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch.autograd import profiler
from torch.profiler import record_function

__all__ = ["stage"]

NOTHING: AbstractContextManager[Any] = nullcontext()


def stage(name: str) -> AbstractContextManager[Any]:
    """A context that a running profiler shows as ``polargrad::name``, and that is nothing else.

    A marked context costs as much as some ten small operations, which a step of a small matrix is.

    Example:
        >>> with stage("direction"):
        ...     pass
    """
    if profiler._is_profiler_enabled:
        return record_function(f"polargrad::{name}")
    return NOTHING
