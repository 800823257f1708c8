"""Token shards that are written as the tokens come."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from polargrad.language.data.shards import LARGEST_COUNT, NARROW, Layout, Shard

# 200 MB a file, as FineWeb is cut for modded-nanoGPT.
TOKENS_A_SHARD = 100_000_000


class ShardWriter:
    """Appends tokens to shards ``stem_000000.bin``, ``stem_000001.bin``, … of a folder.

    A file is a shard only when the next one is begun or the writer is closed; who needs all or
    nothing writes into a folder that is renamed afterwards. Errors of the disk are OSErrors.

    Args:
        folder: where to write.
        stem: how the files' names begin.
        tokens_a_shard: how many tokens a file holds, the last one aside.
        layout: the bytes of a token, and the header that says so.
    """

    def __init__(
        self,
        folder: Path,
        stem: str,
        *,
        tokens_a_shard: int = TOKENS_A_SHARD,
        layout: Layout = NARROW,
    ) -> None:
        if not 1 <= tokens_a_shard <= LARGEST_COUNT:
            raise ValueError(
                f"tokens_a_shard must be from 1 to {LARGEST_COUNT}, got {tokens_a_shard}"
            )
        self._folder, self._stem, self._size = folder, stem, tokens_a_shard
        self._layout = layout
        self._file: IO[bytes] | None = None
        self._room = 0
        self.shards: list[Shard] = []
        self.tokens = 0

    def write(self, tokens: array[int]) -> None:
        """Append tokens, an array of the layout's type."""
        if tokens.typecode != self._layout.code:
            raise TypeError(
                f"tokens must be an array of type {self._layout.code!r}, got {tokens.typecode!r}"
            )
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
                self._file.write(self._layout.header(0))
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
            file.write(self._layout.header(count))
            file.flush()
            os.fsync(file.fileno())
        self.shards.append(Shard(Path(file.name), count, self._layout))
        self._file, self._room = None, 0

    def close(self) -> list[Shard]:
        """Finish the last file and return all shards."""
        self._finish()
        return self.shards

    def abandon(self) -> None:
        """Close the file as it is, after an error."""
        if self._file is not None:
            self._file.close()
