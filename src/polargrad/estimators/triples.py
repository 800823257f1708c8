"""(row, column, value) triples in CSV files: read in bounded memory, completed, written again.

A triple whose value is missing asks for it. Rows and columns are named by any text; names are
numbered in the order in which they appear, and the matrix is never formed.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from scipy import sparse

from polargrad.errors import DataError
from polargrad.estimators.csv_files import (
    CsvFormat,
    Record,
    Report,
    in_columns,
    is_number,
    numbers,
    records,
)

HEADER = ("row", "column", "value")
Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int32]
Lines = npt.NDArray[np.int64]


@dataclass
class Names:
    """The names of rows or of columns, numbered from 0 in the order in which they appear.

    With a ``size``, names are integers from 0 to size - 1, and 07 is 7.
    """

    kind: str
    size: int | None = None
    numbered: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbered)

    def add(self, texts: Sequence[str], fault: Callable[[int, str], NoReturn]) -> list[int]:
        """The numbers of names, of which new ones are added."""
        numbered = self.numbered
        return [numbered.setdefault(t, len(numbered)) for t in self._names(texts, fault)]

    def find(self, texts: Sequence[str], fault: Callable[[int, str], NoReturn]) -> list[int]:
        """The numbers of names that are known."""
        found = [self.numbered.get(text, -1) for text in self._names(texts, fault)]
        if -1 in found:
            place = found.index(-1)
            fault(place, f"{self.kind} {texts[place].strip()!r} has no value in the data")
        return found

    def sorted(self) -> list[str]:
        """All names: integers by size, others in the order in which they appeared."""
        names = list(self.numbered)
        return sorted(names, key=int) if all(map(_is_integer, names)) else names

    def _names(self, texts: Sequence[str], fault: Callable[[int, str], NoReturn]) -> list[str]:
        names = [text.strip() for text in texts]
        if self.size is None:
            if "" in names:
                fault(names.index(""), f"the name of the {self.kind} is missing")
            return names
        for place, name in enumerate(names):
            if not _is_integer(name):
                fault(place, f"{self.kind} {name!r} is not an integer, as a given shape demands")
            if not 0 <= int(name) < self.size:
                fault(place, f"{self.kind} {name} is outside 0 … {self.size - 1}")
        return [str(int(name)) for name in names]


def _is_integer(name: str) -> bool:
    digits = name.removeprefix("-")
    return digits.isascii() and digits.isdigit()


@dataclass(frozen=True)
class Triples:
    """Triples that were read: places (int32), values (float64, NaN where asked for) and lines."""

    path: Path
    form: CsvFormat
    header: tuple[str, ...] | None
    row_names: Names
    column_names: Names
    rows: Places
    columns: Places
    values: Floats
    lines: Lines

    @property
    def shape(self) -> tuple[int, int]:
        """Rows × columns that the file names."""
        return len(self.row_names), len(self.column_names)

    @property
    def asked(self) -> npt.NDArray[np.bool_]:
        """Which triples have no value."""
        return np.isnan(self.values)

    def keys(self) -> npt.NDArray[np.int64]:
        """A number for the place of each triple, as :meth:`keys_of` gives it."""
        return self.keys_of(self.rows, self.columns)

    def keys_of(self, rows: Places, columns: Places) -> npt.NDArray[np.int64]:
        """A number for each place: row × (number of columns) + column."""
        keys: npt.NDArray[np.int64] = rows.astype(np.int64) * self.shape[1] + columns
        return keys

    def matrix(self) -> Any:
        """The values as a SciPy CSR matrix (float64) that stores what is observed, zeros too."""
        m = self.shape[0]
        seen = np.flatnonzero(~self.asked)
        order = seen[np.lexsort((self.columns[seen], self.rows[seen]))]
        starts = np.zeros(m + 1, dtype=np.int32 if len(order) < 2**31 else np.int64)
        np.cumsum(np.bincount(self.rows[order], minlength=m), out=starts[1:])
        parts = (self.values[order], self.columns[order], starts)
        return sparse.csr_array(parts, shape=self.shape)


def is_triples_header(path: Path, form: CsvFormat) -> bool:
    """Whether the first record is row, column, value, in any letter case."""
    first = next((cells for _, cells in records(path, form) if cells), [])
    return tuple(cell.strip().lower() for cell in first) == HEADER


def read_triples(
    path: Path,
    form: CsvFormat | None = None,
    *,
    shape: tuple[int, int] | None = None,
    report: Report | None = None,
) -> Triples:
    """Read (row, column, value) triples from a CSV file, a value that is missing as NaN.

    The first record is a header if the format says so; by default, if its value is a word. With a
    ``shape`` rows and columns are integers that count from 0.

    Memory: 24 bytes a triple, twice that for a moment, and the names.

    Raises:
        DataError: if the file is empty or not text, a record has not three cells, a value is
            neither a finite number nor missing, a row or column is outside the shape, a place
            stands there twice, or a row or column has no value at all. The message names the lines.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "a.csv"
        ...     _ = file.write_text("user,item,stars\\nann,x,5\\nbob,x,3\\nbob,y,1\\nann,y,\\n")
        ...     triples = read_triples(file)
        >>> triples.shape, triples.values.tolist(), triples.matrix().nnz
        ((2, 2), [5.0, 3.0, 1.0, nan], 3)
    """
    form = CsvFormat() if form is None else form
    names = [
        Names(kind, size) for kind, size in zip(HEADER[:2], shape or (None, None), strict=True)
    ]
    header, rest = _header(form, records(path, form, report))
    rows, columns, values, lines = array("i"), array("i"), array("d"), array("q")
    for at, parts in in_columns(path, form, rest, HEADER):
        fault = _fault(path, at)
        rows.extend(names[0].add(parts[0], fault))
        columns.extend(names[1].add(parts[1], fault))
        values.extend(numbers(parts[2], form.missing, _fault(path, at, ", column 3")))
        lines.extend(at)
    if not lines:
        raise DataError(f"{path} {'holds a header and no triples' if header else 'is empty'}")
    triples = Triples(
        path=path,
        form=form,
        header=header,
        row_names=names[0],
        column_names=names[1],
        rows=np.frombuffer(rows, dtype=np.int32),
        columns=np.frombuffer(columns, dtype=np.int32),
        values=np.frombuffer(values, dtype=np.float64),
        lines=np.frombuffer(lines, dtype=np.int64),
    )
    _check_no_duplicates(triples)
    _check_all_observed(triples)
    return triples


def _header(
    form: CsvFormat, found: Iterator[Record]
) -> tuple[tuple[str, ...] | None, Iterator[Record]]:
    """The header, if there is one, and an iterator over all other records."""
    first = next((record for record in found if record[1]), None)
    if first is None:
        return None, found
    if len(first[1]) != len(HEADER):
        return None, _chained(first, found)  # refused there
    value = first[1][2]
    word = not is_number(value, form.missing) and value.strip() not in form.missing
    infinite = word and value.strip().lstrip("+-").lower() in ("inf", "infinity")
    if form.header == "yes" or (form.header == "auto" and word and not infinite):
        return tuple(first[1]), found
    return None, _chained(first, found)


def _chained(first: Record, rest: Iterator[Record]) -> Iterator[Record]:
    yield first
    yield from rest


def _fault(path: Path, lines: Sequence[int], column: str = "") -> Callable[[int, str], NoReturn]:
    """What raises the error about a record of a batch."""

    def fault(place: int, why: str) -> NoReturn:
        raise DataError(f"{path}, line {lines[place]}{column}: {why}")

    return fault


def _check_no_duplicates(triples: Triples) -> None:
    """Refuse a place that stands twice, the first one in the file."""
    keys = triples.keys()
    order = np.argsort(keys, kind="stable")
    again = np.flatnonzero(np.diff(keys[order]) == 0)
    if not again.size:
        return
    later = again[np.argmin(order[again + 1])]
    first, second = order[later], order[later + 1]
    row, column = (
        list(names.numbered)[place[first]]
        for names, place in (
            (triples.row_names, triples.rows),
            (triples.column_names, triples.columns),
        )
    )
    raise DataError(
        f"{triples.path}: row {row!r}, column {column!r} stands twice, on lines "
        f"{triples.lines[first]} and {triples.lines[second]}"
        + (f" ({again.size} such repetitions in all)" if again.size > 1 else "")
    )


def _check_all_observed(triples: Triples) -> None:
    """Refuse a row or column that is only asked for."""
    asked = triples.asked
    for names, places in (
        (triples.row_names, triples.rows),
        (triples.column_names, triples.columns),
    ):
        empty = np.flatnonzero(np.bincount(places[~asked], minlength=len(names)) == 0)
        if empty.size:
            name = list(names.numbered)[empty[0]]
            line = triples.lines[np.flatnonzero(places == empty[0])[0]]
            raise DataError(
                f"{triples.path}, line {line}: {names.kind} {name!r} has no value at all"
                + (f" (as {empty.size - 1} more)" if empty.size > 1 else "")
                + ", so nothing can be filled in there: remove it first"
            )


@dataclass(frozen=True)
class Pairs:
    """Places that were asked for: their numbers (int32) and the texts of a header, if any."""

    header: tuple[str, ...] | None
    rows: Places
    columns: Places


def read_pairs(path: Path, triples: Triples) -> Pairs:
    """Read the (row, column) pairs that are asked for, in the format of the triples.

    The first record is a header if it is row, column, or the first two words of the triples'
    header.

    Raises:
        DataError: if the file is empty or not text, a record has not two cells, or a row or column
            has no value in the triples. The message names the line.
    """
    form = triples.form
    found = records(path, form)
    first = next((record for record in found if record[1]), None)
    if first is None:
        raise DataError(f"{path} is empty")
    titles = [HEADER[:2]] + ([triples.header[:2]] if triples.header else [])
    words = [cell.strip().lower() for cell in first[1]]
    headed = any(words == [title.strip().lower() for title in pair] for pair in titles)
    rows, columns = array("i"), array("i")
    rest = found if headed else _chained(first, found)
    for lines, parts in in_columns(path, form, rest, HEADER[:2]):
        fault = _fault(path, lines)
        rows.extend(triples.row_names.find(parts[0], fault))
        columns.extend(triples.column_names.find(parts[1], fault))
    if not rows:
        raise DataError(f"{path} holds a header and no pairs")
    return Pairs(
        tuple(first[1]) if headed else None,
        np.frombuffer(rows, dtype=np.int32),
        np.frombuffer(columns, dtype=np.int32),
    )
