"""What a step would do on the processes of a mesh, without the processes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import Placement, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard
from torch.utils.flop_counter import FlopCounterMode

from polargrad.distributed import GramSource
from polargrad.distributed.mesh_sizes import DIMENSIONS, MeshSizes
from polargrad.distributed.placement import Box, boxes
from polargrad.distributed.schedule import SharedSource
from polargrad.distributed.shared_matrix import SharedMatrix
from polargrad.distributed.traffic import exchanged, exchanged_by_gram
from polargrad.geometry import Geometry, geometry
from polargrad.geometry.spectral import PolarGeometry
from polargrad.linalg.gram_side import gram_side
from polargrad.linalg.precision import COMPUTE_DTYPES
from polargrad.optim.buffers import buffer_dtype
from polargrad.optim.engine import MatrixOptimizer
from polargrad.optim.entries import whole_matrices
from polargrad.optim.gram_step import is_by_gram
from polargrad.optim.group_members import named_parameters
from polargrad.optim.memory import stacks_of
from polargrad.optim.planned_methods import choose_methods
from polargrad.optim.resolve import resolve
from polargrad.optim.shared_step import (
    CONDITION,
    FACTORIZATION,
    SOLVE,
    direction_cost,
    reads_of,
    source_of,
)
from polargrad.optim.signal import is_averaged

__all__ = ["StepOnMesh", "direction_flops", "simulate"]

# Which dimension of a parameter tensor parallelism cuts, None for none.
CutBy = Callable[[str], int | None]


@dataclass(frozen=True)
class StepOnMesh:
    """What the processes of a mesh do in a step of the matrix rule, a row for each of them.

    Attributes:
        flops: floating-point operations: (R,), int64.
        sent: bytes, over the link of each dimension of the mesh: (R, 3), int64.
        held: bytes of stacks and buffers, at most: (R,), int64.
        matrices: how many logical matrices there are.
        kinds: how many different ones; what one of them takes is counted once.
        estimated: the methods whose operations are not counted but estimated.
    """

    flops: Tensor
    sent: Tensor
    held: Tensor
    matrices: int
    kinds: int
    estimated: tuple[str, ...]


def simulate(
    optimizer: MatrixOptimizer,
    mesh: MeshSizes,
    *,
    cut_by: CutBy | None = None,
    device: str = "cuda",
) -> StepOnMesh:
    """Return what a step of this optimizer takes on the processes of a mesh, which need not exist.

    With ``fsdp`` or ``tp`` above 1 the parameters are those of ``fully_shard`` on dimension 0;
    otherwise copies, as with ``process_group``. Owners, rounds and bytes are those of the plan by
    which a step is executed. Operations are those of matrix products, counted by torch on the meta
    device, where the method is products alone, and otherwise estimated from what the plan goes by.
    Element-wise work, AdamW and the verdict on the gradients (three numbers) are left out.

    Args:
        optimizer: of parameters on the meta device, all of which are stepped.
        mesh: the processes.
        cut_by: returns which dimension of the parameter of a name tensor parallelism cuts, None
            for what each of its processes has a copy of.
        device: the kind of device for which methods are chosen, ``"cpu"`` or ``"cuda"``.

    Raises:
        ValueError: for a mesh with ``tp`` without ``cut_by``, shards that are no boxes, or an
            optimizer with an approximation.

    Example:
        >>> import polargrad as pg
        >>> with torch.device("meta"):
        ...     weight = torch.nn.Parameter(torch.empty(8, 4))
        >>> simulate(pg.Muon([weight], lr=0.1), MeshSizes(fsdp=2)).sent[:, 1].tolist()
        [80, 128]
    """
    if mesh.tp > 1 and cut_by is None:
        raise ValueError(f"mesh: tp must be 1 without a plan of tensor parallelism, got {mesh.tp}")
    for group in optimizer.param_groups:
        if group.get("approximation") is not None:
            raise ValueError(
                f"optimizer must be without an approximation, got {group['approximation']}: a step "
                "whose directions are exact is what is simulated"
            )
    choose_methods(optimizer, device)
    found = _Simulation(mesh, cut_by or _nothing)
    for number, group in enumerate(optimizer.param_groups):
        if group["rule"] == "matrix":
            found.add(number, group)
    return StepOnMesh(
        found.flops,
        found.sent,
        found.held,
        found.matrices,
        len(found.kinds),
        tuple(sorted(found.estimated)),
    )


def direction_flops(
    group: dict[str, Any], form: Geometry, shape: tuple[int, int], dtype: torch.dtype
) -> tuple[int, str | None]:
    """Return the operations of the direction of one matrix, and the method if they are estimated.

    Args:
        group: of the matrix, with its methods chosen (:func:`choose_methods`).
        form: what its geometry describes.
        shape: (m, n).
        dtype: of the stack.
    """
    example = torch.empty(1, *shape, dtype=dtype, device="meta")
    estimate = 2 * round(direction_cost(group, form, shape, dtype, example.device))
    if form.accumulates:
        return estimate, form.name
    if not form.uses_polar:
        factorizes = isinstance(form, PolarGeometry)
        return (estimate, f"{form.name} from one side") if factorizes else (0, None)
    method = resolve(group, example)
    small, large = sorted(shape)
    work = method.work(large, small, dtype, CONDITION)
    if work.factorizations or work.solves or work.synchronizations:
        return estimate, method.name
    form = form.with_polar(method, COMPUTE_DTYPES.get(group["compute_dtype"]))
    with FlopCounterMode(display=False) as counter:
        form.ascent(example, None)
    return int(counter.get_total_flops()), None


def side_flops(group: dict[str, Any], shape: tuple[int, int]) -> tuple[int, str | None]:
    """Return the operations that lead from a Gram matrix to what its strips are multiplied by.

    Args:
        group: of the matrix, with its methods chosen (:func:`choose_methods`).
        shape: (m, n).

    Returns:
        How many, and the method if they are estimated.
    """
    small, large = sorted(shape)
    example = torch.empty(1, *shape, dtype=torch.float32, device="meta")
    method = resolve(group, example)
    work = method.work(large, small, torch.float32, CONDITION)
    if work.factorizations or work.solves or work.synchronizations:
        # All but the Gram matrix and what is made of it in the end.
        products = work.products - 2 + FACTORIZATION * work.factorizations + SOLVE * work.solves
        return round(2 * products * small**3), method.name
    gram = torch.empty(1, small, small, dtype=torch.float64, device="meta")
    with FlopCounterMode(display=False) as counter:
        gram_side(method, gram)
    return int(counter.get_total_flops()), None


def summed_flops(matrix: SharedMatrix) -> Tensor:
    """The operations of the Gram matrix of a strip and of its product, on each process: (R,)."""
    columns = min(matrix.shape)
    return torch.tensor(
        [4 * columns * sum(patch.entries for patch in held) for held in matrix.patches]
    )


def _gram_source(source: SharedSource) -> GramSource:
    return GramSource(source.matrix, list, source.name, source.device)


def _nothing(name: str) -> None:
    """Tensor parallelism cuts no parameter."""


class _Member(NamedTuple):
    """One parameter: its name, itself, its view, and which dimension tensor parallelism cuts."""

    name: str
    parameter: Tensor
    view: dict[str, Any]
    cut: int | None


class _Simulation:
    """Adds up what the groups of an optimizer take.

    Attributes:
        flops, sent, held, matrices: as :class:`StepOnMesh` has them.
        kinds: the operations of each kind of matrix.
        estimated: names of methods.
    """

    def __init__(self, mesh: MeshSizes, cut_by: CutBy) -> None:
        self.mesh, self.cut_by = mesh, cut_by
        self.flops = torch.zeros(mesh.ranks, dtype=torch.int64)
        self.sent = torch.zeros(mesh.ranks, len(DIMENSIONS), dtype=torch.int64)
        self.held = torch.zeros(mesh.ranks, dtype=torch.int64)
        self.matrices = 0
        self.kinds: dict[Hashable, int] = {}
        self.estimated: set[str] = set()
        self._known: dict[Hashable, list[SharedMatrix]] = {}

    def add(self, number: int, group: dict[str, Any]) -> None:
        """Add the step of a group: of the parameters that tensor parallelism cuts, and of others.

        The others are divided among a part of the mesh, and the other parts do the same.
        """
        members = [
            _Member(name, p, view, self.cut_by(name) if self.mesh.tp > 1 else None)
            for (name, p), view in zip(named_parameters(group), group["views"], strict=True)
            if p.numel()
        ]
        part = MeshSizes(dp=self.mesh.dp, fsdp=self.mesh.fsdp)
        self._add(number, group, part, [m for m in members if m.cut is None])
        self._add(number, group, self.mesh, [m for m in members if m.cut is not None])

    def _add(
        self, number: int, group: dict[str, Any], mesh: MeshSizes, members: Sequence[_Member]
    ) -> None:
        """Add the step of some parameters of a group that the processes of a mesh share."""
        form = geometry(group["geometry"])
        every = [s for member in members for s in self._sources(group, form, mesh, member)]
        kinds: tuple[list[SharedSource], list[SharedSource]] = ([], [])
        for s in every:
            kinds[is_by_gram(group, form, s.matrix, mesh.ranks, s.inputs[0], s.device)].append(s)
        sources, far = kinds
        examples = [torch.empty(s.matrix.shape, dtype=s.direction, device="meta") for s in sources]
        call = exchanged(sources, mesh, [stacks_of(group, example) for example in examples])
        flops = torch.zeros(mesh.ranks, dtype=torch.int64)
        for owner, source in zip(call.owners, sources, strict=True):
            flops[owner] += self._flops(number, group, form, source)
        held, sent = call.held, call.sent
        if far:
            summed = exchanged_by_gram([_gram_source(s) for s in far], mesh)
            held, sent = torch.maximum(held, summed.held), sent + summed.sent
            for source in far:
                flops += summed_flops(source.matrix) + self._side(number, group, source)
        copies = self.mesh.ranks // mesh.ranks
        self.matrices += len(every)
        self.flops += flops.repeat_interleave(copies)
        self.sent += sent.repeat_interleave(copies, dim=0)
        self.held = torch.maximum(self.held, held.repeat_interleave(copies))

    def _side(self, number: int, group: dict[str, Any], source: SharedSource) -> int:
        """The operations on the Gram side of one matrix, which every process does."""
        key = (number, source.matrix.shape, "Gram side")
        if key not in self.kinds:
            self.kinds[key], estimated = side_flops(group, source.matrix.shape)
            self.estimated |= {estimated} if estimated else set()
        return self.kinds[key]

    def _sources(
        self, group: dict[str, Any], form: Geometry, mesh: MeshSizes, member: _Member
    ) -> list[SharedSource]:
        """The logical matrices of a parameter."""
        name, p, view, cut = member
        key = (tuple(p.shape), repr(view), mesh, cut)
        if key not in self._known:
            held = _held(name, tuple(p.shape), mesh, cut)
            self._known[key] = [
                SharedMatrix(region, p.shape, held) for region in whole_matrices(view, p)()
            ]
        dtypes = {"gradient": p.dtype, "buffer": buffer_dtype(group, p)}
        inputs = tuple(dtypes[key] for key in reads_of(group, form))
        counted = bool(group["bias_correction"]) and is_averaged(group)
        return [
            source_of(group, form, matrix, inputs, p.device, counted, name)
            for matrix in self._known[key]
        ]

    def _flops(
        self, number: int, group: dict[str, Any], form: Geometry, source: SharedSource
    ) -> int:
        """The operations of one matrix."""
        key = (number, source.matrix.shape, source.direction)
        if key not in self.kinds:
            shape = source.matrix.shape
            self.kinds[key], estimated = direction_flops(group, form, shape, source.direction)
            self.estimated |= {estimated} if estimated else set()
        return self.kinds[key]


def _held(name: str, shape: tuple[int, ...], mesh: MeshSizes, cut: int | None) -> Sequence[Box]:
    """The box of a parameter that each process of a mesh holds."""
    shards: Placement = Replicate()
    if mesh.fsdp > 1:
        # Tensor parallelism cuts first, fully_shard each of the pieces.
        inside = cut == 0 and mesh.tp > 1
        shards = _StridedShard(0, split_factor=mesh.tp) if inside else Shard(0)
    pieces = Replicate() if cut is None else Shard(cut)
    try:
        return boxes(shape, mesh.sizes, (Replicate(), shards, pieces))
    except ValueError as error:
        raise ValueError(f"mesh: parameter {name} of shape {shape}: {error}") from None
