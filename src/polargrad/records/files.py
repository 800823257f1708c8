"""Files that are either whole or absent."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

UNFINISHED = ".part"


def remove_unfinished(folder: Path) -> None:
    """Delete what :func:`write_atomically` left below a folder when its process was killed.

    Nobody else may be writing there.
    """
    for path in folder.rglob(f".*{UNFINISHED}"):
        path.unlink(missing_ok=True)


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a file that replaces ``path`` only when it is complete and on disk.

    A crash, a full disk or an exception in ``write`` leaves the old file as it was.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     target = Path(folder) / "a.txt"
        ...     write_atomically(target, lambda file: file.write(b"whole"))
        ...     target.read_text()
        'whole'
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner reads; a record is as open as any other file.
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on disk: a new name is none before, if power fails.

    Windows cannot do this, and needs it less.
    """
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
