"""Which method: from tolerance, dtype and kind of device alone, by a table, the same everywhere."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from polargrad.linalg.methods import QDWH, SVD, Method, PolarExpress

__all__ = ["TRAINING_TOLERANCE", "Plan", "plan"]

# The finest tolerance that is read as training accuracy: a tolerance on the singular values of
# the factor for the σ of A above a thousandth of its norm, which products alone can reach.
TRAINING_TOLERANCE = 0.05
MOST_STEPS = 12


@dataclass(frozen=True)
class Plan:
    """A method and why it was chosen.

    Attributes:
        method: the description of the method.
        reason: one sentence.
    """

    method: Method
    reason: str


@functools.lru_cache(maxsize=256)
def plan(*, tol: float | None, dtype: torch.dtype, device: str) -> Plan:
    r"""Choose a method for a tolerance, a dtype and a kind of device.

    Without a tolerance, or with one below 0.05, the method is converged: SVD on a CPU, QDWH
    elsewhere. From 0.05 on it is *training accuracy*: the fewest steps of Polar Express with
    :math:`|\sigma_{\text{out}} - 1| \le` tol for every singular value of A of at least
    :math:`10^{-3}\,\|A^{\mathsf H}A\|_F^{1/2}`; smaller ones are left below 1.

    The choice uses no clock and no data, so that ranks and resumed runs agree.

    Args:
        tol: the tolerance, in (0, 1), or None.
        dtype: of the matrix.
        device: the kind of device, as in ``tensor.device.type``.

    Raises:
        ValueError: for a tolerance outside (0, 1).

    Example:
        >>> plan(tol=0.11, dtype=torch.float32, device="cpu").method.steps
        6
        >>> plan(tol=None, dtype=torch.float64, device="cpu").method
        SVD()
    """
    if tol is not None and not 0.0 < tol < 1.0:
        raise ValueError(f"tol must be None or in (0, 1), got {tol}")
    if tol is None or tol < TRAINING_TOLERANCE or dtype.is_complex:
        if device == "cpu":
            return Plan(SVD(), "converged: on a CPU the SVD is the fastest exact method")
        return Plan(QDWH(), "converged: QR, Cholesky and products are fast where an SVD is not")
    for steps in range(1, MOST_STEPS + 1):
        method = PolarExpress(steps=steps, bound="schatten4")
        if method.deviation <= tol:
            break
    return Plan(
        method,
        f"training accuracy: singular values within {method.deviation:.2g} of 1 "
        "down to a thousandth of the norm",
    )
