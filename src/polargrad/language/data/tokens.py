"""A stream of tokens: shards, one after the other, or a part of them, read by position."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from polargrad.language.data.shards import Shard


@dataclass(frozen=True)
class Tokens:
    """The tokens ``start`` … ``stop − 1`` of the concatenation of shards.

    It holds paths and counts alone: it is as large for a terabyte as for a page, can be pickled,
    and a read takes into memory what it returns.

    Args:
        shards: the shards, in order.
        start: the first token that belongs to the stream.
        stop: the first that does not any more; None takes all.

    Raises:
        ValueError: if the shards do not hold this range.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from polargrad.language.data import write_shard
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     parts = [torch.arange(5), torch.arange(5, 8)]
        ...     shards = [write_shard(Path(folder) / f"{p[0]}.bin", p) for p in parts]
        ...     tokens = Tokens(shards)
        ...     len(tokens), tokens.read(3, 4).tolist(), tokens.part(4, 6).read(1, 1).tolist()
        (8, [3, 4, 5, 6], [5])
    """

    shards: Sequence[Shard]
    start: int = 0
    stop: int | None = None
    _ends: list[int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ends = list(itertools.accumulate(shard.count for shard in self.shards))
        total = ends[-1] if ends else 0
        stop = total if self.stop is None else self.stop
        if not 0 <= self.start <= stop <= total:
            raise ValueError(
                f"start and stop must lie within {total} tokens, got {self.start} and {stop}"
            )
        object.__setattr__(self, "shards", tuple(self.shards))
        object.__setattr__(self, "stop", stop)
        object.__setattr__(self, "_ends", ends)

    def __len__(self) -> int:
        assert self.stop is not None
        return self.stop - self.start

    def part(self, start: int, stop: int) -> Tokens:
        """Return the stream of the tokens ``start`` … ``stop − 1`` of this one."""
        if not 0 <= start <= stop <= len(self):
            raise ValueError(
                f"start and stop must lie within {len(self)} tokens, got {start} and {stop}"
            )
        return replace(self, start=self.start + start, stop=self.start + stop)

    def read(self, start: int, count: int) -> Tensor:
        """Return the tokens ``start`` … ``start + count − 1``, ``(count,)``, int64.

        Raises:
            ValueError: if the stream does not have them.
            DataError: if a file does not have them any more.
        """
        if not 0 <= start <= start + count <= len(self):
            raise ValueError(
                f"start and count must lie within {len(self)} tokens, got {start} and {count}"
            )
        position, parts = self.start + start, []
        index = bisect_right(self._ends, position)
        while count:
            shard = self.shards[index]
            within = position - (self._ends[index] - shard.count)
            taken = min(count, shard.count - within)
            parts.append(shard.read(within, taken))
            position, count, index = position + taken, count - taken, index + 1
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)
