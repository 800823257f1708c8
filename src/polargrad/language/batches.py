"""Batches: which bytes of a text are seen at which step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor


def training_batch(tokens: Tensor, *, batch: int, context: int, seed: int, step: int) -> Tensor:
    """Return the batch of ``step``: random windows, ``(batch, context + 1)``, int64.

    A pure function of its arguments: a run that starts again at some step needs no other memory of
    its place in the data than the step. Columns 0 … context − 1 are the input, columns
    1 … context what is to be predicted.

    Args:
        tokens: the text, one-dimensional, uint8, at least ``context + 1`` long.
        batch: number of windows.
        context: number of predicted tokens in a window.
        seed: the seed of the run.
        step: the number of steps taken before.

    Example:
        >>> text = torch.arange(100, dtype=torch.uint8)
        >>> a = training_batch(text, batch=2, context=4, seed=0, step=7)
        >>> a.shape, bool((a[:, 1:] == a[:, :-1] + 1).all())
        (torch.Size([2, 5]), True)
    """
    # Steps of neighbouring seeds must not share batches, as seed + step would make them.
    digest = hashlib.sha256(f"{seed}:{step}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))
    offsets = torch.randint(len(tokens) - context, (batch,), generator=generator)
    return _windows(tokens, offsets, context)


def validation_batches(
    tokens: Tensor, *, batch: int, context: int, windows: int
) -> Iterator[Tensor]:
    """Yield the validation text as batches ``(up to batch, context + 1)``, the same in every run.

    The windows are spread evenly over the text and do not overlap in what is predicted; a short
    text has fewer than ``windows`` of them.
    """
    possible = (len(tokens) - 1) // context
    count = min(windows, possible)
    starts = torch.arange(count) * possible // count * context
    for part in torch.split(starts, batch):
        yield _windows(tokens, part, context)


def _windows(tokens: Tensor, offsets: Tensor, context: int) -> Tensor:
    """The windows of ``context + 1`` tokens that begin at ``offsets``."""
    return tokens[offsets[:, None] + torch.arange(context + 1)].long()
