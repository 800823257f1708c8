"""Which method for which matrix: by a table, from what the matrix is and never from a clock."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polargrad.errors import ToleranceError
from polargrad.linalg.methods import (
    QDWH,
    SVD,
    GramEigh,
    GramZolotarev,
    Method,
    MixedQDWH,
    Newton,
    PolarExpress,
    label,
)
from polargrad.linalg.methods import method as method_of
from polargrad.linalg.methods.outcome import Work
from polargrad.linalg.precision import HALF
from polargrad.linalg.precision import compute_dtype as resolve_compute_dtype

__all__ = ["TRAINING_TOLERANCE", "Plan", "PlanTable", "load_plan_table", "plan"]

# From this tolerance on, accuracy is that of training: for the σ of A above a thousandth of
# ‖AᴴA‖_F^½, which products and single precision can reach.
TRAINING_TOLERANCE = 0.05
TRAINING_LOWER = 1e-3
# Degrees of Polar Express in order of cost: 15, 15, 16 and 18 products of matrices, as many as
# five quintics take or a few more. Of all orders with 15 products the first loses least to rounding
# among those within 0.105, the second comes nearest to 1.
DEGREES = ((3, 5, 5, 5, 9), (5, 9, 9, 9), (9, 9, 9, 9), (3, 9, 9, 9, 9))

# Where one method overtakes the other, measured on two cores of an Intel Xeon and of an AMD EPYC
# (docs/results.md): columns n, and rows m for which m ≥ ratio · n.
TALL = 2.0
EIGH_MOST_COLUMNS = 448
# Between the two ranges of square matrices all that is exact takes as long as an SVD.
NEWTON_COLUMNS = (range(33, 97), range(224, 1025))
# Above 320 columns a few large singular values over many small ones cost Newton up to 350 eps.
NEWTON_DOUBLE_LEAST, NEWTON_DOUBLE_MOST = 96, 320
REDUCTION_RATIO = 4.0
# Up to so many entries of a matrix no taller than so many times as wide, products alone cost less
# at training accuracy than a factorization and all that stands around it.
PRODUCTS_MOST = ((2, 51_000), (4, 16_384))
SMALL_DEGREES = DEGREES[:2]
# At training accuracy few eigenvalues cost less than a dozen products so small, in stacks too.
EIGH_TRAINING_COLUMNS = 8
# Terms of the rational function and degree of the polynomial after it, in order of cost: within
# 0.046, 0.031 and 0.005 of 1, and rounding. On a CPU they beat products alone where products count.
COMPOSED = ((1, 9), (2, 3), (2, 5))


@dataclass(frozen=True)
class Plan:
    """A method for a kind of matrix, and why.

    Attributes:
        method: the description of the method.
        reason: one sentence.
        rows: m, the larger side.
        columns: n, the smaller side: wide matrices are worked on transposed.
        dtype: of the method's arithmetic.
        device: the kind of device.
        tol: the tolerance that was asked for.
        promised: the largest :math:`|\\sigma_i(U) - 1|` that the method promises; for arithmetic
            in half precision what it would be without rounding.
        down_to: for which singular values, as a share of the method's bound of σ₁.
    """

    method: Method
    reason: str
    rows: int
    columns: int
    dtype: torch.dtype
    device: str
    tol: float | None
    promised: float
    down_to: float

    def work(self, condition: float = 1e3) -> Work:
        """Return what a call with this plan does, for a matrix of this condition number.

        Methods that look at values may do less; all others do exactly this. One synchronization is
        that of the check for finite entries.

        Example:
            >>> plan(torch.zeros(64, 64), tol=0.11).work()
            Work(products=15, factorizations=0, solves=0, synchronizations=1)
        """
        method = self.method.work(self.rows, self.columns, self.dtype, condition)
        return method.plus(Work(synchronizations=1))

    def explain(self) -> str:
        """Say in a few lines what will be done and why.

        Example:
            >>> print(plan(torch.zeros(3000, 100)).explain())
            gram_eigh(polish=None) for 3000 × 100, float32, cpu
            because a Gram matrix in float64 loses nothing of a float32 matrix
            singular values of U within 1.2e-06 of 1 for those of A above 1.2e-06 of its norm
            3 products, 1 factorizations, 0 solves, 2 synchronizations at a condition of 1000
        """
        name = str(self.dtype).removeprefix("torch.")
        return (
            f"{label(self.method)} for {self.rows} × {self.columns}, {name}, {self.device}\n"
            f"because {self.reason}\n"
            f"singular values of U within {self.promised:.2g} of 1 for those of A above "
            f"{self.down_to:.2g} of its norm\n"
            + ", ".join(f"{count} {kind}" for kind, count in self.work()._asdict().items())
            + " at a condition of 1000"
        )


class Entry(NamedTuple):
    """One line of a calibrated table: the fastest method that was measured for a case."""

    dtype: str
    rows: int
    columns: int
    tol: float | None
    method: Method


class PlanTable(NamedTuple):
    """A calibrated table, which the user may hand to :func:`plan` instead of the built-in one.

    Attributes:
        entries: the measured cases.
        provenance: machine, versions and commit of the measurement.
    """

    entries: tuple[Entry, ...]
    provenance: dict[str, Any]

    def nearest(self, rows: int, columns: int, dtype: str, tol: float | None) -> Entry | None:
        """The entry of this dtype and tolerance whose shape is nearest, in ratios of sides.

        None where no entry of this dtype and tolerance has both sides within a factor of two.
        """

        def distance(entry: Entry) -> float:
            pairs = ((entry.rows, rows), (entry.columns, columns))
            return max(max(a / b, b / a) for a, b in pairs)

        matching = [e for e in self.entries if (e.dtype, e.tol) == (dtype, tol)]
        best = min(matching, key=distance, default=None)
        return best if best is not None and distance(best) <= 2.0 else None


def load_plan_table(path: str | Path) -> PlanTable:
    """Read a table that ``polargrad bench polar --calibrate`` wrote.

    Raises:
        ValueError: if the file is no such table.

    Source: measured by the user; ranks that share a run must share the file.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if content["format"] != 1:
            raise ValueError(f"format {content['format']!r}")
        entries = tuple(
            Entry(e["dtype"], e["rows"], e["columns"], e["tol"], method_of(e["method"]))
            for e in content["entries"]
        )
        return PlanTable(entries, content["provenance"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"path must name a table of format 1, got {path}: {error}") from error


def plan(
    A: Tensor | None = None,
    *,
    tol: float | None = None,
    shape: tuple[int, ...] | None = None,
    dtype: torch.dtype | None = None,
    device: str | None = None,
    compute_dtype: torch.dtype | None = None,
    table: PlanTable | None = None,
) -> Plan:
    r"""Choose the method for a matrix: the cheapest that keeps the tolerance.

    Without a tolerance, or with one below 0.05, the method is converged: exact to a few eps for
    every condition number, with the canonical partial isometry of a rank-deficient matrix. From
    0.05 on it has *training accuracy*: :math:`|\sigma_{\text{out}} - 1| \le` tol for every singular
    value of A of at least :math:`10^{-3}\,\|A^{\mathsf H}A\|_F^{1/2}`; smaller ones stay below 1.

    The choice depends on the shape, the dtype, the kind of device and the tolerance alone: not on
    data, on the number of matrices or on a clock, so that ranks, resumed runs and fused or separate
    parameters agree. A stack is taken as one batched product or matrix by matrix, which the method
    decides and which changes nothing but time.

    Args:
        A: a matrix or a stack of matrices; its values are not looked at, a meta tensor will do.
        tol: the tolerance, in (0, 1), or None.
        shape, dtype, device: instead of A: (m, n), the dtype, ``"cpu"`` or ``"cuda"``.
        compute_dtype: as for :func:`polar`.
        table: a calibrated table, which is asked first.

    Raises:
        ValueError: for a tolerance outside (0, 1), or a missing shape or dtype.
        ToleranceError: for a tolerance below what the dtype can give.

    Example:
        >>> plan(torch.zeros(768, 3072), tol=0.11).method
        GramZolotarev(degree=1, lower=0.001, polynomial=9)
        >>> plan(shape=(100, 100), dtype=torch.float64).method
        Newton()
    """
    if tol is not None and not 0.0 < tol < 1.0:
        raise ValueError(f"tol must be None or in (0, 1), got {tol}")
    if A is not None:
        shape, dtype = tuple(A.shape), A.dtype
        device = A.device.type if device is None else device
    if shape is None or dtype is None or len(shape) < 2:
        raise ValueError(f"plan needs A, or shape (m, n) and dtype, got {shape} and {dtype}")
    columns, rows = sorted(shape[-2:])
    working = resolve_compute_dtype(dtype, compute_dtype)
    if table is not None:
        entry = table.nearest(rows, columns, str(working).removeprefix("torch."), tol)
        if entry is not None:
            reason = f"it was the fastest measured at {entry.rows} × {entry.columns}"
            return _complete(entry.method, reason, rows, columns, working, device or "cpu", tol)
    return _plan(rows, columns, working, device or "cpu", tol)


@functools.lru_cache(maxsize=4096)
def _plan(rows: int, columns: int, dtype: torch.dtype, device: str, tol: float | None) -> Plan:
    training = tol is not None and tol >= TRAINING_TOLERANCE and columns > 0
    if training and tol is not None:
        method, reason = _training(rows, columns, dtype, device, tol)
    elif device == "cpu":
        method, reason = _exact_cpu(rows, columns, dtype)
    else:
        method, reason = QDWH(), "QR, Cholesky and products are fast where an SVD is not"
    return _complete(method, reason, rows, columns, dtype, device, tol)


def _complete(
    method: Method,
    reason: str,
    rows: int,
    columns: int,
    dtype: torch.dtype,
    device: str,
    tol: float | None,
) -> Plan:
    promise = method.promise(max(rows, 1), max(columns, 1), dtype)
    if dtype in HALF and isinstance(method, PolarExpress):
        # Who asks for half precision by name gets it: its rounding is bounded by nothing useful.
        promise = replace(promise, deviation=method.deviation)
    if tol is not None and promise.deviation > tol:
        name = str(dtype).removeprefix("torch.")
        raise ToleranceError(
            f"tol must be at least {promise.deviation:.2g} for a {rows} × {columns} matrix of "
            f"{name}, got {tol}"
        )
    return Plan(
        method, reason, rows, columns, dtype, device, tol, promise.deviation, promise.down_to
    )


def _exact_cpu(rows: int, columns: int, dtype: torch.dtype) -> tuple[Method, str]:
    """Converged, on a CPU."""
    if dtype in (torch.float64, torch.complex128):
        if rows >= REDUCTION_RATIO * columns and columns > 1:
            return SVD(reduction="qr"), "a tall matrix has the singular values of its small R"
        small = NEWTON_DOUBLE_LEAST <= columns <= NEWTON_DOUBLE_MOST
        if rows == columns and small and dtype == torch.float64:
            return Newton(), "two or three inverses cost less than a singular value decomposition"
        return SVD(), "nothing exact is faster in double precision"
    if rows >= TALL * columns or columns < NEWTON_COLUMNS[0].start:
        return GramEigh(polish=None), "a Gram matrix in float64 loses nothing of a float32 matrix"
    if rows == columns and dtype == torch.float32:
        if columns in NEWTON_COLUMNS[0]:
            return Newton(), "inverses of stacks of small matrices are the fastest way"
        if columns in NEWTON_COLUMNS[1]:
            return Newton(), "one or two inverses and products cost less than an eigenproblem"
    if columns <= EIGH_MOST_COLUMNS or dtype != torch.float32:
        return GramEigh(polish=None), "a Gram matrix in float64 loses nothing of a float32 matrix"
    return MixedQDWH(), "for large square matrices a few factorizations beat an eigenproblem"


def _training(
    rows: int, columns: int, dtype: torch.dtype, device: str, tol: float
) -> tuple[Method, str]:
    """Singular values within ``tol`` of 1 down to a thousandth of the norm."""
    half = dtype in HALF
    if device == "cpu" and not half:
        eigen = GramEigh(polish=0)
        if columns <= EIGH_TRAINING_COLUMNS and _keeps(eigen, rows, columns, dtype, tol):
            return eigen, "so few eigenvalues of a Gram matrix cost less than small products"
        if any(rows <= k * columns and rows * columns <= most for k, most in PRODUCTS_MOST):
            for degrees in SMALL_DEGREES:
                polynomial = _polynomial(degrees)
                if _keeps(polynomial, rows, columns, dtype, tol):
                    return polynomial, "of so small a matrix all else costs more than the products"
        for terms, degree in COMPOSED:
            composed = GramZolotarev(degree=terms, lower=TRAINING_LOWER, polynomial=degree)
            if _keeps(composed, rows, columns, dtype, tol):
                number = "one factorization" if terms == 1 else f"{terms} factorizations"
                return composed, f"{number} and a few products of the small side do it"
    if half:
        return _quintics(
            tol
        ), "only quintics stay accurate in half precision, and nothing is promised of its rounding"
    for degrees in DEGREES:
        polynomial = _polynomial(degrees)
        if _keeps(polynomial, rows, columns, dtype, tol):
            break
    return polynomial, "products alone, of the degrees that use them best"


def _polynomial(degrees: tuple[int, ...]) -> PolarExpress:
    return PolarExpress(steps=len(degrees), degree=degrees, bound="schatten4", cushion=0.0)


def _keeps(method: Method, rows: int, columns: int, dtype: torch.dtype, tol: float) -> bool:
    return method.promise(rows, columns, dtype).deviation <= tol


def _quintics(tol: float) -> Method:
    for steps in range(2, 9):
        method = PolarExpress(steps=steps, bound="schatten4")
        if method.deviation <= tol:
            break
    return method
