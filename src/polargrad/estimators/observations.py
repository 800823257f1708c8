"""The observed entries of a table, by rows and by columns, never the table itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

__all__ = ["Entries", "Observations", "Values", "check_no_duplicates", "read_observations"]

Values = NDArray[np.floating[Any]]
PAIRS = (
    1 << 18
)  # so many entries are worked on at a time, so that copies of their factors stay small


@dataclass(frozen=True, eq=False)
class Entries:
    """The observed entries seen from one side: row by row of a compressed sparse matrix.

    Args:
        matrix: m × n in compressed sparse rows; what is stored is observed, zeros too.
    """

    matrix: Any

    @property
    def shape(self) -> tuple[int, int]:
        """The shape m × n."""
        m, n = self.matrix.shape
        return int(m), int(n)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """The number of observed entries of each row, of length m."""
        counts: NDArray[np.int64] = np.diff(self.matrix.indptr).astype(np.int64)
        return counts

    def rows(self, start: int, stop: int, data: Values | None = None) -> Any:
        """Return rows ``start`` to ``stop`` as a sparse matrix that shares this one's memory.

        Args:
            start: the first row.
            stop: one past the last.
            data: other numbers for the same entries, one for each that is stored.
        """
        matrix = self.matrix
        first, last = matrix.indptr[start], matrix.indptr[stop]
        values = matrix.data if data is None else data
        return scipy.sparse.csr_array(
            (
                values[first:last],
                matrix.indices[first:last],
                matrix.indptr[start : stop + 1] - first,
            ),
            shape=(stop - start, matrix.shape[1]),
        )

    def row_blocks(self) -> Iterator[tuple[int, int]]:
        """Cut the rows into blocks of about ``PAIRS`` entries, at least a row each."""
        indptr, start, m = self.matrix.indptr, 0, self.matrix.shape[0]
        while start < m:
            stop = int(np.searchsorted(indptr, indptr[start] + PAIRS, side="right")) - 1
            stop = min(max(stop, start + 1), m)
            yield start, stop
            start = stop

    def products(self, left: Values, right: Values) -> Values:
        """Return ⟨leftᵢ, rightⱼ⟩ for every observed (i, j), in the order in which they are stored.

        Args:
            left: m × p.
            right: n × p.
        """
        matrix = self.matrix
        result = np.empty(matrix.nnz, dtype=np.result_type(left, right))
        for start, stop in self.row_blocks():
            first, last = matrix.indptr[start], matrix.indptr[stop]
            repeated = np.repeat(left[start:stop], self.counts[start:stop], axis=0)
            chosen = right[matrix.indices[first:last]]
            np.einsum("kp,kp->k", repeated, chosen, out=result[first:last])
        return result


@dataclass(frozen=True, eq=False)
class Observations:
    """The observed entries of an m × n table: by rows, and transposed.

    Memory is two index structures and two arrays of values, 16 bytes an entry in float32.

    Args:
        by_rows: the entries of the table.
        by_columns: the entries of its transpose.
    """

    by_rows: Entries
    by_columns: Entries

    @classmethod
    def of(cls, matrix: Any) -> Observations:
        """Take what is stored in a sparse matrix of canonical format."""
        rows = scipy.sparse.csr_array(matrix)
        return cls(Entries(rows), Entries(scipy.sparse.csr_array(rows.T)))

    @property
    def shape(self) -> tuple[int, int]:
        """The shape m × n of the table."""
        return self.by_rows.shape

    @property
    def count(self) -> int:
        """The number of observed entries."""
        return int(self.by_rows.matrix.nnz)

    @property
    def values(self) -> Values:
        """The observed entries, row by row."""
        data: Values = self.by_rows.matrix.data
        return data

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the values, float32 or float64."""
        return self.values.dtype

    def minus(self, number: float) -> Observations:
        """Return the same entries with a number taken from each; the indices are shared."""

        taken = self.dtype.type(number)
        return self._with_data(
            self.by_rows.matrix.data - taken, self.by_columns.matrix.data - taken
        )

    def astype(self, dtype: type[np.floating[Any]]) -> Observations:
        """Return the same entries in another dtype; the indices are shared."""
        if self.dtype == dtype:
            return self
        return self._with_data(
            self.by_rows.matrix.data.astype(dtype), self.by_columns.matrix.data.astype(dtype)
        )

    def _with_data(self, by_rows: Values, by_columns: Values) -> Observations:
        def filled(entries: Entries, data: Values) -> Entries:
            matrix = entries.matrix
            return Entries(
                scipy.sparse.csr_array((data, matrix.indices, matrix.indptr), shape=matrix.shape)
            )

        return Observations(filled(self.by_rows, by_rows), filled(self.by_columns, by_columns))

    def split(
        self, fraction: float, random: np.random.RandomState
    ) -> tuple[Observations, Observations]:
        """Return the entries to fit and those to hold out: about ``fraction``, at least one each.

        Raises:
            ValueError: if there are fewer than two entries.
        """
        if self.count < 2:
            raise ValueError(
                "holding entries out needs at least 2 observed entries, got "
                f"{self.count}: give rank and regularization as numbers and early_stopping=False"
            )
        held = random.random_sample(self.count) < fraction
        if held.all() or not held.any():
            held[:] = False
            held[random.randint(self.count)] = True
        return Observations.of(self._where(~held)), Observations.of(self._where(held))

    def _where(self, chosen: NDArray[np.bool_]) -> Any:
        matrix = self.by_rows.matrix
        before = np.concatenate([[0], np.cumsum(chosen)])
        return scipy.sparse.csr_array(
            (
                matrix.data[chosen],
                matrix.indices[chosen],
                before[matrix.indptr].astype(matrix.indices.dtype),
            ),
            shape=matrix.shape,
        )


def check_no_duplicates(X: Any) -> None:
    """Raise if a sparse matrix stores two numbers for one place; scipy would add them up.

    Raises:
        ValueError: naming the first such place in the order of rows and columns.
    """
    if not scipy.sparse.issparse(X) or X.ndim != 2:
        return
    if X.format in ("csr", "csc", "bsr") and X.has_canonical_format:
        return
    if X.format not in ("coo", "csr", "csc", "bsr"):
        return  # the other formats have one place for each number
    stored = X.tocoo()
    rows, columns = stored.coords if hasattr(stored, "coords") else (stored.row, stored.col)
    order = np.lexsort((columns, rows))
    rows, columns = rows[order], columns[order]
    twice = np.flatnonzero((rows[1:] == rows[:-1]) & (columns[1:] == columns[:-1]))
    if len(twice):
        k = twice[0]
        raise ValueError(
            f"X stores row {rows[k]}, column {columns[k]} more than once "
            f"({len(twice)} such repetitions in all): keep one entry for each place"
        )


def read_observations(X: Any) -> Observations:
    """Return the entries of a checked table: not NaN if it is dense, stored if it is sparse.

    A stored NaN is a missing entry. The table is not changed and its values are not shared.
    """
    if scipy.sparse.issparse(X):
        matrix = scipy.sparse.csr_array(X, copy=True)
        matrix.sort_indices()
        missing = np.isnan(matrix.data)
        observations = Observations.of(matrix)
        if not missing.any():
            return observations
        return Observations.of(observations._where(~missing))
    observed = ~np.isnan(X)
    counts = observed.sum(axis=1)
    indptr = np.concatenate([[0], np.cumsum(counts)])
    return Observations.of(
        scipy.sparse.csr_array((X[observed], observed.nonzero()[1], indptr), shape=X.shape)
    )
