"""One factor at a time: a step in [X, a] while Y and b stay, exact or along the polar factor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import scipy.sparse
import torch

from polargrad.estimators.factor_model import FactorModel
from polargrad.estimators.observations import Entries, Values
from polargrad.estimators.shrinkage import Shrinkage
from polargrad.linalg import polar

__all__ = ["STEPS", "Step", "exact_step", "polar_step", "solve_rows"]

# (entries of the table, model, ridge) → the new [X, a]
Step = Callable[[Entries, FactorModel, Shrinkage], Values]

BLOCK_BYTES = 1 << 27  # normal equations of so many bytes are formed at a time
MONOMIAL_BYTES = 1 << 28  # products of design columns up to this size are kept
DENSE_ENTRIES = 1 << 23  # so large a block of the mask may be written out as a dense matrix
DENSE_FROM = 0.05  # density from which a dense product is faster than a sparse one


def exact_step(entries: Entries, model: FactorModel, shrinkage: Shrinkage) -> Values:
    """Minimise over [X, a]: a ridge regression for each row, see :func:`solve_rows`."""
    ridge = model.row_ridge(shrinkage)
    return solve_rows(entries, model.row_design, model.column_offsets, ridge)


def polar_step(entries: Entries, model: FactorModel, shrinkage: Shrinkage) -> Values:
    r"""Step in P = [X, a] along the polar factor of the gradient, as far as is best.

    .. math:: G = -E\,\tilde Y + P\,\mathrm{diag}(\lambda), \qquad G = U H, \quad \nu = \|G\|_*,
              \qquad P \leftarrow P - \gamma\,\nu U, \qquad
              \gamma = \frac{\nu^2}{\langle \nu U, \mathcal H[\nu U] \rangle}

    E is the residual on the observed entries and Ỹ = [Y, 1]. The objective is quadratic in P, so
    this γ minimises it along the ray: there is no learning rate, and no step raises it.

    Source: Lau, Long and Su, arXiv 2505.21799, for the direction; Cauchy's step for γ.
    """
    unknowns, design = model.row_unknowns, model.row_design
    ridge = model.row_ridge(shrinkage)
    if unknowns.shape[1] == 0:
        return unknowns
    residual = entries.matrix.data - entries.products(unknowns, design)
    if model.column_offsets is not None:
        residual -= model.column_offsets[entries.matrix.indices]
    m = entries.shape[0]
    gradient = unknowns * ridge - entries.rows(0, m, residual) @ design
    decomposition = polar(torch.from_numpy(gradient))
    direction: Values = decomposition.U.numpy()
    nuclear_norm = float(decomposition.nuclear_norm)
    change = entries.products(direction, design).astype(np.float64, copy=False)
    curvature = float(change @ change) + float(np.sum(ridge * np.square(direction)))
    if nuclear_norm == 0.0 or curvature == 0.0:
        return unknowns
    return unknowns - unknowns.dtype.type(nuclear_norm / curvature) * direction


STEPS: dict[str, Step] = {"als": exact_step, "polargrad": polar_step}


def solve_rows(
    entries: Entries, design: Values, column_offsets: Values | None, ridge: Values
) -> Values:
    r"""Solve the ridge regression of each row on the columns that it has observed.

    .. math:: \Bigl(\sum_{j \in \Omega_i} \tilde y_j \tilde y_j^{\mathsf T}
              + \mathrm{diag}(\lambda)\Bigr) p_i
              = \sum_{j \in \Omega_i} (M_{ij} - b_j)\, \tilde y_j

    All matrices of a block of rows come from one product of the mask (rows × columns) with the
    p(p + 1)/2 products of columns of the design. A row without an entry gets p_i = 0.

    Args:
        entries: M on Ω, m × n.
        design: Ỹ, n × p.
        column_offsets: b, of length n, or None.
        ridge: λ, of length p, positive.

    Returns:
        The p_i as rows, m × p.
    """
    m, p = entries.shape[0], design.shape[1]
    result = np.zeros((m, p), dtype=design.dtype)
    if p == 0:
        return result
    monomials = _Monomials(design, column_offsets)
    count = len(monomials.upper[0])
    position = np.empty((p, p), dtype=np.intp)  # of the product ỹ_p ỹ_q among the kept ones
    position[monomials.upper] = position.T[monomials.upper] = np.arange(count)
    penalty = torch.diag(torch.from_numpy(ridge.astype(design.dtype)))
    for start, stop in _blocks(entries, p, design.dtype.itemsize):
        sums = monomials.summed(entries, start, stop)
        right = entries.rows(start, stop) @ design - sums[:, count:]
        matrices = torch.from_numpy(sums[:, position.ravel()].reshape(-1, p, p))
        matrices += penalty
        result[start:stop] = _solve_positive(matrices, torch.from_numpy(right)).numpy()
    return result


class _Monomials:
    """The products ỹ_jp ỹ_jq, p ≤ q, and b_j ỹ_jp of each column j, and their sums over a mask."""

    def __init__(self, design: Values, column_offsets: Values | None) -> None:
        self.design = design
        self.upper = np.triu_indices(design.shape[1])
        self.offsets = np.zeros((len(design), 0), dtype=design.dtype)
        if column_offsets is not None:
            self.offsets = design * column_offsets[:, None]
        size = len(design) * len(self.upper[0]) * design.dtype.itemsize
        self.at_a_time = len(self.upper[0])
        self.kept: Values | None = None
        if size <= MONOMIAL_BYTES:
            self.kept = self._products(0, self.at_a_time)
        else:
            self.at_a_time = max(1, MONOMIAL_BYTES // (len(design) * design.dtype.itemsize))

    def _products(self, first: int, last: int) -> Values:
        p, q = self.upper[0][first:last], self.upper[1][first:last]
        products: Values = self.design[:, p] * self.design[:, q]
        return products

    def summed(self, entries: Entries, start: int, stop: int) -> Values:
        """Return the sums of the products, then those with offsets or 0, a row each."""
        count, p = len(self.upper[0]), self.design.shape[1]
        sums = np.zeros((stop - start, count + p), dtype=self.design.dtype)
        mask = _mask(entries, start, stop)
        for first in range(0, count, self.at_a_time):
            last = min(first + self.at_a_time, count)
            products = self.kept if self.kept is not None else self._products(first, last)
            sums[:, first:last] = mask @ products
        if self.offsets.shape[1]:
            sums[:, count:] = mask @ self.offsets
        return sums


def _mask(entries: Entries, start: int, stop: int) -> Any:
    """Ones where rows ``start`` to ``stop`` are observed, dense if that is fast and small."""
    matrix = entries.matrix
    first, last = matrix.indptr[start], matrix.indptr[stop]
    size = (stop - start) * matrix.shape[1]
    block = scipy.sparse.csr_array(
        (
            np.ones(last - first, dtype=matrix.dtype),
            matrix.indices[first:last],
            matrix.indptr[start : stop + 1] - first,
        ),
        shape=(stop - start, matrix.shape[1]),
    )
    if last - first >= DENSE_FROM * size and size <= DENSE_ENTRIES:
        return block.toarray()
    return block


def _blocks(entries: Entries, p: int, itemsize: int) -> Iterator[tuple[int, int]]:
    """Cut the rows so that a block's matrices fit ``BLOCK_BYTES``, and its mask if it is dense."""
    m, n = entries.shape
    rows = max(1, BLOCK_BYTES // (3 * p * p * itemsize))
    if entries.matrix.nnz >= DENSE_FROM * m * n:
        rows = max(1, min(rows, DENSE_ENTRIES // n))
    for start in range(0, m, rows):
        yield start, min(start + rows, m)


def _solve_positive(matrices: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Solve positive definite systems ``(k, p, p)`` with one right side each ``(k, p)``.

    A matrix that is singular to rounding gets eps of its trace added to its diagonal.
    """
    factors, failed = torch.linalg.cholesky_ex(matrices)
    if failed.any():
        size = matrices.shape[-1] * torch.finfo(matrices.dtype).eps
        shift = size * matrices.diagonal(dim1=-2, dim2=-1).sum(-1) * (failed > 0)
        matrices = matrices + shift[:, None, None] * torch.eye(
            matrices.shape[-1], dtype=matrices.dtype
        )
        factors = torch.linalg.cholesky(matrices)
    return torch.cholesky_solve(right.unsqueeze(-1), factors).squeeze(-1)
