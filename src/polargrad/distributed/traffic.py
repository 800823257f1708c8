"""What all processes send and hold in a step that is planned and not run."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from polargrad.distributed.gram import DOUBLE, GramSource, packed_bytes, ring_bytes
from polargrad.distributed.local import stacks as stacks_of_equal
from polargrad.distributed.mesh_sizes import DIMENSIONS, MeshSizes
from polargrad.distributed.schedule import Plan, SharedSource, of_one_kind
from polargrad.distributed.shared import IN_FLIGHT

__all__ = ["Exchanged", "exchanged", "exchanged_by_gram"]

# Stacks of Gram matrices, as measured.
GRAMS_HELD = 6


class Exchanged(NamedTuple):
    """What the processes of a mesh do in one call of an executor, one row for each of them.

    Attributes:
        owners: of each matrix.
        sent: the bytes that each process sends, over the link of each dimension: (R, 3).
        held: the bytes of stacks and buffers that each process holds at most: (R,).
    """

    owners: list[int]
    sent: Tensor
    held: Tensor


def exchanged(sources: Sequence[SharedSource], mesh: MeshSizes, stacks: Sequence[int]) -> Exchanged:
    """Return what :class:`polargrad.distributed.SharedExecutor` would do with these matrices.

    By the plan that it would make. Buffers are counted as it makes them: those of the stack that
    comes next, and of as many results as are on their way at once.

    Args:
        sources: the matrices, of which nothing is read.
        mesh: the processes.
        stacks: for each matrix, how many stacks like its own the function holds.

    Example:
        >>> exchanged([], MeshSizes(fsdp=2), []).sent.tolist()
        [[0, 0, 0], [0, 0, 0]]
    """
    ranks = mesh.ranks
    owners = [0] * len(sources)
    sent = torch.zeros(ranks, len(DIMENSIONS), dtype=torch.int64)
    held = torch.zeros(ranks, dtype=torch.int64)
    for chosen in of_one_kind(sources, ranks):
        call = _Call([sources[i] for i in chosen], mesh, [stacks[i] for i in chosen])
        for i, owner in zip(chosen, call.plan.owners, strict=True):
            owners[i] = owner
        sent += call.sent
        held = torch.maximum(held, call.held())
    return Exchanged(owners, sent, held)


def exchanged_by_gram(sources: Sequence[GramSource], mesh: MeshSizes) -> Exchanged:
    """Return what :class:`polargrad.distributed.GramExecutor` would do with these matrices.

    Sums go around a ring. Held are the Gram matrices of a stack, as they are, as they travel and in
    what is made of them, those of the next, and one strip in double precision.
    """
    ranks = mesh.ranks
    sent = torch.zeros(ranks, len(DIMENSIONS), dtype=torch.int64)
    held = torch.zeros(ranks, dtype=torch.int64)
    links = torch.stack([mesh.links(rank)[(rank + 1) % ranks] for rank in range(ranks)])
    for stack in stacks_of_equal(sources):
        total = len(stack) * packed_bytes(sources[stack[0]].columns)
        sent[torch.arange(ranks), links] += ring_bytes(total, ranks)
        grams = len(stack) * sources[stack[0]].columns ** 2 * DOUBLE.itemsize
        held = held.clamp(min=GRAMS_HELD * grams + max(sources[i].strip_bytes for i in stack))
    return Exchanged([0] * len(sources), sent, held)


class _Call:
    """One call for matrices that are all held whole, or all in parts.

    Attributes:
        plan: who does what.
        sent: as :class:`Exchanged` has it.
        gathers: for each round the bytes of the buffers of each process for what comes to it.
        returns: for each round those for what goes back, one after the other.
    """

    def __init__(
        self, sources: Sequence[SharedSource], mesh: MeshSizes, stacks: Sequence[int]
    ) -> None:
        self.sources, self.mesh, self.stacks = sources, mesh, stacks
        self.plan = Plan(sources, mesh.ranks)
        self.whole = len(sources[0].matrix.holders) == mesh.ranks
        self.sent = torch.zeros(mesh.ranks, len(DIMENSIONS), dtype=torch.int64)
        self._given: dict[Hashable, Tensor] = {}
        self._returned: dict[int, Tensor] = {}
        self._owners: Sequence[int] | None = None  # for which sizes and links are kept
        self.gathers = [self._gather(owned) for owned in self.plan.rounds]
        self.returns = [
            [self._return(owned, owners, takers) for owners, takers in lists]
            for owned, lists in zip(self.plan.rounds, self.plan.returns, strict=True)
        ]

    def held(self) -> Tensor:
        """The most that each process holds at a time."""
        most, before = self._nothing(), list[Tensor]()
        for number, owned in enumerate(self.plan.rounds):
            work = self._nothing()
            for owner, positions in enumerate(owned):
                work[owner] = sum(self.stacks[i] * self.sources[i].size for i in positions)
            # A stack is filled from one buffer, and worked on while the next is on its way.
            coming = torch.stack(self.gathers[number : number + 2]).amax(0)
            going, parts = self._nothing(), [*before, *self.returns[number]]
            for first in range(len(parts)):
                together = torch.stack(parts[first : first + IN_FLIGHT]).sum(0)
                going = torch.maximum(going, together)
            before = parts[-IN_FLIGHT:]
            most = torch.maximum(most, work + coming + going)
        return most

    def _nothing(self) -> Tensor:
        return torch.zeros(self.mesh.ranks, dtype=torch.int64)

    def _gather(self, owned: Sequence[Sequence[int]]) -> Tensor:
        """Count what travels to the owners of a round."""
        buffers = self._nothing()
        for owner, positions in enumerate(owned):
            if not positions:
                continue
            sizes = self._nothing()
            for i in positions:
                givers = torch.tensor(self.sources[i].matrix.givers(owner), dtype=torch.int64)
                sizes[givers] += self._given_of(self.sources[i])[givers]
            sizes[owner] = 0
            buffers += sizes
            buffers[owner] += sizes.sum()
            links = self.mesh.links(owner)
            self.sent.scatter_add_(1, links[:, None], sizes[:, None])
        return buffers

    def _given_of(self, source: SharedSource) -> Tensor:
        """What each process would send of a matrix to an owner."""
        key = (source.matrix, source.inputs)
        if key not in self._given:
            sizes = [source.given_bytes(giver) for giver in range(self.mesh.ranks)]
            self._given[key] = torch.tensor(sizes, dtype=torch.int64)
        return self._given[key]

    def _returned_of(self, sizes: list[int]) -> Tensor:
        """What an owner sends to each process; the plan has one list for equal matrices."""
        if id(sizes) not in self._returned:
            self._returned[id(sizes)] = torch.tensor(sizes, dtype=torch.int64)
        return self._returned[id(sizes)]

    def _return(
        self, owned: Sequence[Sequence[int]], owners: Sequence[int], takers: Sequence[int]
    ) -> Tensor:
        """Count what travels back from some owners to some processes."""
        buffers, asked = self._nothing(), torch.tensor(takers)
        sizes = self._due(owned, owners)[:, asked]
        places = torch.tensor(owners)
        if self.whole and self.mesh.ranks > 1:  # a broadcast reads and writes one buffer
            buffers[asked] += sizes.sum(0)
        sizes = sizes.masked_fill(asked == places[:, None], 0)
        if not self.whole:
            buffers[asked] += sizes.sum(0)
            buffers[places] += sizes.sum(1)
        links = self._links[:, asked]
        for link in range(len(DIMENSIONS)):
            self.sent[places, link] += (sizes * (links == link)).sum(1)
        return buffers

    def _due(self, owned: Sequence[Sequence[int]], owners: Sequence[int]) -> Tensor:
        """What each of some owners sends back to each process in a round, and over which links."""
        if self._owners is not owners:
            self._owners = owners
            self._links = torch.stack([self.mesh.links(owner) for owner in owners]).to(torch.int8)
            sums = [
                torch.stack([self._returned_of(self.plan.returned[i]) for i in owned[owner]]).sum(0)
                for owner in owners
            ]
            self._sizes = torch.stack(sums)
        return self._sizes
