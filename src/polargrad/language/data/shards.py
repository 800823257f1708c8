"""Token shards: files of tokens under a header, in the format of modded-nanoGPT.

A file is 256 little-endian int32 (1024 bytes): the magic number 20240520, the version 1, the number
of tokens, zeros; then the tokens, uint16. Where a vocabulary has more than 65536 tokens, the magic
number is 20240801, the version 7, and the tokens are uint32, as llm.c has it for Llama 3.

Source: the data files of K. Jordan et al., *modded-nanogpt* (2024), which come from A. Karpathy's
*llm.c* (2024).
"""

from __future__ import annotations

import hashlib
import struct
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from polargrad.errors import DataError
from polargrad.language.data.cache import BLOCK
from polargrad.records import write_atomically

HEADER_BYTES = 256 * 4
# The count in the header is a signed 32-bit number.
LARGEST_COUNT = 2**31 - 1


@dataclass(frozen=True)
class Layout:
    """How a shard keeps tokens.

    Args:
        magic: the first number of the header.
        version: the second.
        token_bytes: the bytes of a token.
        dtype: the type of a token.
        code: its type in the standard library's ``array``.
    """

    magic: int
    version: int
    token_bytes: int
    dtype: torch.dtype
    code: str

    @property
    def vocabulary(self) -> int:
        """How many tokens can be told apart."""
        return int(256**self.token_bytes)

    def header(self, count: int) -> bytes:
        """Return the header of a shard of ``count`` tokens."""
        return struct.pack("<3i", self.magic, self.version, count).ljust(HEADER_BYTES, b"\0")


NARROW = Layout(20240520, 1, 2, torch.uint16, "H")
WIDE = Layout(20240801, 7, 4, torch.uint32, "I")
LAYOUTS = {layout.magic: layout for layout in (NARROW, WIDE)}


def layout_of(vocabulary: int) -> Layout:
    """Return the layout for a vocabulary of this size: 16 bits a token if they are enough.

    Example:
        >>> layout_of(65536).token_bytes, layout_of(65537).token_bytes
        (2, 4)
    """
    return NARROW if vocabulary <= NARROW.vocabulary else WIDE


@dataclass(frozen=True)
class Shard:
    """A file of ``count`` tokens, of which a read takes into memory what it returns and no more.

    No file stays open and nothing is mapped: a file that is cut off while it is in use is an error
    with a name instead of a bus error, and any number of processes may share a shard.

    Args:
        path: the file.
        count: the number of its tokens.
        layout: how it keeps them.
    """

    path: Path
    count: int
    layout: Layout = NARROW

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
            return self._tokens(self._bytes(file, start, count))

    def scan(self) -> tuple[str, int]:
        """Return SHA-256 of all tokens and the largest token, reading a block at a time.

        The largest of no tokens is −1.
        """
        digest, largest = hashlib.sha256(), -1
        with _opened(self.path) as file:
            step = BLOCK // self.layout.token_bytes
            for start in range(0, self.count, step):
                count = min(step, self.count - start)
                content = self._bytes(file, start, count)
                digest.update(content)
                largest = max(largest, int(self._tokens(content).max()))
        return digest.hexdigest(), largest

    def _bytes(self, file: IO[bytes], start: int, count: int) -> bytearray:
        """The bytes of these tokens, which must be there."""
        content = bytearray(self.layout.token_bytes * count)
        file.seek(HEADER_BYTES + self.layout.token_bytes * start)
        if file.readinto(content) != len(content):  # type: ignore[attr-defined]
            raise DataError(
                f"the shard {str(self.path)!r} was cut off since it was opened: it had "
                f"{self.count} tokens"
            )
        return content

    def _tokens(self, content: bytearray) -> Tensor:
        """Bytes as tokens, int64."""
        if not content:
            return torch.empty(0, dtype=torch.int64)
        return torch.frombuffer(content, dtype=self.layout.dtype).long()


def _opened(path: Path) -> IO[bytes]:
    """The file, not buffered: what is read is exactly what is asked for."""
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise DataError(f"cannot read the shard {str(path)!r}: {error.strerror}") from error


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
    layout = LAYOUTS.get(magic)
    if layout is None:
        raise DataError(
            f"{str(path)!r} is not a token shard: it begins with {magic}, a shard with "
            f"{' or '.join(map(str, LAYOUTS))}"
        )
    if version != layout.version:
        raise DataError(
            f"the shard {str(path)!r} is of version {version}, {layout.version} is read"
        )
    held, rest = divmod(size - HEADER_BYTES, layout.token_bytes)
    if held != count or rest:
        raise DataError(
            f"the shard {str(path)!r} is damaged: its header says {count} tokens, "
            f"{size - HEADER_BYTES} bytes follow, which is {held} tokens"
            + (" and a part of one" if rest else "")
        )
    return Shard(path, count, layout)


def write_shard(path: Path, tokens: Tensor, *, vocabulary: int = NARROW.vocabulary) -> Shard:
    """Write tokens to ``path``, whole or not at all, and return the shard.

    Args:
        path: the file, which is replaced if it exists.
        tokens: ``(n,)``, of an integer dtype, each from 0 to ``vocabulary`` − 1.
        vocabulary: the size of the vocabulary: up to 65536 a token takes 2 bytes, above that 4.

    Raises:
        ValueError: if ``tokens`` is not one-dimensional, or has one outside the vocabulary.
        TypeError: if they are not integers.
        DataError: if the file cannot be written, as on a full disk; nothing is left behind.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     shard = write_shard(Path(folder) / "a.bin", torch.tensor([3, 1, 65535]))
        ...     shard.count, shard.read(1, 2).tolist()
        (3, [1, 65535])
    """
    layout = layout_of(vocabulary)
    wide = _checked(tokens, min(vocabulary, layout.vocabulary))

    def write(file: IO[bytes]) -> None:
        file.write(layout.header(len(wide)))
        for part in torch.split(wide, BLOCK // layout.token_bytes):
            file.write(array(layout.code, part.tolist()).tobytes())

    try:
        write_atomically(path, write)
    except OSError as error:
        raise DataError(
            f"cannot write {HEADER_BYTES + layout.token_bytes * len(wide)} bytes to "
            f"{str(path.parent)!r}: {error.strerror}"
        ) from error
    return Shard(path, len(wide), layout)


def _checked(tokens: Tensor, vocabulary: int) -> Tensor:
    """The tokens as int64, all of which must be in the vocabulary."""
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise TypeError(f"tokens must be integers, got {tokens.dtype}")
    if tokens.dim() != 1:
        raise ValueError(f"tokens must have one dimension, got {tuple(tokens.shape)}")
    if len(tokens) > LARGEST_COUNT:
        raise ValueError(f"tokens must be at most {LARGEST_COUNT}, got {len(tokens)}")
    wide = tokens.to("cpu", torch.int64)
    if len(wide) and not (wide.min() >= 0 and wide.max() < vocabulary):
        raise ValueError(
            f"tokens must be from 0 to {vocabulary - 1}, got {int(wide.min())} to {int(wide.max())}"
        )
    return wide
