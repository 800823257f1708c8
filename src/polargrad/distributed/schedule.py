"""What a step exchanges, planned: an owner for each matrix, and rounds of a stack each."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from polargrad.distributed import local
from polargrad.distributed.assignment import assign
from polargrad.distributed.messages import padded
from polargrad.distributed.shared_matrix import SharedMatrix

__all__ = ["Output", "Plan", "Schedule", "SharedSource", "Traffic", "of_one_kind"]

# What the owners return to a process at a time: of copies each returns as much as it works on.
RETURNED_STACKS = 3


@dataclass(frozen=True)
class Output:
    """One of the results that a matrix has beside its direction.

    Attributes:
        shape: for one matrix.
        dtype: of it.
        everywhere: whether every process keeps it, or those alone that hold entries of the matrix.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    everywhere: bool


@dataclass(frozen=True)
class SharedSource:
    """One logical matrix that processes share: what is read of it, and what is found for it.

    Attributes:
        key: sources of equal keys share a stack; shape, dtype and device belong into it.
        size: the bytes of the matrix in a stack.
        matrix: who holds which entries.
        read: returns for each tensor that the function needs its patches on this process.
        inputs: the dtype of each of these tensors.
        direction: the dtype of the first result, a matrix of the same shape.
        outputs: the other results.
        cost: of the function, in any unit.
        name: for an error.
        device: of all of it.
    """

    key: Hashable
    size: int
    matrix: SharedMatrix
    read: Callable[[], tuple[list[Tensor], ...]]
    inputs: tuple[torch.dtype, ...]
    direction: torch.dtype
    outputs: tuple[Output, ...]
    cost: float
    name: str
    device: torch.device

    @property
    def identity(self) -> Hashable:
        """What a schedule depends on."""
        return self.key, self.size, self.matrix, self.inputs, self.outputs, self.cost

    def given_bytes(self, giver: int) -> int:
        """How much a process sends to an owner of this matrix."""
        return sum(
            padded(patch.sizes, dtype)
            for dtype in self.inputs
            for patch in self.matrix.patches[giver]
        )

    def returned_bytes(self, taker: int) -> int:
        """How much an owner of this matrix sends to a process."""
        mine = self.matrix.patches[taker]
        wanted = [output for output in self.outputs if mine or output.everywhere]
        return sum(padded(patch.sizes, self.direction) for patch in mine) + sum(
            padded(output.shape, output.dtype) for output in wanted
        )


class Traffic(NamedTuple):
    """One exchange, as one process sees it.

    Attributes:
        sent: the bytes that it sends to each process.
        received: the bytes that each process sends to it.
        needed: whether any process sends anything; known to all of them.
    """

    sent: list[int]
    received: list[int]
    needed: bool


class Return(NamedTuple):
    """Results that are sent together.

    Attributes:
        owners: whose results.
        takers: to whom.
        traffic: as this process sees it.
    """

    owners: list[int]
    takers: Sequence[int]
    traffic: Traffic


Owned = Sequence[Sequence[int]]


def of_one_kind(sources: Sequence[SharedSource], ranks: int) -> list[list[int]]:
    """The positions of those that all processes hold whole, and of the others; no empty list.

    Each is planned for itself: the first are broadcast, the others exchanged.
    """
    kinds: tuple[list[int], list[int]] = ([], [])
    for position, source in enumerate(sources):
        kinds[len(source.matrix.holders) != ranks].append(position)
    return [kind for kind in kinds if kind]


class Plan:
    """Who owns which matrix, and which stack each process works on in each round.

    The same for equal sources on all processes. In a round every process has at most one stack, and
    what it is sent for it; so that no more than a few are held at a time.

    Args:
        sources: the matrices of a step, in the same order on all processes.
        ranks: how many processes there are.

    Attributes:
        owners: of each matrix.
        rounds: in each of them, for each process the positions of the matrices of its stack.
        returned: for each matrix the bytes that its owner sends to each process.
        returns: for each round whose results are sent together, and to whom, one after the other.
    """

    def __init__(self, sources: Sequence[SharedSource], ranks: int) -> None:
        self.owners = assign(
            [source.cost for source in sources],
            ranks,
            [source.matrix.holders for source in sources],
        )
        mine: list[list[int]] = [[] for _ in range(ranks)]
        # The longest first, so that what is done at the same time takes about as long.
        for i in sorted(range(len(sources)), key=lambda i: (-sources[i].cost, i)):
            mine[self.owners[i]].append(i)
        cut = [
            [[held[k] for k in stack] for stack in local.stacks([sources[i] for i in held])]
            for held in mine
        ]
        self.rounds: list[list[list[int]]] = [
            [own[number] if number < len(own) else [] for own in cut]
            for number in range(max(map(len, cut), default=0))
        ]
        self.returned = _returned_bytes(sources, ranks)
        self.returns: list[list[tuple[list[int], Sequence[int]]]] = [
            [
                (owners, takers)
                for owners in _together(self.returned, owned)
                for takers in _takers(sources, self.returned, owned, owners)
            ]
            for owned in self.rounds
        ]


class Schedule:
    """A plan as one process sees it: what it sends, and what it is sent.

    Args:
        sources, ranks: as for :class:`Plan`.
        me: this process.

    Attributes:
        owners, rounds: of the plan.
        gathers: what is sent to the owners in each round.
        returns: for each round the results that are sent together, one after the other.
    """

    def __init__(self, sources: Sequence[SharedSource], ranks: int, me: int) -> None:
        plan = Plan(sources, ranks)
        self.owners, self.rounds = plan.owners, plan.rounds
        self.gathers = [_gathered(sources, owned, me) for owned in plan.rounds]
        self.returns = [
            [
                Return(owners, takers, _returned(plan.returned, owned, owners, takers, me))
                for owners, takers in lists
            ]
            for owned, lists in zip(plan.rounds, plan.returns, strict=True)
        ]


def _returned_bytes(sources: Sequence[SharedSource], ranks: int) -> list[list[int]]:
    """For each matrix the bytes that its owner sends to each process; equal ones are one list."""
    known: dict[Hashable, list[int]] = {}
    found = []
    for source in sources:
        key = (source.matrix, source.direction, source.outputs)
        if key not in known:
            known[key] = [source.returned_bytes(taker) for taker in range(ranks)]
        found.append(known[key])
    return found


def _gathered(sources: Sequence[SharedSource], owned: Owned, me: int) -> Traffic:
    """What travels to the owners of a round."""
    sent, received, needed = [0] * len(owned), [0] * len(owned), False
    for owner, positions in enumerate(owned):
        for source in (sources[i] for i in positions):
            givers = [giver for giver in source.matrix.givers(owner) if giver != owner]
            needed = needed or bool(givers)
            for giver in givers:
                if me == giver:
                    sent[owner] += source.given_bytes(giver)
                if me == owner:
                    received[giver] += source.given_bytes(giver)
    return Traffic(sent, received, needed)


def _returned(
    returned: Sequence[Sequence[int]],
    owned: Owned,
    owners: Sequence[int],
    takers: Sequence[int],
    me: int,
) -> Traffic:
    """What travels back from some owners to some processes."""
    ranks = range(len(owned))

    def size(owner: int, taker: int) -> int:
        return sum(returned[i][taker] for i in owned[owner]) if owner != taker else 0

    sent = [size(me, taker) if me in owners and taker in takers else 0 for taker in ranks]
    received = [size(owner, me) if owner in owners and me in takers else 0 for owner in ranks]
    needed = any(size(owner, taker) for owner in owners for taker in takers)
    return Traffic(sent, received, needed)


def _takers(
    sources: Sequence[SharedSource],
    returned: Sequence[Sequence[int]],
    owned: Owned,
    owners: Sequence[int],
) -> list[Sequence[int]]:
    """All processes, in as many parts as keep small what an owner sends to one of them.

    Of replicas of shards an owner sends as many copies as there are replicas; what all processes
    hold whole is broadcast, and no copy is made.
    """
    ranks = range(len(owned))
    if all(len(sources[i].matrix.holders) == len(ranks) for o in owners for i in owned[o]):
        return [ranks]
    most = max(sum(sum(returned[i]) for i in owned[o]) for o in owners)
    parts = -(-most // (RETURNED_STACKS * local.STACK_BYTES)) or 1
    length = -(-len(ranks) // parts)
    return [ranks[start : start + length] for start in ranks[::length]]


def _together(returned: Sequence[Sequence[int]], owned: Owned) -> list[list[int]]:
    """The processes with a stack in a round, in lists of which each returns little enough."""
    limit = RETURNED_STACKS * local.STACK_BYTES
    lists: list[list[int]] = []
    totals = [0] * len(owned)  # what each process would be sent
    for owner, positions in enumerate(owned):
        if not positions:
            continue
        more = [sum(returned[i][r] for i in positions) for r in range(len(owned))]
        sums = [a + b for a, b in zip(totals, more, strict=True)]
        if not lists or max(sums) > limit:
            lists.append([])
            sums = more
        lists[-1].append(owner)
        totals = sums
    return lists
