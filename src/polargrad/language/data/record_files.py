"""Files of records, each with a text: JSONL and Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from polargrad.errors import DataError
from polargrad.language.corpus import walk
from polargrad.language.data.cache import digest_of_files
from polargrad.language.data.sources import Document, text_of
from polargrad.records import require

JSON_LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet",)
# Rows that are in the memory at a time: documents of the web have a few kilobytes.
ROWS = 64


@dataclass(frozen=True)
class RecordFiles:
    """JSONL or Parquet files, each record a document.

    Of JSONL a line is in the memory at a time, of Parquet what one row group of the column needs.
    Blank lines are no records.

    Args:
        root: the folder.
        paths: the files, relative to it, in order, all JSONL or all Parquet.
        field: which field, or column, holds the text.
    """

    root: Path
    paths: tuple[str, ...]
    field: str = "text"

    @classmethod
    def at(cls, path: Path, suffixes: tuple[str, ...], field: str = "text") -> RecordFiles:
        """Return the file at ``path``, or the files of that folder with one of these suffixes.

        Raises:
            DataError: if there are none.
        """
        if path.is_file():
            return cls(path.parent, (path.name,), field)
        paths = tuple(name for name in walk(path) if name.endswith(suffixes))
        if not paths:
            raise DataError(f"data is {str(path)!r}, a folder without {' or '.join(suffixes)}")
        return cls(path, paths, field)

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.root / self.paths[0]) if len(self.paths) == 1 else str(self.root)

    @cached_property
    def size(self) -> int | None:
        """The bytes of all files where they are text; Parquet is compressed."""
        if self.paths[0].endswith(PARQUET):
            return None
        return sum((self.root / path).stat().st_size for path in self.paths)

    @property
    def divisible(self) -> bool:
        """Always: records are documents."""
        return True

    @property
    def skipped_files(self) -> int:
        """None is skipped: files are chosen by their suffix."""
        return 0

    def digest(self) -> str:
        """Return SHA-256 over paths, contents and the field's name."""
        return digest_of_files(self.root, list(self.paths)) + self.field

    def documents(self) -> Iterator[Document]:
        """Yield each record as a document named by its file and number."""
        for path in self.paths:
            read = _parquet_texts if path.endswith(PARQUET) else _json_texts
            for number, text in read(self.root / path, self.field):
                yield Document.of(f"{path}:{number}", text)


def _json_texts(path: Path, field: str) -> Iterator[tuple[int, str]]:
    """The line numbers and texts of a JSONL file."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                place = f"{str(path)!r}, line {number},"
                try:
                    record = json.loads(line)
                except (json.JSONDecodeError, UnicodeDecodeError) as error:
                    raise DataError(f"{place} is not JSON: {error}") from None
                yield number, text_of(record, field, place)
    except OSError as error:
        raise DataError(f"cannot read {str(path)!r}: {error.strerror}") from error


def _parquet_texts(path: Path, field: str) -> Iterator[tuple[int, str]]:
    """The row numbers and texts of a Parquet file."""
    arrow = require("pyarrow", extra="language")
    parquet = require("pyarrow.parquet", extra="language")
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if field not in names:
                raise DataError(
                    f"{str(path)!r} has no column {field!r}, its columns are "
                    f"{', '.join(names)}: give field"
                )
            number = 0
            for rows in file.iter_batches(batch_size=ROWS, columns=[field]):
                for text in rows.column(0).to_pylist():
                    number += 1
                    yield number, text_of({field: text}, field, f"{str(path)!r}, row {number},")
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{str(path)!r} is not a Parquet file, or damaged: {error}") from error
