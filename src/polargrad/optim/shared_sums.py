"""Numbers of whole matrices, of which processes may hold parts: added up in one exchange."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from polargrad.distributed.ranks import Ranks
from polargrad.optim.entries import Entry

__all__ = ["sums", "totals"]


def sums(
    entries: Sequence[Entry], number: int, terms: Callable[[Entry], Sequence[Tensor]], about: str
) -> Tensor:
    """Return sums over the entries of each matrix, such as inner products: (N, k).

    Args:
        entries: N matrices on one device.
        number: k.
        terms: returns the k sums over the entries of a matrix, or of a part of one, in float64.
        about: what they are, for an error.
    """
    here = [position for position, entry in enumerate(entries) if entry.shared is None]
    whole = [term for position in here for term in terms(entries[position])]
    if len(here) == len(entries):
        return torch.stack(whole).view(-1, number)
    rows = dict(zip(here, torch.stack(whole).view(-1, number), strict=True)) if here else {}
    shared: dict[Ranks, list[int]] = {}
    for position, entry in enumerate(entries):
        if entry.shared is not None:
            shared.setdefault(entry.shared.ranks, []).append(position)
    for ranks, positions in shared.items():
        mine = torch.stack([_partial(entries[i], i, number, terms) for i in positions])
        rows |= dict(zip(positions, ranks.total(mine, about).unbind(0), strict=True))
    return torch.stack([rows[position] for position in range(len(entries))])


def totals(entries: Sequence[Entry], mine: Sequence[Tensor], about: str) -> list[Tensor]:
    """Return for each matrix the sum of a tensor over the processes that share it.

    Args:
        entries: the matrices.
        mine: the tensor that this process has of each.
        about: what they are, for an error.
    """
    found = list(mine)
    shared: dict[tuple[Ranks, torch.dtype, torch.device], list[int]] = {}
    for position, (entry, x) in enumerate(zip(entries, mine, strict=True)):
        if entry.shared is not None:
            shared.setdefault((entry.shared.ranks, x.dtype, x.device), []).append(position)
    for (ranks, _, _), positions in shared.items():
        flat = torch.cat([mine[i].reshape(-1) for i in positions])
        sizes = [mine[i].numel() for i in positions]
        pieces = torch.split(ranks.total(flat, about), sizes)
        for i, piece in zip(positions, pieces, strict=True):
            found[i] = piece.view(mine[i].shape)
    return found


def _partial(
    entry: Entry, turn: int, number: int, terms: Callable[[Entry], Sequence[Tensor]]
) -> Tensor:
    """The sums over what a process holds of a matrix and no other counts."""
    assert entry.shared is not None  # or there would be no parts
    ranks, matrix, parts = entry.shared.ranks, entry.shared.matrix, entry.shared.parts
    total = torch.zeros(number, dtype=torch.float64, device=entry.shared.device)
    for part in parts if matrix.counted_by(ranks.index, turn) else ():
        total += torch.stack(list(terms(part)))
    return total
