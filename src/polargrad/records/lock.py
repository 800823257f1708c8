"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from polargrad.errors import RunFolderError


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for the same folder out of it.

    The lock is a file beside the folder, which need not exist yet. The system gives it back when
    the process ends, however it ends. On Windows, where it has no such lock, nothing is kept out.

    Raises:
        RunFolderError: if another process has it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name, exclusive(Path(name) / "a"):
        ...     sorted(path.name for path in Path(name).iterdir())
        ['.a.lock']
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = folder.parent / f".{folder.name}.lock"
    with lock.open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunFolderError(
                f"out is {str(folder)!r}, in which another process is at work: "
                "wait for it, or give another folder"
            ) from None
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
