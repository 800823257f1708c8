"""A process group, and what its processes say to each other; what fails is named."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from polargrad.errors import CollectiveError

__all__ = ["Pending", "Ranks", "listed"]


@dataclass
class Pending:
    """A collective that is under way.

    Attributes:
        work: torch's handle; None where nothing had to be sent.
        about: its name, and of which matrices, for an error.
        buffers: what it reads and writes, kept until it is done.
    """

    work: dist.Work | None
    about: str
    buffers: tuple[Tensor, ...] = ()

    def wait(self) -> None:
        """Wait until the collective is done; on a GPU, until what follows on the stream may run.

        Raises:
            CollectiveError: if it failed, as when another process has ended.
        """
        if self.work is None:
            return
        try:
            self.work.wait()
        except RuntimeError as error:
            raise _failed(self.about, error) from error
        self.work = None


class Ranks:
    """The processes of a group, as this one sees them.

    Attributes:
        group: torch's process group.
        size: how many processes there are.
        index: which of them this is.
        members: their global ranks, in the order of the group.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group
        self.members = tuple(dist.get_process_group_ranks(group))
        self.size, self.index = len(self.members), dist.get_rank(group)

    def exchange(
        self, sent: Tensor, sizes: Sequence[int], received: Sequence[int], about: str
    ) -> Pending:
        """Send each process its piece of ``sent``; returns at once, the last buffer is received.

        Args:
            sent: bytes, the pieces in the order of the processes.
            sizes: of the pieces.
            received: the sizes of the pieces that come from each process.
            about: which matrices these are, for an error.
        """
        target = torch.empty(sum(received), dtype=sent.dtype, device=sent.device)
        about = f"all_to_all_single of {about}"
        try:
            work = dist.all_to_all_single(
                target, sent, list(received), list(sizes), group=self.group, async_op=True
            )
        except RuntimeError as error:
            raise _failed(about, error) from error
        return Pending(work, about, (sent, target))

    def broadcast(self, buffer: Tensor, source: int, about: str) -> Pending:
        """Give the buffer of one process to all; returns at once."""
        about = f"broadcast of {about}"
        try:
            work = dist.broadcast(buffer, self.members[source], group=self.group, async_op=True)
        except RuntimeError as error:
            raise _failed(about, error) from error
        return Pending(work, about, (buffer,))

    def add(self, buffer: Tensor, about: str) -> Pending:
        """Put the sum over the processes in the place of a buffer; returns at once."""
        about = f"all_reduce of {about}"
        try:
            work = dist.all_reduce(buffer, group=self.group, async_op=True)
        except RuntimeError as error:
            raise _failed(about, error) from error
        return Pending(work, about, (buffer,))

    def total(self, values: Tensor, about: str) -> Tensor:
        """The sum over the processes, the same to the bit on all of them."""
        return self._reduced(values, dist.ReduceOp.SUM, about)

    def largest(self, values: Tensor, about: str) -> Tensor:
        """The largest value over the processes."""
        return self._reduced(values, dist.ReduceOp.MAX, about)

    def _reduced(self, values: Tensor, operation: dist.ReduceOp.RedOpType, about: str) -> Tensor:
        result = values.clone()
        about = f"all_reduce of {about}"
        try:
            dist.all_reduce(result, operation, group=self.group)
        except RuntimeError as error:
            raise _failed(about, error) from error
        return result

    def told(self, what: str) -> list[str]:
        """What each process says, on all of them; waits for each."""
        words: list[str] = [""] * self.size
        dist.all_gather_object(words, what, group=self.group)
        return words


def listed(names: Iterable[str]) -> str:
    """Some names, each once, for an error.

    Example:
        >>> listed(["a", "b", "a", "c", "d"])
        'a, b, c and 1 more'
    """
    each = list(dict.fromkeys(names))
    return ", ".join(each[:3]) + (f" and {len(each) - 3} more" if len(each) > 3 else "")


def _failed(about: str, error: RuntimeError) -> CollectiveError:
    return CollectiveError(
        f"{about} failed; another process has probably ended or is too late. Parameters and state "
        f"of this step may be half changed: go on from the last checkpoint. torch says: {error}"
    )
