"""Token shards: files of 16-bit tokens under a header, in the format of modded-nanoGPT.

A file is 256 little-endian int32 (1024 bytes): the magic number 20240520, the version 1, the number
of tokens, zeros; then the tokens, uint16. So a vocabulary has at most 65536 tokens.

Source: the data files of K. Jordan et al., *modded-nanogpt* (2024), which come from A. Karpathy's
*llm.c* (2024).
"""

from __future__ import annotations

import hashlib
import os
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from polargrad.errors import DataError
from polargrad.language.data.cache import BLOCK
from polargrad.records import write_atomically

MAGIC, VERSION = 20240520, 1
HEADER_BYTES = 256 * 4
TOKEN_BYTES = 2
LARGEST_VOCABULARY = 2**16
# The count in the header is a signed 32-bit number.
LARGEST_COUNT = 2**31 - 1
# 200 MB a file, as FineWeb is cut for modded-nanoGPT.
TOKENS_A_SHARD = 100_000_000


@dataclass(frozen=True)
class Shard:
    """A file of ``count`` tokens, of which a read takes into memory what it returns and no more.

    No file stays open and nothing is mapped: a file that is cut off while it is in use is an error
    with a name instead of a bus error, and any number of processes may share a shard.

    Args:
        path: the file.
        count: the number of its tokens.
    """

    path: Path
    count: int

    def read(self, start: int, count: int) -> Tensor:
        """Return the tokens ``start`` … ``start + count − 1``, ``(count,)``, int64.

        Raises:
            ValueError: if the shard does not have them.
            DataError: if the file does not have them any more.
        """
        if not 0 <= start <= start + count <= self.count:
            raise ValueError(
                f"start and count must lie within {self.count} tokens, got {start} and {count}"
            )
        with _opened(self.path) as file:
            return _tokens(self._bytes(file, start, count))

    def scan(self) -> tuple[str, int]:
        """Return SHA-256 of all tokens and the largest token, reading a block at a time.

        The largest of no tokens is −1.
        """
        digest, largest = hashlib.sha256(), -1
        with _opened(self.path) as file:
            for start in range(0, self.count, BLOCK // TOKEN_BYTES):
                count = min(BLOCK // TOKEN_BYTES, self.count - start)
                content = self._bytes(file, start, count)
                digest.update(content)
                largest = max(largest, int(_tokens(content).max()))
        return digest.hexdigest(), largest

    def _bytes(self, file: IO[bytes], start: int, count: int) -> bytearray:
        """The bytes of these tokens, which must be there."""
        content = bytearray(TOKEN_BYTES * count)
        file.seek(HEADER_BYTES + TOKEN_BYTES * start)
        if file.readinto(content) != len(content):  # type: ignore[attr-defined]
            raise DataError(
                f"the shard {str(self.path)!r} was cut off since it was opened: it had "
                f"{self.count} tokens"
            )
        return content


def _opened(path: Path) -> IO[bytes]:
    """The file, not buffered: what is read is exactly what is asked for."""
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise DataError(f"cannot read the shard {str(path)!r}: {error.strerror}") from error


def _tokens(content: bytearray) -> Tensor:
    """Bytes as tokens, int64."""
    if not content:
        return torch.empty(0, dtype=torch.int64)
    return torch.frombuffer(content, dtype=torch.uint16).long()


def open_shard(path: Path) -> Shard:
    """Return the shard at ``path``, whose header and size must agree.

    Raises:
        DataError: if it is missing, no shard, of another version or cut off.
    """
    with _opened(path) as file:
        header = file.read(HEADER_BYTES)
        size = file.seek(0, 2)
    if len(header) < HEADER_BYTES:
        raise DataError(
            f"{str(path)!r} is not a token shard: it has {size} bytes, a header has {HEADER_BYTES}"
        )
    magic, version, count = struct.unpack_from("<3i", header)
    if magic != MAGIC:
        raise DataError(
            f"{str(path)!r} is not a token shard: it begins with {magic}, a shard with {MAGIC}"
        )
    if version != VERSION:
        raise DataError(f"the shard {str(path)!r} is of version {version}, {VERSION} is read")
    held, odd = divmod(size - HEADER_BYTES, TOKEN_BYTES)
    if held != count or odd:
        raise DataError(
            f"the shard {str(path)!r} is damaged: its header says {count} tokens, "
            f"{size - HEADER_BYTES} bytes follow, which is {held} tokens"
            + (" and a half" if odd else "")
        )
    return Shard(path, count)


def write_shard(path: Path, tokens: Tensor) -> Shard:
    """Write tokens to ``path``, whole or not at all, and return the shard.

    Args:
        path: the file, which is replaced if it exists.
        tokens: ``(n,)``, of an integer dtype, each from 0 to 65535.

    Raises:
        ValueError: if ``tokens`` is not one-dimensional, or has a token that 16 bits do not hold.
        TypeError: if they are not integers.
        DataError: if the file cannot be written, as on a full disk; nothing is left behind.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     shard = write_shard(Path(folder) / "a.bin", torch.tensor([3, 1, 65535]))
        ...     shard.count, shard.read(1, 2).tolist()
        (3, [1, 65535])
    """
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise TypeError(f"tokens must be integers, got {tokens.dtype}")
    if tokens.dim() != 1:
        raise ValueError(f"tokens must have one dimension, got {tuple(tokens.shape)}")
    if len(tokens) > LARGEST_COUNT:
        raise ValueError(f"tokens must be at most {LARGEST_COUNT}, got {len(tokens)}")
    wide = tokens.to("cpu", torch.int64)
    if len(wide) and not (wide.min() >= 0 and wide.max() < LARGEST_VOCABULARY):
        raise ValueError(
            f"tokens must be from 0 to {LARGEST_VOCABULARY - 1}, "
            f"got {int(wide.min())} to {int(wide.max())}"
        )

    def write(file: IO[bytes]) -> None:
        file.write(_header(len(wide)))
        for part in torch.split(wide, BLOCK // TOKEN_BYTES):
            file.write(array("H", part.tolist()).tobytes())

    try:
        write_atomically(path, write)
    except OSError as error:
        raise DataError(
            f"cannot write {HEADER_BYTES + TOKEN_BYTES * len(wide)} bytes to "
            f"{str(path.parent)!r}: {error.strerror}"
        ) from error
    return Shard(path, len(wide))


def _header(count: int) -> bytes:
    """The header of a shard of this many tokens."""
    return struct.pack("<3i", MAGIC, VERSION, count).ljust(HEADER_BYTES, b"\0")


class ShardWriter:
    """Appends tokens to shards ``stem_000000.bin``, ``stem_000001.bin``, … of a folder.

    A file is a shard only when the next one is begun or the writer is closed; who needs all or
    nothing writes into a folder that is renamed afterwards. Errors of the disk are OSErrors.

    Args:
        folder: where to write.
        stem: how the files' names begin.
        tokens_a_shard: how many tokens a file holds, the last one aside.
    """

    def __init__(self, folder: Path, stem: str, *, tokens_a_shard: int = TOKENS_A_SHARD) -> None:
        if not 1 <= tokens_a_shard <= LARGEST_COUNT:
            raise ValueError(
                f"tokens_a_shard must be from 1 to {LARGEST_COUNT}, got {tokens_a_shard}"
            )
        self._folder, self._stem, self._size = folder, stem, tokens_a_shard
        self._file: IO[bytes] | None = None
        self._room = 0
        self.shards: list[Shard] = []
        self.tokens = 0

    def write(self, tokens: array[int]) -> None:
        """Append tokens, an array of type ``"H"``."""
        for start, count in self._portions(len(tokens)):
            assert self._file is not None
            self._file.write(tokens[start : start + count].tobytes())
            self._room -= count
            self.tokens += count

    def _portions(self, count: int) -> Iterator[tuple[int, int]]:
        """Cut ``count`` tokens at the ends of shards, beginning new shards where it is needed."""
        start = 0
        while start < count:
            if not self._room:
                self._finish()
                self._file = (self._folder / f"{self._stem}_{len(self.shards):06d}.bin").open("xb")
                self._file.write(_header(0))
                self._room = self._size
            portion = min(self._room, count - start)
            yield start, portion
            start += portion

    def _finish(self) -> None:
        """Give the current file its header and close it."""
        if self._file is None:
            return
        count = self._size - self._room
        with self._file as file:
            file.seek(0)
            file.write(_header(count))
            file.flush()
            os.fsync(file.fileno())
        self.shards.append(Shard(Path(file.name), count))
        self._file, self._room = None, 0

    def close(self) -> list[Shard]:
        """Finish the last file and return all shards."""
        self._finish()
        return self.shards

    def abandon(self) -> None:
        """Close the file as it is, after an error."""
        if self._file is not None:
            self._file.close()
