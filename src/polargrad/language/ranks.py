"""The processes that train together: one, or those that ``torchrun`` has started."""

from __future__ import annotations

import contextlib
import datetime
import gc
import hashlib
import itertools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from polargrad.distributed.mesh_sizes import MeshSizes
from polargrad.errors import CollectiveError
from polargrad.records import require

T = TypeVar("T")

# Rank 0 may tokenize for hours before the others are needed. That a process has died is noticed by
# torchrun, not by this.
PATIENCE = datetime.timedelta(hours=12)
# Units for bfloat16 came with this generation of NVIDIA's GPUs; older ones emulate it.
FIRST_WITH_BFLOAT16 = (8, 0)


def training_device() -> torch.device:
    """Return the kind of device that training runs on here: the accelerator, if there is one."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if found is None else torch.device(found.type)


def precision_here(precision: str) -> str:
    """Return "no" or "bf16", for "auto" what this hardware is made for.

    That is bfloat16 on NVIDIA's GPUs with units for it. Nowhere else is it known to be faster; on
    processors without such units it takes hundreds of times as long as float32.
    """
    if precision != "auto":
        return precision
    if not torch.cuda.is_available() or torch.version.cuda is None:
        return "no"
    return "bf16" if torch.cuda.get_device_capability() >= FIRST_WITH_BFLOAT16 else "no"


class Ranks:
    """What the processes of a run have to agree on.

    Args:
        accelerator: an ``accelerate.Accelerator``.
        mesh: how the model lies over the processes; None for copies.

    Attributes:
        index: the number of this process, ``count`` of all of them.
        part: the number of the share of the windows that this process sees, ``parts`` of all of
            them: processes of tensor parallelism see the same ones.
        sharded: whether processes hold parts of the model, so that a pass through it is one that
            they take together.

    Raises:
        ValueError: if the mesh has not as many processes as there are.
    """

    def __init__(self, accelerator: Any, mesh: MeshSizes | None = None) -> None:
        self.accelerator = accelerator
        self.index: int = accelerator.process_index
        self.count: int = accelerator.num_processes
        self.device: torch.device = accelerator.device
        self.mesh = mesh
        if mesh is not None and mesh.ranks != self.count:
            raise ValueError(
                f"mesh must have as many processes as there are, {self.count}, got {mesh} with "
                f"{mesh.ranks}: start it with torchrun --nproc-per-node {mesh.ranks}, or on "
                "several nodes with as many in all"
            )
        self.sharded = mesh is not None and mesh.fsdp * mesh.tp > 1
        together = 1 if mesh is None else mesh.tp
        self.part, self.parts = self.index // together, self.count // together

    def __str__(self) -> str:
        words = f"{self.count} rank{'s' * (self.count > 1)}"
        return words if self.mesh is None or self.count == 1 else f"{words} ({self.mesh})"

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.index == 0

    def alone(self, function: Callable[[], T]) -> T:
        """Call ``function`` on rank 0 and return its result, which must be plain data, on all.

        Raises:
            Exception: on all ranks, what the function raised.
        """
        if self.count == 1:
            return function()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = function()
            except Exception as error:
                outcome[1] = error
        torch.distributed.broadcast_object_list(outcome, src=0)
        if outcome[1] is not None:
            raise outcome[1]
        result: T = outcome[0]
        return result

    def one_first(self, function: Callable[[], T]) -> T:
        """Call ``function`` on rank 0, then on the others, who find in the cache what it made."""
        found: list[T] = []
        self.alone(lambda: found.append(function()))
        return found[0] if self.first else function()

    def mean(self, values: Tensor) -> list[float]:
        """Return the mean over the ranks of each of some numbers, the same on all of them.

        What is not finite on one rank is not finite on any.
        """
        if self.count > 1:
            torch.distributed.all_reduce(values)
            values = values / self.count
        return [float(value) for value in values.tolist()]

    def signal(self, received: signal.Signals | None) -> signal.Signals | None:
        """Return a signal that some rank has received, the same one on all; None if none has."""
        if self.count == 1:
            return received
        number = torch.tensor(0 if received is None else int(received), device=self.device)
        torch.distributed.all_reduce(number, op=torch.distributed.ReduceOp.MAX)
        highest = int(number.item())
        return signal.Signals(highest) if highest else None

    def share(self, items: Iterator[T]) -> Iterator[tuple[T, bool]]:
        """Yield every ``parts``-th item, so that all parts together have each once.

        Where the model is sharded all have equally many: what is yielded with False is there for
        that alone, and another's.
        """
        while held := list(itertools.islice(items, self.parts)):
            if self.part < len(held):
                yield held[self.part], True
            elif self.sharded:
                yield held[-1], False

    def random_states(self) -> list[dict[str, Tensor]]:
        """Return the states of the random generators of all ranks, on all ranks."""
        own = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            own["cuda"] = torch.cuda.get_rng_state(self.device)
        if self.count == 1:
            return [own]
        states: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(states, own)
        return states

    def set_random_state(self, states: list[dict[str, Tensor]]) -> None:
        """Take up this rank's state of :meth:`random_states`, where there is one."""
        if self.index >= len(states):
            return
        torch.set_rng_state(states[self.index]["cpu"])
        if self.device.type == "cuda" and "cuda" in states[self.index]:
            torch.cuda.set_rng_state(states[self.index]["cuda"], self.device)

    @contextlib.contextmanager
    def randomness(self, seed: int) -> Iterator[None]:
        """Draw dropout and the like from ``seed`` and the rank; leave torch's generators alone."""
        devices = [self.device.index or 0] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self._seed(seed))
            yield

    def _seed(self, seed: int) -> int:
        """The seed of this rank: neighbouring seeds must not share ranks, as seed + rank would.

        Processes of tensor parallelism drop out the same, for what they all have a copy of.
        """
        if self.part == 0:
            return seed
        digest = hashlib.sha256(f"{seed}:{self.part}".encode()).digest()
        return int.from_bytes(digest[:4], "big")


@contextlib.contextmanager
def joined(
    *,
    precision: str = "no",
    accumulate: int = 1,
    tracker: str | None = None,
    out: Path | None,
    mesh: MeshSizes | None = None,
) -> Iterator[Ranks]:
    """Join the processes of the run, with an ``accelerate.Accelerator`` for them.

    accelerate keeps its state in the process; what was not there before is cleared afterwards, so
    that the next run may ask for something else. The process group of ``torchrun`` stays.

    Args:
        precision: "no" or "bf16".
        accumulate: micro-batches of a step.
        tracker: a tracker of accelerate.
        out: the folder of the run, in which trackers write.
        mesh: how the model lies over the processes; None for copies.

    Raises:
        MissingExtraError: if accelerate is not installed.
        ValueError: if the process has an Accelerator of another precision, or the mesh another
            number of processes.
    """
    accelerate = require("accelerate", extra="language")
    state = require("accelerate.state", extra="language")
    utilities = require("accelerate.utils", extra="language")
    begun_elsewhere = state.AcceleratorState._shared_state != {}
    if begun_elsewhere and (there := state.AcceleratorState().mixed_precision) != precision:
        raise ValueError(
            f"precision must be {there!r}, that of the Accelerator which this process has already, "
            f"got {precision!r}: train in a process of its own"
        )
    accelerator = accelerate.Accelerator(
        cpu=training_device().type == "cpu",
        mixed_precision=precision,
        gradient_accumulation_steps=accumulate,
        log_with=tracker,
        project_dir=None if out is None else str(out),
        kwargs_handlers=[utilities.InitProcessGroupKwargs(timeout=PATIENCE)],
    )
    try:
        yield Ranks(accelerator, mesh)
    finally:
        if not begun_elsewhere:
            state.AcceleratorState._reset_state(reset_partial_state=True)
            state.GradientState._reset_state()


def is_of_exchange(error: RuntimeError) -> bool:
    """Whether an error says that an exchange between ranks has failed.

    Gloo raises no kind of its own: what it says names its files.

    Example:
        >>> is_of_exchange(RuntimeError("[gloo/transport/tcp/pair.cc] Connection reset by peer"))
        True
    """
    if isinstance(error, CollectiveError):
        return True
    known = torch.distributed.is_available() and isinstance(error, torch.distributed.DistError)
    return known or "gloo/" in str(error)


def leave() -> bool:
    """Leave the process group, if there is one, at the end of a program; return whether first.

    Example:
        >>> leave()
        True
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return True
    first = torch.distributed.get_rank() == 0
    # What is left of DistributedDataParallel in cycles holds the group, whose threads would end
    # with the interpreter.
    gc.collect()
    torch.distributed.destroy_process_group()
    return first
