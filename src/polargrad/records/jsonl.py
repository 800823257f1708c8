"""Records: one JSON object a line, appended as a run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from polargrad.errors import RunFolderError
from polargrad.records.files import write_atomically


class RecordWriter:
    """Appends records to a JSONL file; each line is complete in it as soon as it is written.

    A last line that a killed run left unfinished is removed first.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "log.jsonl"
        ...     with RecordWriter(path) as records:
        ...         records.write({"step": 1, "loss": 2.5})
        ...     list(read_records(path))
        [{'step': 1, 'loss': 2.5}]
    """

    def __init__(self, path: Path) -> None:
        _remove_unfinished_line(path)
        self._file: IO[str] = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record. Non-finite numbers are written as JSON's usual NaN and Infinity."""
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def sync(self) -> None:
        """Wait until all records are on disk, as a checkpoint that counts on them needs it."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _remove_unfinished_line(path: Path) -> None:
    """Cut the file after its last line end, so that the next record begins a line."""
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        with path.open("rb+") as file:
            file.truncate(content.rfind(b"\n") + 1)


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of ``path``, ignoring a last line that a killed run left unfinished.

    Raises:
        RunFolderError: if any other line is not a JSON object, or the file is not text.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise RunFolderError(f"{path} is not text: {error}") from None
    for number, line in enumerate(lines[:-1], start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise RunFolderError(f"{path}, line {number}, is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise RunFolderError(f"{path}, line {number}, is not a JSON object")
        yield record


def rewind_records(path: Path, *, last_step: int) -> None:
    """Drop the records of steps after ``last_step``, so that a resumed run writes them once."""
    if not path.exists():
        return
    kept = [record for record in read_records(path) if record.get("step", 0) <= last_step]
    text = "".join(json.dumps(record) + "\n" for record in kept)
    write_atomically(path, lambda file: file.write(text.encode()))
