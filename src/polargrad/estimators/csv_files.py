"""CSV files: records with their line numbers, cells as numbers, and where a cell is wrong.

Files are read record by record, never as a whole, so that memory does not grow with their text.
"""

from __future__ import annotations

import codecs
import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from polargrad.errors import DataError

MISSING = frozenset({"", "NA", "NaN", "nan", "?"})
HEADERS = ("auto", "yes", "no")
BATCH = 5000
# As many rows, columns or places as a message names.
NAMED = 5

Record = tuple[int, list[str]]
Report = Callable[[int], None]


@dataclass(frozen=True)
class CsvFormat:
    r"""How a CSV file is written.

    ``header`` is ``"yes"``, ``"no"`` or ``"auto"``: whoever reads the file decides by its first
    record. ``missing`` are the spellings of a missing cell, compared without surrounding spaces.

    Raises:
        ValueError: if an option is not one of those allowed.

    Example:
        >>> CsvFormat(delimiter=";").delimiter
        ';'
    """

    delimiter: str = ","
    encoding: str = "utf-8"
    header: str = "auto"
    missing: frozenset[str] = field(default=MISSING)

    def __post_init__(self) -> None:
        if len(self.delimiter) != 1 or self.delimiter in '"\r\n':
            raise ValueError(f"delimiter must be one character, got {self.delimiter!r}")
        if self.header not in HEADERS:
            raise ValueError(f"header must be one of {', '.join(HEADERS)}, got {self.header!r}")
        try:
            codecs.lookup(self.encoding)
        except LookupError:
            raise ValueError(f"encoding {self.encoding!r} is unknown") from None

    @property
    def decoding(self) -> str:
        """The encoding to read with: spreadsheets put a byte order mark before UTF-8."""
        return "utf-8-sig" if codecs.lookup(self.encoding).name == "utf-8" else self.encoding


def records(path: Path, form: CsvFormat, report: Report | None = None) -> Iterator[Record]:
    """Yield the line on which each record begins, and its cells; a blank line has no cells.

    ``report`` is told from time to time how many bytes have been read.

    Raises:
        DataError: if there is no such file, it is not text in the encoding, or a quote is not
            closed.
    """
    if not path.is_file():
        raise DataError(f"{path} is {'a folder' if path.is_dir() else 'not there'}: give a file")
    line = 0
    with path.open("rb") as file:
        text = io.TextIOWrapper(file, encoding=form.decoding, newline="")
        reader = csv.reader(text, delimiter=form.delimiter, strict=True)
        told = 0
        try:
            for cells in reader:
                yield line + 1, cells
                line = reader.line_num
                if report is not None and line - told >= BATCH:
                    told = line
                    report(file.tell())
        except UnicodeDecodeError as error:
            raise DataError(_undecodable(path, form, error)) from None
        except csv.Error as error:
            raise DataError(f"{path}, line {line + 1}: {error}") from None


def _undecodable(path: Path, form: CsvFormat, error: UnicodeDecodeError) -> str:
    """Which line is not text in the encoding, as far as lines can be told apart without it."""
    where = str(path)
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            try:
                text.decode(form.decoding)
            except UnicodeDecodeError as at:
                where = f"{path}, line {number}, byte {at.start + 1} of it"
                break
    return f"{where}: not {form.encoding} text ({error.reason}): give the file's encoding"


def line_ending(path: Path, form: CsvFormat) -> str:
    r"""The line ending of the first line, ``"\n"`` or ``"\r\n"``."""
    with path.open(encoding=form.decoding, newline="") as file:
        return "\r\n" if file.readline().endswith("\r\n") else "\n"


def in_columns(
    path: Path, form: CsvFormat, found: Iterable[Record], titles: Sequence[str]
) -> Iterator[tuple[list[int], list[list[str]]]]:
    """Yield the lines of some thousand records at a time, and their cells column by column.

    No list of cells outlives its record: many that do would keep the collector of reference cycles
    busy for several times as long as reading takes. Blank lines are left out.

    Raises:
        DataError: if a record has not one cell for each of the ``titles``.
    """
    width = len(titles)
    lines, texts = list[int](), list[str]()
    for line, cells in found:
        if len(cells) != width:
            if not cells:
                continue
            raise DataError(
                f"{path}, line {line}: {counted(len(cells))}, where {width} are needed: "
                f"{', '.join(titles)}{delimiter_hint(cells, form)}"
            )
        lines.append(line)
        texts += cells
        if len(lines) == BATCH:
            yield lines, [texts[k::width] for k in range(width)]
            lines, texts = [], []
    if lines:
        yield lines, [texts[k::width] for k in range(width)]


def counted(cells: int) -> str:
    """A number of cells in words."""
    return "1 cell" if cells == 1 else f"{cells} cells"


def delimiter_hint(cells: Sequence[str], form: CsvFormat) -> str:
    """Which delimiter a record that came out as one cell may have been written with."""
    others = [d for d in (";", "\t", ",", "|") if d != form.delimiter and d in cells[0]]
    if len(cells) > 1 or not others:
        return ""
    return f" (is the delimiter {others[0]!r}?)"


def number(text: str, missing: frozenset[str]) -> float:
    """The number that a cell holds, NaN if it is missing.

    Raises:
        ValueError: if it is something else, or infinite.

    Example:
        >>> number(" 1e3", MISSING), number("?", MISSING)
        (1000.0, nan)
    """
    text = text.strip()
    if text in missing:
        return math.nan
    # Python reads 1_000 and the digits of every script; a table means them otherwise.
    if "_" in text or not text.isascii():
        raise ValueError(f"{text!r} is not a number")
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a number") from None
    if math.isinf(value):
        raise ValueError(f"{text!r} is infinite")
    return value


def numbers(
    texts: Sequence[str], missing: frozenset[str], fault: Callable[[int, str], NoReturn]
) -> list[float]:
    """The numbers of many cells; ``fault`` is called with the place of a bad one, and why.

    Python's own conversion is several times faster than the careful one, so it goes first; what it
    reads differently (infinite values, underscores, other scripts) shows in the text or the sum.
    """
    try:
        values = list(map(float, texts))
        joined = "".join(texts)
        if joined.isascii() and "_" not in joined and not any(map(math.isinf, values)):
            if missing <= MISSING:
                return values
            return [
                math.nan if t.strip() in missing else v for t, v in zip(texts, values, strict=True)
            ]
    except ValueError:
        pass
    found = []
    for place, text in enumerate(texts):
        try:
            found.append(number(text, missing))
        except ValueError as error:
            fault(place, str(error))
    return found


def is_number(text: str, missing: frozenset[str]) -> bool:
    """Whether a cell holds a finite number."""
    try:
        return not math.isnan(number(text, missing))
    except ValueError:
        return False


def some(names: Sequence[object]) -> str:
    """The first few of many names, and how many more there are.

    Example:
        >>> some(["a", "b"]), some(range(8))
        ("'a', 'b'", '0, 1, 2, 3, 4 and 3 more')
    """
    shown = ", ".join(repr(name) for name in names[:NAMED])
    return shown + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
