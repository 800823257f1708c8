"""Batches: which windows of a token stream are seen at which step, by which rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from polargrad.errors import DataError
from polargrad.language.data.order import Permutation
from polargrad.language.data.tokens import Tokens


@dataclass(frozen=True)
class TrainingBatches:
    r"""The training batches of a run: ``batches[step]`` is ``(batch / parts, context + 1)``, int64.

    A stream of n tokens has :math:`W = \lfloor (n - 1) / c \rfloor` windows for a context of c, the
    w-th of them the tokens :math:`wc, \ldots, (w + 1)c`. Columns 0 … c − 1 are the input, columns
    1 … c what is to be predicted, so every token of the windows is predicted once an epoch. Row j
    of step k is the row :math:`i = k\cdot\text{batch} + j` of the run, and that is the window

    .. math:: \pi_{\text{seed},\,\lfloor i / W \rfloor}(i \bmod W)

    with a permutation of the W windows for each epoch: every window once an epoch, also where an
    epoch ends within a batch. It is a pure function of (seed, step, data): the step is all that a
    checkpoint keeps, and neither ranks, nor accumulation, nor workers that read ahead change it.

    Part p of P has the rows p·batch/P … (p + 1)·batch/P − 1. With R ranks and A micro-batches a
    step, P = RA, and rank r takes the parts rA … rA + A − 1, one after the other.

    It is a map-style dataset: ``DataLoader(batches, batch_size=None, sampler=range(step, steps),
    num_workers=2)`` reads ahead.

    Args:
        tokens: the stream, longer than ``context``.
        batch: the number of windows of a step, over all ranks and micro-batches.
        context: the number of predicted tokens in a window.
        seed: the seed of the order.
        part: which part of the step's rows this is.
        parts: how many parts a step has, a divisor of ``batch``.

    Raises:
        ValueError: if a number is not allowed.
        DataError: if the stream is too short for one window.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from polargrad.language.data import write_shard
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tokens = Tokens([write_shard(Path(folder) / "a.bin", torch.arange(101))])
        ...     whole = TrainingBatches(tokens, batch=4, context=10, seed=0)
        ...     halves = [
        ...         TrainingBatches(tokens, batch=4, context=10, seed=0, part=p, parts=2)
        ...         for p in range(2)
        ...     ]
        ...     torch.equal(whole[7], torch.cat([half[7] for half in halves]))
        True
    """

    tokens: Tokens
    batch: int
    context: int
    seed: int
    part: int = 0
    parts: int = 1

    def __post_init__(self) -> None:
        for name in ("batch", "context", "parts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.batch % self.parts:
            raise ValueError(
                f"parts must divide batch={self.batch}, the rows of a step, got {self.parts}"
            )
        if not 0 <= self.part < self.parts:
            raise ValueError(f"part must be from 0 to {self.parts - 1}, got {self.part}")
        if len(self.tokens) <= self.context:
            raise DataError(
                f"the training tokens are {len(self.tokens)}, a window of context={self.context} "
                f"needs {self.context + 1}: give more text or a shorter context"
            )

    @property
    def windows(self) -> int:
        """The number of windows of an epoch."""
        return (len(self.tokens) - 1) // self.context

    def rows(self, step: int) -> list[tuple[int, int]]:
        """Return the epoch and the window of each row of this part, at ``step``."""
        if step < 0:
            raise IndexError(f"step must be at least 0, got {step}")
        share = self.batch // self.parts
        first = step * self.batch + self.part * share
        places = [divmod(row, self.windows) for row in range(first, first + share)]
        orders = {
            epoch: Permutation(self.windows, f"{self.seed}:{epoch}")
            for epoch in sorted({epoch for epoch, _ in places})
        }
        return [(epoch, orders[epoch][place]) for epoch, place in places]

    def __getitem__(self, step: int) -> Tensor:
        """Return the rows of this part at ``step``, ``(batch / parts, context + 1)``, int64."""
        return _windows(self.tokens, [window for _, window in self.rows(step)], self.context)


def evaluation_batches(
    tokens: Tokens, *, batch: int, context: int, windows: int
) -> Iterator[Tensor]:
    """Yield the validation tokens as batches ``(up to batch, context + 1)``, the same in every run.

    The windows are spread evenly over the stream and do not overlap in what is predicted; a short
    stream has fewer than ``windows`` of them.

    Raises:
        ValueError: if a number is less than 1.
        DataError: if the stream is too short for one window.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from polargrad.language.data import write_shard
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     tokens = Tokens([write_shard(Path(folder) / "a.bin", torch.arange(101))])
        ...     batches = evaluation_batches(tokens, batch=2, context=10, windows=5)
        ...     [batch[:, 0].tolist() for batch in batches]
        [[0, 20], [40, 60], [80]]
    """
    for name, value in (("batch", batch), ("context", context), ("windows", windows)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    possible = (len(tokens) - 1) // context
    if possible < 1:
        raise DataError(
            f"the validation tokens are {len(tokens)}, a window of context={context} needs "
            f"{context + 1}: give more text or a shorter context"
        )
    count = min(windows, possible)
    chosen = [index * possible // count for index in range(count)]
    for start in range(0, count, batch):
        yield _windows(tokens, chosen[start : start + batch], context)


def _windows(tokens: Tokens, windows: list[int], context: int) -> Tensor:
    """These windows, ``(len(windows), context + 1)``."""
    return torch.stack([tokens.read(window * context, context + 1) for window in windows])
