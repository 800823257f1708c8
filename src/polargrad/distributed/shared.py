"""Matrices that processes share: each is worked on once, whole, by the process that owns it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from polargrad.distributed.local import StackFunction
from polargrad.distributed.messages import Reader, Writer
from polargrad.distributed.ranks import Pending, Ranks, listed
from polargrad.distributed.schedule import Schedule, SharedSource, of_one_kind

__all__ = ["SharedExecutor"]

# Takes the position of a matrix, its direction in the patches that this process holds, and what
# else was found for it, each with a first dimension of 1; None for what is of no use here.
DeliverPatches = Callable[[int, list[Tensor], list[Tensor | None]], None]
# Rounds whose results are still on their way.
IN_FLIGHT = 2
# Schedules that are kept: with and without the parameters that have a gradient now and then, and of
# directions that are found in rounds one for each turn.
KEPT = 64


class SharedExecutor:
    """Maps a function of whole matrices over those that the processes of a group share.

    Every process calls it with the same matrices in the same order. Each matrix has one owner: what
    the others hold of it is sent there, the function is called there with a stack of such matrices,
    and what each process holds of the direction is sent back. While a stack is worked on, the next
    is on its way and the results of the one before are; a process holds no more than these.

    Args:
        ranks: the processes.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self._schedules: dict[Hashable, Schedule] = {}

    def map(
        self,
        function: StackFunction,
        sources: Sequence[SharedSource],
        deliver: DeliverPatches,
        numbers: Sequence[int] | None = None,
    ) -> None:
        """Apply ``function`` to stacks of whole matrices; hand on what is held here of the results.

        Args:
            function: ``function(positions, *stacks)`` takes stacks (B, m, n) and returns tensors
                whose first dimension is B, the first of them the directions, (B, m, n).
            sources: the matrices.
            deliver: is called for each matrix with its position, the patches of its direction, and
                the other results.
            numbers: by which positions the matrices are called; None for those in ``sources``.

        Raises:
            CollectiveError: if an exchange failed; the message names it and its matrices.
        """
        numbers = range(len(sources)) if numbers is None else numbers
        for chosen in of_one_kind(sources, self.ranks.size):
            some = [sources[i] for i in chosen]
            called = [numbers[i] for i in chosen]
            whole = len(some[0].matrix.holders) == self.ranks.size
            rounds = _Replicated if whole else _Sharded
            rounds(self.ranks, self._schedule(some), some, called, function, deliver).run()

    def _schedule(self, sources: Sequence[SharedSource]) -> Schedule:
        """Who does what, planned when it is new."""
        key = tuple(source.identity for source in sources)
        if key not in self._schedules:
            if len(self._schedules) >= KEPT:
                self._schedules.clear()
            self._schedules[key] = Schedule(sources, self.ranks.size, self.ranks.index)
        return self._schedules[key]


class _Returning(NamedTuple):
    """Results on their way.

    Attributes:
        pending: the exchanges.
        arriving: owners, and the buffers in which what they found arrives.
        owned: the matrices of each owner.
    """

    pending: list[Pending]
    arriving: list[tuple[int, Tensor]]
    owned: Sequence[Sequence[int]]


class _Rounds(ABC):
    """One call of ``map`` for matrices that are all held whole, or all in parts."""

    def __init__(
        self,
        ranks: Ranks,
        schedule: Schedule,
        sources: Sequence[SharedSource],
        numbers: Sequence[int],
        function: StackFunction,
        deliver: DeliverPatches,
    ) -> None:
        self.ranks, self.schedule, self.sources = ranks, schedule, sources
        self.numbers, self.function, self.deliver = numbers, function, deliver
        self.me = ranks.index

    def run(self) -> None:
        """Work through the rounds; nothing waits for what it does not need."""
        rounds, waiting = self.schedule.rounds, deque[_Returning]()
        coming = self.gather(0)
        for number, owned in enumerate(rounds):
            coming.wait()
            stacks = self.stacks(number, coming)
            if number + 1 < len(rounds):
                coming = self.gather(number + 1)
            mine = owned[self.me]
            called = [self.numbers[i] for i in mine]
            results = self.function(called, *stacks) if mine else ()
            del stacks
            for part in range(len(self.schedule.returns[number])):
                while len(waiting) >= IN_FLIGHT:
                    self.finish(waiting.popleft())
                waiting.append(self.give_back(number, part, results))
            self.keep(mine, results)
            del results  # or the next stack would be worked on beside them
        while waiting:
            self.finish(waiting.popleft())

    @abstractmethod
    def gather(self, number: int) -> Pending:
        """Send what is held here of the matrices of a round to their owners."""

    @abstractmethod
    def give_back(self, number: int, part: int, results: tuple[Tensor, ...]) -> _Returning:
        """Send the results of some owners to those who hold entries of their matrices."""

    def stacks(self, number: int, arrived: Pending) -> list[Tensor]:
        """The stacks that this process owns in a round: what it holds itself, and what arrived."""
        positions = self.schedule.rounds[number][self.me]
        if not positions:
            return []
        first = self.sources[positions[0]]
        shape, device = first.matrix.shape, self.device
        stacks = [
            torch.empty(len(positions), *shape, dtype=dtype, device=device)
            for dtype in first.inputs
        ]
        readers = self.readers(number, arrived)
        for place, position in enumerate(positions):
            source = self.sources[position]
            matrix = source.matrix
            local = source.read() if matrix.patches[self.me] else ()
            for giver in matrix.givers(self.me):
                for which, stack in enumerate(stacks):
                    target = stack[place].view(matrix.sizes)
                    for k, patch in enumerate(matrix.patches[giver]):
                        held = (
                            local[which][k]
                            if giver == self.me
                            else readers[giver].next(patch.sizes, stack.dtype)
                        )
                        patch.within(target).copy_(held)
        return stacks

    def readers(self, number: int, arrived: Pending) -> dict[int, Reader]:
        """What has arrived from each process for the stack of this one."""
        return {}

    def keep(self, positions: Sequence[int], results: tuple[Tensor, ...]) -> None:
        """Hand on the results that were found here."""
        for place, position in enumerate(positions):
            matrix = self.sources[position].matrix
            direction = results[0][place].view(matrix.sizes)
            held = [patch.within(direction) for patch in matrix.patches[self.me]]
            self.deliver(
                self.numbers[position], held, [result[place : place + 1] for result in results[1:]]
            )

    def finish(self, returning: _Returning) -> None:
        """Hand on the results of others, once they are here."""
        for pending in returning.pending:
            pending.wait()
        for owner, buffer in returning.arriving:
            reader = Reader(buffer)
            for position in returning.owned[owner]:
                source = self.sources[position]
                patches = source.matrix.patches[self.me]
                held = [reader.next(patch.sizes, source.direction) for patch in patches]
                rest = [
                    reader.next((1, *output.shape), output.dtype)
                    if patches or output.everywhere
                    else None
                    for output in source.outputs
                ]
                self.deliver(self.numbers[position], held, rest)

    def write(
        self, writer: Writer, taker: int, positions: Sequence[int], results: tuple[Tensor, ...]
    ) -> None:
        """Write what a process is to get of the results that were found here."""
        for place, position in enumerate(positions):
            source = self.sources[position]
            patches = source.matrix.patches[taker]
            direction = results[0][place].view(source.matrix.sizes)
            for patch in patches:
                writer.add(patch.within(direction).to(source.direction))
            for output, result in zip(source.outputs, results[1:], strict=True):
                if patches or output.everywhere:
                    writer.add(result[place : place + 1].to(output.dtype))

    def names(self, positions: Sequence[int]) -> str:
        """Some matrices, for an error."""
        return listed(self.sources[i].name for i in positions)

    @property
    def device(self) -> torch.device:
        """The device of the matrices."""
        return self.sources[0].device


class _Replicated(_Rounds):
    """All processes hold the matrices: an owner has what it needs, and all want the same of it."""

    def gather(self, number: int) -> Pending:
        return Pending(None, "")

    def give_back(self, number: int, part: int, results: tuple[Tensor, ...]) -> _Returning:
        owned = self.schedule.rounds[number]
        pending, arriving = [], []
        for owner in self.schedule.returns[number][part].owners:
            size = sum(self.sources[i].returned_bytes(self.me) for i in owned[owner])
            writer = Writer(size, self.device)
            if owner == self.me:
                self.write(writer, self.me, owned[self.me], results)
            else:
                arriving.append((owner, writer.buffer))
            about = f"the directions of {self.names(owned[owner])}"
            pending.append(self.ranks.broadcast(writer.buffer, owner, about))
        return _Returning(pending, arriving, owned)


class _Sharded(_Rounds):
    """Processes hold parts of the matrices: these travel to the owner, and those of the result."""

    def gather(self, number: int) -> Pending:
        traffic, owned = self.schedule.gathers[number], self.schedule.rounds[number]
        if not traffic.needed:
            return Pending(None, "")
        writer = Writer(sum(traffic.sent), self.device)
        for owner, size in enumerate(traffic.sent):
            for source in (self.sources[i] for i in owned[owner]) if size else ():
                if self.me in source.matrix.givers(owner):
                    for patches in source.read():
                        for patch in patches:
                            writer.add(patch)
        about = f"the shards of {self.names([i for positions in owned for i in positions])}"
        return self.ranks.exchange(writer.buffer, traffic.sent, traffic.received, about)

    def readers(self, number: int, arrived: Pending) -> dict[int, Reader]:
        if not arrived.buffers:
            return {}
        pieces = torch.split(arrived.buffers[1], self.schedule.gathers[number].received)
        return {giver: Reader(piece) for giver, piece in enumerate(pieces)}

    def give_back(self, number: int, part: int, results: tuple[Tensor, ...]) -> _Returning:
        owned = self.schedule.rounds[number]
        owners, takers, traffic = self.schedule.returns[number][part]
        others = [owner for owner in owners if owner != self.me and self.me in takers]
        if not traffic.needed:
            nothing = torch.empty(0, dtype=torch.uint8, device=self.device)
            return _Returning([], [(owner, nothing) for owner in others], owned)
        writer = Writer(sum(traffic.sent), self.device)
        for taker, size in enumerate(traffic.sent):
            if size:
                self.write(writer, taker, owned[self.me], results)
        about = f"the directions of {self.names([i for o in owners for i in owned[o]])}"
        pending = self.ranks.exchange(writer.buffer, traffic.sent, traffic.received, about)
        pieces = torch.split(pending.buffers[1], traffic.received)
        return _Returning([pending], [(owner, pieces[owner]) for owner in others], owned)
