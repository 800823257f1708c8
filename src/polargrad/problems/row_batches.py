"""Mini-batches of rows: an endless stream of indices that can be saved and continued."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

__all__ = ["RowBatches"]


class RowBatches:
    """Indices of rows, drawn uniformly with replacement.

    Each batch is one call of ``torch.randint(0, rows, (size,), generator=generator)``, and nothing
    else is drawn: with the generator that has drawn the start this is the stream of the published
    code (:meth:`MatrixLogisticRegression.published_batches
    <polargrad.problems.logistic.MatrixLogisticRegression.published_batches>`).

    Args:
        generator: where the numbers come from; its state is the state of the stream.
        rows: how many rows there are, at least 1.
        size: how many indices a batch holds, at least 1; it may be larger than ``rows``.

    Raises:
        ValueError: if ``rows`` or ``size`` is smaller than 1.

    Example:
        >>> batches = RowBatches(torch.Generator().manual_seed(0), rows=10, size=4)
        >>> state = batches.state_dict()
        >>> first = next(batches)
        >>> batches.load_state_dict(state)
        >>> torch.equal(next(batches), first)
        True
    """

    def __init__(self, generator: torch.Generator, rows: int, size: int) -> None:
        for name, value in (("rows", rows), ("size", size)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.generator = generator
        self.rows = rows
        self.size = size

    def __iter__(self) -> Iterator[Tensor]:
        """Return the stream itself."""
        return self

    def __next__(self) -> Tensor:
        """Draw the next batch, int64 of shape (size,), on the device of the generator."""
        return torch.randint(
            0, self.rows, (self.size,), generator=self.generator, device=self.generator.device
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the state: plain numbers, and a tensor of the state of the generator."""
        return {"rows": self.rows, "size": self.size, "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state`` was taken.

        Raises:
            ValueError: if it is the state of batches of another size, or of other rows.
        """
        for name, value in (("rows", self.rows), ("size", self.size)):
            if state[name] != value:
                raise ValueError(f"the state is of {name} = {state[name]}, but here it is {value}")
        self.generator.set_state(state["generator"])
