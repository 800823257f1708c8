"""Tables with gaps: a CSV file as a matrix with NaN, and the same file with its gaps filled."""

from __future__ import annotations

import csv
import io
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np
import numpy.typing as npt

from polargrad.errors import DataError
from polargrad.estimators.csv_files import (
    CsvFormat,
    Record,
    Report,
    counted,
    delimiter_hint,
    is_number,
    line_ending,
    numbers,
    records,
    some,
)
from polargrad.records import write_atomically

Floats = npt.NDArray[np.float64]
Filled = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Table:
    """A table that was read: ``values`` (m × n, float64, NaN where a cell is missing) and names.

    ``rows`` names the rows by their labels, or by their lines in the file if it has no labels;
    ``columns`` names the columns by the header, or by their numbers from 1.
    """

    path: Path
    form: CsvFormat
    values: Floats
    rows: tuple[str, ...] | tuple[int, ...]
    columns: tuple[str, ...]
    header: bool
    index: bool

    @property
    def missing(self) -> int:
        """How many cells are missing."""
        return int(np.count_nonzero(np.isnan(self.values)))


def read_table(
    path: Path, form: CsvFormat | None = None, *, index: bool = False, report: Report | None = None
) -> Table:
    """Read a table of numbers with gaps from a CSV file.

    With ``index`` the first column holds the labels of the rows. The first record is a header if
    the format says so; by default, if it holds words and no number.

    Raises:
        DataError: if the file is empty or not text, a record has more or fewer cells than the
            first, or a cell holds neither a finite number nor a spelling of a missing one; or if
            the first record mixes words and numbers and the format does not say what it is. The
            message names the line and the column.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "a.csv"
        ...     _ = file.write_text("height,weight\\n1.5,\\nNA,70\\n")
        ...     table = read_table(file)
        >>> table.columns, table.values.tolist()
        (('height', 'weight'), [[1.5, nan], [nan, 70.0]])
    """
    form = CsvFormat() if form is None else form
    found = (record for record in records(path, form, report) if record[1])
    first = next(found, None)
    if first is None:
        raise DataError(f"{path} is empty")
    width = len(first[1])
    skipped = int(index)
    if width <= skipped:
        raise DataError(
            f"{path}, line {first[0]}: only a column of labels{delimiter_hint(first[1], form)}"
        )
    header = _has_header(path, form, first, index=index)
    cells = first[1][skipped:]
    columns = tuple(cells) if header else tuple(str(k + 1) for k in range(len(cells)))
    values, lines, labels = array("d"), array("q"), list[str]()
    for line, row in _body(first, found, header=header):
        if len(row) != width:
            raise DataError(
                f"{path}, line {line}: {counted(len(row))}, where line {first[0]} has {width}"
                + delimiter_hint(first[1], form)
            )
        if index:
            labels.append(row[0])
        values.extend(_row_values(path, form, line, row[skipped:], columns, index=index))
        lines.append(line)
    if not lines:
        raise DataError(f"{path} holds a header and no rows")
    matrix = np.frombuffer(values, dtype=np.float64).reshape(len(lines), width - skipped)
    rows = tuple(labels) if index else tuple(lines)
    return Table(path, form, matrix, rows, columns, header, index)


def _body(first: Record, rest: Iterator[Record], *, header: bool) -> Iterator[Record]:
    """The records that hold values."""
    if not header:
        yield first
    yield from rest


def _has_header(path: Path, form: CsvFormat, first: Record, *, index: bool) -> bool:
    """Whether the first record is a header, as the format says or as its cells show."""
    if form.header != "auto":
        return form.header == "yes"
    line, cells = first[0], first[1][int(index) :]
    numeric = [is_number(cell, form.missing) for cell in cells]
    words = [
        cell
        for cell, is_numeric in zip(cells, numeric, strict=True)
        if not is_numeric and cell.strip() not in form.missing
    ]
    if words and any(numeric):
        raise DataError(
            f"{path}, line {line} mixes numbers and words ({some(words)}): say whether it is a "
            "header (header yes or no), or that the first column holds labels (index)"
        )
    return bool(words)


def _row_values(
    path: Path,
    form: CsvFormat,
    line: int,
    cells: Sequence[str],
    columns: Sequence[str],
    *,
    index: bool,
) -> list[float]:
    """The numbers of a record, with the line and the column of what is none in the message."""

    def fault(place: int, why: str) -> NoReturn:
        name = f" ({columns[place]!r})" if columns[place] != str(place + 1) else ""
        labels = "" if index or place else "; if the first column holds labels, say so (index)"
        column = place + int(index) + 1
        raise DataError(f"{path}, line {line}, column {column}{name}: {why}{labels}")

    return numbers(cells, form.missing, fault)


def check_no_empty_lines(table: Table) -> None:
    """Refuse rows and columns without any value, which nothing says how to fill.

    Raises:
        DataError: if there are some; the message names them.
    """
    seen = ~np.isnan(table.values)
    for axis, names, kind in ((1, table.rows, "row"), (0, table.columns, "column")):
        empty = np.flatnonzero(~seen.any(axis=axis))
        if empty.size:
            named = some([names[k] for k in empty])
            kinds = kind if empty.size == 1 else f"{kind}s"
            where = "of line " if kind == "row" and not table.index else ""
            raise DataError(
                f"{table.path}: the {kinds} {where}{named} {'has' if empty.size == 1 else 'have'} "
                "no value at all, so nothing can be filled in there: remove it first"
            )


def write_filled(table: Table, filled: Filled, out: Path, *, digits: int = 6) -> None:
    """Write the table's file to ``out`` with its gaps filled from ``filled`` (m × n).

    Every cell that holds a value keeps the text that it has in the file; what is filled in has
    ``digits`` significant digits. ``out`` is replaced when it is complete, and may be the file that
    the table was read from.

    Raises:
        ValueError: if ``filled`` has another shape.
        DataError: if the file has changed since it was read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "a.csv"
        ...     _ = file.write_text("1.50,2e0\\n3,\\n")
        ...     write_filled(read_table(file), np.full((2, 2), 6.0), file)
        ...     file.read_text()
        '1.50,2e0\\n3,6\\n'
    """
    if filled.shape != table.values.shape:
        raise ValueError(f"filled must have shape {table.values.shape}, got {filled.shape}")
    write_atomically(out, lambda file: _write(table, filled, file, digits))


def _write(table: Table, filled: Filled, file: IO[bytes], digits: int) -> None:
    """Copy the file record by record, each gap filled."""
    text = io.TextIOWrapper(file, encoding=table.form.encoding, newline="")
    ending = line_ending(table.path, table.form)
    writer = csv.writer(text, delimiter=table.form.delimiter, lineterminator=ending)
    skipped, row, header = int(table.index), 0, table.header
    for line, cells in records(table.path, table.form):
        if not cells or header:
            header = header and not cells
            writer.writerow(cells)
            continue
        if row == len(filled) or len(cells) != filled.shape[1] + skipped:
            raise DataError(f"{table.path}, line {line}: the file has changed since it was read")
        for column in np.flatnonzero(np.isnan(table.values[row])):
            cells[column + skipped] = f"{filled[row, column]:.{digits}g}"
        writer.writerow(cells)
        row += 1
    if row != len(filled):
        raise DataError(f"{table.path} has changed since it was read")
    text.flush()
    text.detach()
