"""The cache: what was computed from a text once and is found again by what it was made of."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from polargrad.errors import DataError

# Read and hashed at a time: large enough for the disk, small enough to be forgotten.
BLOCK = 2**20


def cache_folder(folder: Path | None = None, part: str = "") -> Path:
    """Return the folder of the cache, or of a ``part`` of it, made if it does not exist.

    The cache is ``folder`` where that is given, else ``polargrad`` in ``$XDG_CACHE_HOME``, else
    ``~/.cache/polargrad``.

    Raises:
        DataError: if it cannot be made.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     cache_folder(Path(name) / "mine", "tokens").relative_to(name).as_posix()
        'mine/tokens'

    Source: XDG Base Directory Specification, version 0.8; a relative path there is ignored.
    """
    if folder is None:
        base = Path(os.environ.get("XDG_CACHE_HOME", ""))
        folder = (base if base.is_absolute() else Path.home() / ".cache") / "polargrad"
    folder = folder / part
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"cache is {str(folder)!r}, which cannot be made: {error.strerror}"
        ) from error
    return folder


def key_of(*parts: object) -> str:
    """Return 32 hexadecimal digits that stand for these parts, each by its ``str``.

    Example:
        >>> key_of("a", "bc") == key_of("ab", "c")
        False
    """
    whole = hashlib.sha256()
    for part in parts:
        whole.update(hashlib.sha256(str(part).encode("utf-8", "surrogateescape")).digest())
    return whole.hexdigest()[:32]


def blocks_of(path: Path) -> Iterator[bytes]:
    """Yield the contents of a file, :data:`BLOCK` bytes at a time.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                yield block
    except OSError as error:
        raise DataError(f"cannot read {str(path)!r}: {error.strerror}") from error


def digest_of_files(root: Path, paths: list[str]) -> str:
    """Return SHA-256 over the relative paths and the contents of files, in this order.

    Raises:
        DataError: if one cannot be read.
    """
    whole = hashlib.sha256()
    for path in paths:
        whole.update(hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest())
        content = hashlib.sha256()
        for block in blocks_of(root / path):
            content.update(block)
        whole.update(content.digest())
    return whole.hexdigest()


@contextlib.contextmanager
def alone(entry: Path) -> Iterator[None]:
    """Wait until no other process works on this entry of the cache, and keep others waiting.

    The lock is a hidden file beside the entry, which stays. The system gives the lock back when
    the process ends, however it ends. On Windows, where it has no such lock, nobody waits.

    Raises:
        DataError: if nothing can be written beside the entry.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name, alone(Path(name) / "a"):
        ...     [path.name for path in Path(name).iterdir()]
        ['.a.lock']
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    try:
        file = (entry.parent / f".{entry.name}.lock").open("a", encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"cannot write to the cache {str(entry.parent)!r}: {error.strerror}"
        ) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
