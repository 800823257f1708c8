"""Text to train on: the Python standard library of this machine, or the user's own."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

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


@dataclass(frozen=True)
class Corpus:
    """A text in two parts, as bytes.

    Args:
        train: the training text, ``(n,)``, uint8.
        validation: the validation text, ``(m,)``, uint8.
        digest: SHA-256 over the paths and contents of all files, in hexadecimal: losses are
            comparable only where it is equal.
        split: how the validation text was chosen, in words.
        files: number of files that were read.
        skipped: number of files that were left out because they are not text.
    """

    train: Tensor
    validation: Tensor
    digest: str
    split: str
    files: int
    skipped: int = 0


def load_corpus(data: Path | None, *, shortest: int = 1) -> Corpus:
    """Return the text at ``data``, or the standard library's source where that is None.

    Raises:
        DataError: if there is no text, or less than ``shortest`` bytes for either part.
    """
    return (
        standard_library(shortest=shortest) if data is None else own_text(data, shortest=shortest)
    )


def standard_library(*, shortest: int = 1) -> Corpus:
    """Return the source of the running Python's standard library, about 9 MB.

    Files are taken in the order of their relative paths; about one in ten, chosen by a hash of its
    relative path, is validation text. Left out are tests, site-packages, ``_sysconfigdata*``,
    encodings, pydoc_data, idlelib, lib2to3, ensurepip and the build configuration.

    Args:
        shortest: the least number of bytes that either part must have.

    Raises:
        DataError: if this Python comes without its source.
    """
    root = Path(sysconfig.get_path("stdlib"))
    paths = [path for path in walk(root) if is_library_source(path)]
    files = {path: _read(root / path) for path in paths}
    train, validation = _split_by_hash(files)
    if min(len(train), len(validation)) < shortest:
        raise DataError(
            f"the standard library of this Python, {str(root)!r}, holds {len(train)} bytes of "
            f"training source and {len(validation)} of validation source, at least {shortest} are "
            "needed of each: give a text of your own (data)"
        )
    return Corpus(
        _tokens(train), _tokens(validation), _digest(files), "by a hash of the path", len(files)
    )


def own_text(data: Path, *, shortest: int = 1) -> Corpus:
    """Return the user's UTF-8 text: a file, or the files of a folder that are text.

    Of a file the last tenth is validation text. Of a folder all files are taken that are text and
    not hidden, in the order of their relative paths; about one in ten, chosen by a hash of its
    relative path, is validation text. Where that gives validation less than 2 % or more than 50 %
    of the text, or less than ``shortest`` bytes to either part, the last tenth of the whole is
    taken instead.

    Args:
        data: the file or folder.
        shortest: the least number of bytes that either part must have.

    Raises:
        DataError: if ``data`` is missing, empty, not text or too short.
    """
    if data.is_file():
        files = {data.name: _read(data)}
        if not _is_text(files[data.name]):
            raise DataError(f"data is {str(data)!r}, which is not UTF-8 text: give a text file")
        skipped = 0
    elif data.is_dir():
        found = {path: _read(data / path) for path in walk(data)}
        files = {path: content for path, content in found.items() if _is_text(content)}
        skipped = len(found) - len(files)
        if not files:
            raise DataError(
                f"data is {str(data)!r}, a folder without a text file "
                f"({skipped} that are not UTF-8 text, hidden files aside)"
            )
    elif data.exists():
        raise DataError(f"data is {str(data)!r}, which is neither a file nor a folder")
    else:
        raise DataError(f"data is {str(data)!r}, which does not exist: give a file or a folder")
    return _own_corpus(data, files, skipped, shortest)


def _own_corpus(data: Path, files: Mapping[str, bytes], skipped: int, shortest: int) -> Corpus:
    """Split the user's files, by hash where that is sensible, else at nine tenths."""
    size = sum(map(len, files.values()))
    if not size:
        raise DataError(f"data is {str(data)!r}, which is empty: give text")
    train, validation = _split_by_hash(files)
    split = "by a hash of the path"
    low, high = (share * size for share in ACCEPTED_SHARES)
    if min(len(train), len(validation)) < shortest or not low <= len(validation) <= high:
        text = b"".join(files.values())
        held_out = round(VALIDATION_SHARE * size)
        train, validation = text[: size - held_out], text[size - held_out :]
        split = "the last tenth"
    if min(len(train), len(validation)) < shortest:
        raise DataError(
            f"data is {str(data)!r}, which is too short: of its {size} bytes {len(train)} are for "
            f"training and {len(validation)} for validation, at least {shortest} are needed of each"
        )
    return Corpus(_tokens(train), _tokens(validation), _digest(files), split, len(files), skipped)


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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {str(path)!r}: {error.strerror}") from error


def _is_text(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in content


def _split_by_hash(files: Mapping[str, bytes]) -> tuple[bytes, bytes]:
    """Training and validation text: the files in order, each on the side of its path's hash."""
    return (
        b"".join(content for path, content in files.items() if not is_held_out(path)),
        b"".join(content for path, content in files.items() if is_held_out(path)),
    )


def is_held_out(path: str, share: float = VALIDATION_SHARE) -> bool:
    """Whether the file of this relative path is validation text, for about that share of paths."""
    first = hashlib.sha256(path.encode("utf-8", "surrogateescape")).digest()[:8]
    return int.from_bytes(first, "big") < share * 2**64


def _digest(files: Mapping[str, bytes]) -> str:
    """SHA-256 over the digests of paths and contents, so that no two lists of files collide."""
    whole = hashlib.sha256()
    for part in _parts(files.items()):
        whole.update(hashlib.sha256(part).digest())
    return whole.hexdigest()


def _parts(files: Iterable[tuple[str, bytes]]) -> Iterator[bytes]:
    for path, content in files:
        yield path.encode("utf-8", "surrogateescape")
        yield content


def _tokens(text: bytes) -> Tensor:
    """The bytes as a uint8 tensor of their own memory."""
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)
