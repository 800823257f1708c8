"""Completed triples as CSV files: the list with its gaps filled, chosen pairs, a small table.

A value that was observed keeps the text that it has in the file; what is filled in has a given
number of significant digits. ``predict`` maps row and column numbers (int32) to values.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from polargrad.errors import DataError
from polargrad.estimators.csv_files import line_ending, records
from polargrad.estimators.triples import HEADER, Names, Pairs, Places, Triples
from polargrad.records import write_atomically

Predict = Callable[[Places, Places], npt.NDArray[np.floating[Any]]]
# A table is written from memory, where each of its cells is a text.
LARGEST_TABLE = 1_000_000
CHUNK = 100_000


def write_list(triples: Triples, predict: Predict, out: Path, *, digits: int = 6) -> int:
    """Write the triples' file with its missing values filled in; returns how many those were.

    Raises:
        DataError: if the file has changed since it was read.

    Example:
        >>> import tempfile
        >>> from polargrad.estimators.triples import read_triples
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "a.csv"
        ...     _ = file.write_text("ann,x,5.0\\nann,y,\\nbob,x,3\\nbob,y,1\\n")
        ...     _ = write_list(read_triples(file), lambda rows, columns: 2.0 + rows, file)
        ...     file.read_text()
        'ann,x,5.0\\nann,y,2\\nbob,x,3\\nbob,y,1\\n'
    """
    asked = np.flatnonzero(triples.asked)
    places = triples.rows[asked], triples.columns[asked]

    def filled() -> Iterator[Sequence[str]]:
        values = _predicted(predict, *places, digits)
        missing = triples.asked.tobytes()  # indexed several times faster than an array
        for at, cells in _again(triples):
            if at >= 0 and missing[at]:
                cells[2] = next(values)
            yield cells

    _write(triples, filled(), out)
    return len(asked)


def write_pairs(
    triples: Triples, pairs: Pairs, predict: Predict, out: Path, *, digits: int = 6
) -> int:
    """Write row, column, value of the pairs, in their order; returns how many were filled in.

    The file has a header if that of the triples or of the pairs has one.

    Raises:
        DataError: if the triples' file has changed since it was read.
    """
    keys = triples.keys_of(pairs.rows, pairs.columns)
    known = _observed_texts(triples, np.isin(triples.keys(), keys))
    rows, columns = list(triples.row_names.numbered), list(triples.column_names.numbered)

    def filled() -> Iterator[Sequence[str]]:
        if triples.header or pairs.header:
            value = triples.header[2] if triples.header else HEADER[2]
            yield *(pairs.header or (triples.header or HEADER)[:2]), value
        values = _predicted(predict, pairs.rows, pairs.columns, digits)
        places = zip(keys.tolist(), pairs.rows.tolist(), pairs.columns.tolist(), strict=True)
        for (key, row, column), value in zip(places, values, strict=True):
            yield rows[row], columns[column], known.get(key, value)

    _write(triples, filled(), out)
    return int(np.count_nonzero(~np.isin(keys, list(known))))


def write_dense(triples: Triples, predict: Predict, out: Path, *, digits: int = 6) -> int:
    """Write the whole matrix as a table with names; returns how many cells were filled in.

    Rows and columns whose names are integers are in numerical order, others in that of the file.

    Raises:
        ValueError: if the table would have more than 10^6 cells.
        DataError: if a row or column of a given shape has no value, or the file has changed since
            it was read.
    """
    check_dense(triples)
    m, n = triples.shape
    known = _observed_texts(triples, np.ones(len(triples.values), dtype=np.bool_))
    row_names, column_names = triples.row_names.sorted(), triples.column_names.sorted()
    order = np.array([triples.column_names.numbered[name] for name in column_names], dtype=np.int32)

    def filled() -> Iterator[Sequence[str]]:
        yield "", *column_names
        for name in row_names:
            row = triples.row_names.numbered[name]
            rows = np.full(n, row, dtype=np.int32)
            keys = triples.keys_of(rows, order).tolist()
            values = _predicted(predict, rows, order, digits)
            yield name, *(known.get(key, value) for key, value in zip(keys, values, strict=True))

    _write(triples, filled(), out)
    return m * n - len(known)


def check_dense(triples: Triples) -> None:
    """Raise what :func:`write_dense` raises, which is better known before anything is fitted."""
    m, n = triples.shape
    if m * n > LARGEST_TABLE:
        raise ValueError(
            f"the dense table would have {m} x {n} = {m * n} cells, more than {LARGEST_TABLE}: "
            "ask for pairs instead"
        )
    for names in (triples.row_names, triples.column_names):
        _check_complete(triples, names)


def _check_complete(triples: Triples, names: Names) -> None:
    """Refuse a given shape of which a row or column does not occur."""
    absent = (k for k in range(names.size or 0) if str(k) not in names.numbered)
    first = next(absent, None)
    if first is not None:
        more = sum(1 for _ in absent)
        raise DataError(
            f"{triples.path}: {names.kind} {first} of the given shape has no value at all"
            + (f" (as {more} more)" if more else "")
            + ", so the dense table cannot be filled"
        )


def _predicted(predict: Predict, rows: Places, columns: Places, digits: int) -> Iterator[str]:
    """The predictions as texts, computed in chunks."""
    for start in range(0, len(rows), CHUNK):
        part = slice(start, start + CHUNK)
        for value in predict(rows[part], columns[part]).tolist():
            yield f"{value:.{digits}g}"


def _again(triples: Triples) -> Iterator[tuple[int, list[str]]]:
    """The file's records once more, each with its number; -1 for the header and blank lines."""
    changed = DataError(f"{triples.path} has changed since it was read")
    headed, at, count = triples.header is not None, -1, len(triples.values)
    for _, cells in records(triples.path, triples.form):
        if not cells or headed:
            headed = headed and not cells
            yield -1, cells
            continue
        at += 1
        if at == count or len(cells) != 3:
            raise changed
        yield at, cells
    if at + 1 != count:
        raise changed


def _observed_texts(triples: Triples, wanted: npt.NDArray[np.bool_]) -> dict[int, str]:
    """The texts of the observed values among the wanted triples, by the keys of their places."""
    chosen = wanted & ~triples.asked
    if not chosen.any():
        return {}
    flags = chosen.tobytes()
    texts = [cells[2] for at, cells in _again(triples) if at >= 0 and flags[at]]
    return dict(zip(triples.keys()[chosen].tolist(), texts, strict=True))


def _write(triples: Triples, lines: Iterable[Sequence[str]], out: Path) -> None:
    """Write records in the format of the triples' file, all of them or none."""

    def write(file: IO[bytes]) -> None:
        text = io.TextIOWrapper(file, encoding=triples.form.encoding, newline="")
        ending = line_ending(triples.path, triples.form)
        csv.writer(text, delimiter=triples.form.delimiter, lineterminator=ending).writerows(lines)
        text.flush()
        text.detach()

    write_atomically(out, write)
