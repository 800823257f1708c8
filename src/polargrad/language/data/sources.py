"""What is common to all texts: a source gives documents, a document gives pieces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from polargrad.errors import DataError
from polargrad.language.data.pieces import pieces_of


@dataclass(frozen=True)
class Document:
    """One text.

    Args:
        name: what tells it from the others of its source; whether it is held out depends on it.
        pieces: its text, in order; read once.
    """

    name: str
    pieces: Iterator[str]

    @classmethod
    def of(cls, name: str, text: str) -> Document:
        """Return the document of a text that is in the memory."""
        return cls(name, pieces_of([text]))


class Source(Protocol):
    """Where documents come from."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def size(self) -> int | None:
        """The bytes of its text where that is known beforehand."""

    @property
    def divisible(self) -> bool:
        """Whether it is more than one document, so that whole documents can be held out."""

    @property
    def skipped_files(self) -> int:
        """The number of files left out because they are not text."""

    def digest(self) -> str:
        """Return what changes whenever the text changes: the tokens are kept under it."""

    def documents(self) -> Iterator[Document]:
        """Yield the documents in an order that is always the same.

        Raises:
            DataError: if something cannot be read, or is not what it should be, with its place.
        """


def text_of(record: Any, field: str, place: str) -> str:
    """Return the text that a record holds under ``field``.

    Raises:
        DataError: if the record has no such field, or it is no text; ``place`` says where.

    Example:
        >>> text_of({"text": "a", "id": 1}, "text", "line 1")
        'a'
    """
    if not isinstance(record, dict):
        raise DataError(f"{place} is {type(record).__name__}, not an object with a field {field!r}")
    if field not in record:
        fields = ", ".join(sorted(map(str, record))) or "none at all"
        raise DataError(f"{place} has no field {field!r}, its fields are {fields}: give field")
    text = record[field]
    if not isinstance(text, str):
        raise DataError(f"{place}: the field {field!r} is {type(text).__name__}, not text")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{place}: the field {field!r} is not Unicode text: {error.reason}"
            ) from None
    return text
