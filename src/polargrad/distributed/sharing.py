"""Which parameters are shared with which processes, and what these have to agree on."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from polargrad.distributed.patches import Strided
from polargrad.distributed.placement import Box, boxes, is_distributed
from polargrad.distributed.ranks import Ranks
from polargrad.distributed.shared import SharedExecutor
from polargrad.distributed.shared_matrix import SharedMatrix
from polargrad.errors import CollectiveError

__all__ = ["Sharing"]


class Sharing:
    """The process groups of an optimizer: of the meshes of its DTensors, and of its plain tensors.

    Args:
        process_group: the processes that hold equal copies of the plain parameters, with equal
            gradients, and divide the work on them; None where each works on its own.
    """

    def __init__(self, process_group: dist.ProcessGroup | None = None) -> None:
        self._replicas: Ranks | None = None
        if process_group is not None:
            if not dist.is_initialized():
                raise ValueError(
                    "process_group needs torch.distributed.init_process_group, called before"
                )
            ranks = Ranks(process_group)
            self._replicas = ranks if ranks.size > 1 else None
        self._of_meshes: dict[Any, Ranks | None] = {}
        self._of_members: dict[tuple[int, ...], Ranks] = {}
        self._executors: dict[Ranks, SharedExecutor] = {}
        self._matrices: dict[Hashable, tuple[SharedMatrix, ...]] = {}
        self._agreed: set[tuple[Ranks, int]] = set()

    def ranks_of(self, parameter: Tensor) -> Ranks | None:
        """The processes that share a parameter, None for one that is this process's alone."""
        if not is_distributed(parameter):
            return self._replicas
        mesh: Any = parameter.device_mesh  # type: ignore[attr-defined]
        if mesh not in self._of_meshes:
            self._of_meshes[mesh] = self._ranks(mesh)
        return self._of_meshes[mesh]

    def _ranks(self, mesh: Any) -> Ranks | None:
        """All processes of a mesh, whatever its dimensions."""
        members = tuple(sorted(mesh.mesh.flatten().tolist()))
        if len(members) == 1:
            return None
        if members not in self._of_members:
            if mesh.ndim == 1:
                group = mesh.get_group()
            elif len(members) == dist.get_world_size():
                group = dist.group.WORLD
            else:
                group = dist.new_group(list(members), use_local_synchronization=True)
            self._of_members[members] = Ranks(group)
        return self._of_members[members]

    def executor(self, ranks: Ranks) -> SharedExecutor:
        """What maps functions over the matrices that some processes share."""
        return self._executors.setdefault(ranks, SharedExecutor(ranks))

    def matrices(
        self, parameter: Tensor, view: Hashable, regions: Callable[[], Sequence[Strided]]
    ) -> tuple[SharedMatrix, ...]:
        """The logical matrices of a shared parameter, made once for each shape, view and placement.

        Args:
            parameter: a shared one.
            view: what tells its view from others.
            regions: returns the matrices in the whole parameter.
        """
        ranks, shape = self.ranks_of(parameter), tuple(parameter.shape)
        assert ranks is not None  # or it would not be shared
        placed: Hashable = None
        if is_distributed(parameter):
            mesh: Any = parameter.device_mesh  # type: ignore[attr-defined]
            placed = (mesh, tuple(parameter.placements))  # type: ignore[attr-defined]
        key = (ranks, shape, view, placed)
        if key not in self._matrices:
            held = _held(parameter, ranks)
            self._matrices[key] = tuple(SharedMatrix(region, shape, held) for region in regions())
        return self._matrices[key]

    def agreed(
        self, verdict: Tensor | bool, named: Sequence[tuple[str, Tensor]], device: torch.device
    ) -> Tensor | bool:
        """Return whether the verdict is true on all processes; one exchange for each group of them.

        At the same time they compare what they are about to step. The host looks at that on a CPU
        always, elsewhere when it is new.

        Args:
            verdict: of this process; a tensor stays on its device.
            named: all parameters with their names; those that have no gradient are not stepped.
            device: of the exchange.

        Raises:
            CollectiveError: if processes are about to step different parameters.
        """
        for ranks, lines in self._lines(named).items():
            number = zlib.crc32("\n".join(lines).encode())
            bad = (
                verdict.logical_not().to(device, torch.float64)
                if isinstance(verdict, Tensor)
                else torch.tensor(float(not verdict), dtype=torch.float64, device=device)
            )
            mine = torch.tensor([number, -number], dtype=torch.float64, device=device)
            found = ranks.largest(torch.cat([bad.view(1), mine]), "the verdict on the gradients")
            known = (ranks, number) in self._agreed
            if not known or device.type == "cpu":
                if float(found[1]) != -float(found[2]):
                    _refuse_different(ranks, lines)
                self._agreed.add((ranks, number))
            verdict = found[0] == 0 if isinstance(verdict, Tensor) else not bool(found[0])
        return verdict

    def _lines(self, named: Sequence[tuple[str, Tensor]]) -> dict[Ranks, list[str]]:
        """One line a parameter for each group of processes, the largest group first."""
        lines: dict[Ranks, list[str]] = {}
        for name, p in named:
            ranks = self.ranks_of(p)
            if ranks is not None:
                about = f"{name} of shape {tuple(p.shape)}, {p.dtype}"
                if is_distributed(p):
                    about += f", {p.placements}"  # type: ignore[attr-defined]
                about += " without a gradient" if p.grad is None else ""
                lines.setdefault(ranks, []).append(about)
        return dict(sorted(lines.items(), key=lambda pair: (-pair[0].size, pair[0].members)))


def _held(parameter: Tensor, ranks: Ranks) -> list[Box]:
    """The box that each process of a group holds, in the order of the group."""
    shape = tuple(parameter.shape)
    if not is_distributed(parameter):
        return [Box((0,) * len(shape), shape)] * ranks.size
    mesh: Any = parameter.device_mesh  # type: ignore[attr-defined]
    placements: Any = parameter.placements  # type: ignore[attr-defined]
    held = boxes(shape, tuple(mesh.shape), tuple(placements))
    of_member = dict(zip(mesh.mesh.flatten().tolist(), held, strict=True))
    return [of_member[member] for member in ranks.members]


def _refuse_different(ranks: Ranks, lines: Sequence[str]) -> None:
    """Raise CollectiveError with the first parameter that processes do not have alike."""
    told = [words.split("\n") for words in ranks.told("\n".join(lines))]
    for other, theirs in zip(ranks.members, told, strict=True):
        place = next(
            (i for i, (a, b) in enumerate(zip(told[0], theirs, strict=False)) if a != b),
            min(len(told[0]), len(theirs)),
        )
        if theirs != told[0]:
            first = [words[place] if place < len(words) else "none" for words in (told[0], theirs)]
            raise CollectiveError(
                f"processes are about to step different parameters, or have gradients of different "
                f"ones: number {place} is {first[0]} on process {ranks.members[0]} and {first[1]} "
                f"on process {other}. Give every process the same parameters in the same order"
            )
