"""Plain text: a file, the files of a folder, or the Python standard library's source."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from polargrad.errors import DataError
from polargrad.language.corpus import is_library_source, walk
from polargrad.language.data.cache import digest_of_files
from polargrad.language.data.pieces import pieces_of, text_blocks
from polargrad.language.data.sources import Document


@dataclass(frozen=True)
class TextFiles:
    """UTF-8 files below a folder, each a document, of which a block is in the memory at a time.

    Args:
        root: the folder.
        paths: the files, relative to it, in order.
        skipped_files: how many files beside them were no text.
    """

    root: Path
    paths: tuple[str, ...]
    skipped_files: int = 0

    @classmethod
    def at(cls, path: Path) -> TextFiles:
        """Return the file at ``path``, or all files of that folder that are text and not hidden.

        Raises:
            DataError: if there is nothing, or no text.
        """
        if path.is_file():
            if any("\0" in block for block in text_blocks(path)):
                raise DataError(f"data is {str(path)!r}, which holds the byte 0: give a text file")
            return cls(path.parent, (path.name,))
        if not path.is_dir():
            raise DataError(f"data is {str(path)!r}, which is neither a file nor a folder")
        found = walk(path)
        paths = tuple(name for name in found if _is_text(path / name))
        if not paths:
            raise DataError(
                f"data is {str(path)!r}, a folder without a text file "
                f"({len(found)} that are not UTF-8 text, hidden files aside)"
            )
        return cls(path, paths, len(found) - len(paths))

    @classmethod
    def standard_library(cls) -> TextFiles:
        """Return the source of the running Python's standard library, as the corpus takes it.

        Raises:
            DataError: if this Python comes without its source.
        """
        root = Path(sysconfig.get_path("stdlib"))
        paths = tuple(path for path in walk(root) if is_library_source(path))
        if not paths:
            raise DataError(
                f"this Python comes without its source in {str(root)!r}: give a text of your own"
            )
        return cls(root, paths)

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.root / self.paths[0]) if len(self.paths) == 1 else str(self.root)

    @cached_property
    def size(self) -> int:
        """The bytes of all files."""
        return sum((self.root / path).stat().st_size for path in self.paths)

    @property
    def divisible(self) -> bool:
        """Whether there is more than one file."""
        return len(self.paths) > 1

    def digest(self) -> str:
        """Return SHA-256 over paths and contents."""
        return digest_of_files(self.root, list(self.paths))

    def documents(self) -> Iterator[Document]:
        """Yield each file as a document named by its path."""
        for path in self.paths:
            yield Document(path, pieces_of(text_blocks(self.root / path)))


def _is_text(path: Path) -> bool:
    """Whether a file is UTF-8 without the byte 0, read a block at a time."""
    try:
        return all("\0" not in block for block in text_blocks(path))
    except DataError as error:
        if isinstance(error.__cause__, OSError):
            raise
        return False
