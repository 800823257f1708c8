"""Which files of a folder are read, which of the standard library, and which are held out."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from polargrad.errors import DataError

# Left out of the standard library: its tests, what pip installs, what differs from machine to
# machine, and long tables and generated text that teach a model nothing of the language.
EXCLUDED_FOLDERS = frozenset(
    {
        "__pycache__",
        "dist-packages",
        "encodings",
        "ensurepip",
        "idle_test",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
    }
)
EXCLUDED_PREFIXES = ("_sysconfigdata", "config-")

VALIDATION_SHARE = 0.1
# Of a folder with few files the hash may send nearly all to one side; outside these shares of the
# text the end of it is held out instead.
ACCEPTED_SHARES = (0.02, 0.5)


def walk(root: Path) -> list[str]:
    """The relative POSIX paths of all files that are not hidden, in order."""

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read the folder {error.filename!r}: {error.strerror}") from error

    found = []
    for folder, subfolders, names in os.walk(root, onerror=refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        paths = (Path(folder, name) for name in names if not name.startswith("."))
        found += [path.relative_to(root).as_posix() for path in paths if path.is_file()]
    return sorted(found)


def is_library_source(path: str) -> bool:
    """Whether this file of the standard library belongs to the corpus."""
    parts = path.split("/")
    return (
        path.endswith(".py")
        and EXCLUDED_FOLDERS.isdisjoint(parts[:-1])
        and not any(part.startswith(EXCLUDED_PREFIXES) for part in parts)
    )


def is_held_out(path: str, share: float = VALIDATION_SHARE) -> bool:
    """Whether the file of this relative path is validation text, for about that share of paths."""
    first = hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()[:8]
    return int.from_bytes(first, "big") < share * 2**64
