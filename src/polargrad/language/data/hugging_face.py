"""Data sets of the Hugging Face hub, streamed, and folders in their format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polargrad.errors import DataError, PolarGradError
from polargrad.language.corpus import walk
from polargrad.language.data.cache import digest_of_files, key_of
from polargrad.language.data.sources import Document, text_of
from polargrad.records import require


@dataclass(frozen=True)
class HuggingFace:
    """A data set that ``datasets.load_dataset`` streams: nothing of it is kept but the tokens.

    A data set of the hub may change; its tokens are kept under its name and ``revision``, so give
    the hash of a commit where that matters. A local folder is known by its contents.

    Args:
        path: the name on the hub, or a folder in the same format.
        config: which configuration of it, where it has several.
        split: which split.
        field: which field holds the text.
        revision: a commit, tag or branch of it; None takes the newest.
    """

    path: str
    config: str | None = None
    split: str = "train"
    field: str = "text"
    revision: str | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"the data set {self.path!r}" + (f" ({self.config})" if self.config else "")

    @property
    def size(self) -> int | None:
        """Not known beforehand."""
        return None

    @property
    def divisible(self) -> bool:
        """Always: rows are documents."""
        return True

    @property
    def skipped_files(self) -> int:
        """None is skipped."""
        return 0

    def digest(self) -> str:
        """Return a digest of what it is called, and of the contents where it is a folder."""
        named = (self.path, self.config, self.split, self.field, self.revision)
        folder = Path(self.path)
        if not folder.is_dir():
            return key_of("hub", *named)
        return key_of("folder", *named[1:], digest_of_files(folder, walk(folder)))

    def documents(self) -> Iterator[Document]:
        """Yield each row as a document named by its number."""
        number = 0
        try:
            for row in self._rows():
                number += 1
                yield Document.of(
                    str(number), text_of(dict(row), self.field, f"{self.name}, row {number},")
                )
        except PolarGradError:
            raise
        except Exception as error:  # what its many readers raise has no common class
            raise DataError(f"cannot read {self.name} after row {number}: {error}") from error

    def _rows(self) -> Any:
        """The rows, as an iterable."""
        datasets = require("datasets", extra="language")
        try:
            return datasets.load_dataset(
                self.path,
                name=self.config,
                split=self.split,
                revision=self.revision,
                streaming=True,
            )
        except Exception as error:  # the same
            raise DataError(f"cannot open {self.name}, split {self.split!r}: {error}") from error
