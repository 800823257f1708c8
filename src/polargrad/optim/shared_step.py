"""A step of matrices that processes share: each is worked on by one of them, for all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from polargrad.distributed import Output, SharedSource, Sharing
from polargrad.distributed.local import StackFunction
from polargrad.distributed.ranks import Ranks
from polargrad.distributed.shared_matrix import SharedMatrix
from polargrad.geometry import Geometry
from polargrad.geometry.spectral import PolarGeometry
from polargrad.linalg.precision import working_dtype
from polargrad.optim.entries import Entry, Shared
from polargrad.optim.geometry_state import bytes_beside, state_of_one
from polargrad.optim.resolve import resolve
from polargrad.optim.signal import is_averaged

__all__ = ["direction_cost", "reads_of", "source_of", "step_shared"]

# In the order of ``Shared.dtypes``; without momentum there is no last.
TENSORS = ("parameter", "gradient", "buffer")
# Products of matrices that a factorization or a triangular solve takes the time of.
FACTORIZATION, SOLVE = 1.0, 0.5
# Of an explicit preconditioner: eigenvalues and vectors in double precision, n³ times this.
EIGENPROBLEM = 20.0
# Steps of an adaptive method are counted for this condition number.
CONDITION = 1e3


def step_shared(
    group: dict[str, Any],
    form: Geometry,
    sharing: Sharing,
    names: Sequence[str],
    entries: Sequence[Entry],
    positions: Iterable[int],
    reads: tuple[str, ...],
    counted: bool,
    function: StackFunction,
    deliver: Callable[[int, list[Tensor], list[Tensor | None]], None],
) -> None:
    """Map a function over the matrices of a group that processes share.

    Args:
        group: of the matrices.
        form: what its geometry describes.
        sharing: who holds what.
        names: of the parameters of a step.
        entries: all matrices of the step, shared or not.
        positions: those of them that are to be mapped, where they are shared.
        reads: what the function takes of each: ``"buffer"``, ``"gradient"``, the signal first.
        counted: whether it returns a count beside the directions and their scales.
        function, deliver: as for :class:`polargrad.distributed.SharedExecutor`, with the positions
            of the matrices among ``entries``.
    """
    held: dict[Ranks, list[int]] = {}
    for position in positions:
        shared = entries[position].shared
        if shared is not None:
            held.setdefault(shared.ranks, []).append(position)
    for ranks, mine in held.items():
        sources = []
        for entry in (entries[i] for i in mine):
            shared, number = entry.shared, entry.number
            assert shared is not None  # as it was chosen for
            name = names[entry.parameter]
            name = name if number == 0 else f"{name} (matrix {number})"
            dtypes = dict(zip(TENSORS, shared.dtypes, strict=False))
            inputs = tuple(dtypes[key] for key in reads)
            source = source_of(group, form, shared.matrix, inputs, shared.device, counted, name)
            sources.append(replace(source, read=_reader(shared, reads)))
        sharing.executor(ranks).map(function, sources, deliver, mine)


def _reader(shared: Shared, reads: tuple[str, ...]) -> Callable[[], tuple[list[Tensor], ...]]:
    """What returns the parts that are here of each tensor that is read."""
    return lambda: tuple([getattr(part, key).tensor for part in shared.parts] for key in reads)


def reads_of(group: Mapping[str, Any], form: Geometry) -> tuple[str, ...]:
    """What a direction is found from: the signal first, then ``"gradient"`` where it is needed."""
    # With momentum before the direction the signal is the momentum, else the gradient.
    if group["order"] != "momentum-first" or not is_averaged(group):
        return ("gradient",)
    beside = form.accumulates or group["nesterov"] or group["bias_correction"]
    return ("buffer", "gradient") if beside else ("buffer",)


def source_of(
    group: dict[str, Any],
    form: Geometry,
    matrix: SharedMatrix,
    inputs: tuple[torch.dtype, ...],
    device: torch.device,
    counted: bool,
    name: str,
) -> SharedSource:
    """What is sent of a matrix and what is found for it, all but how it is read.

    Args:
        group: of the matrix.
        form: what its geometry describes.
        matrix: who holds what of it.
        inputs: the dtypes of what :func:`reads_of` says.
        device: of it.
        counted: whether a count of its gradients is found beside its direction and its scale.
        name: for an error.
    """
    dtype, shape = working_dtype(inputs[0]), matrix.shape
    size = shape[0] * shape[1] * dtype.itemsize + bytes_beside(form, shape, dtype)
    state: tuple[Output, ...] = ()
    if form.accumulates:
        of_one = state_of_one(form, shape, dtype)
        state = tuple(Output(tuple(x.shape[1:]), x.dtype, True) for x in of_one.values())
    counts = (Output((), torch.float32, True),) if counted else ()
    return SharedSource(
        key=(shape, inputs, device),
        size=size,
        matrix=matrix,
        read=_nothing,
        inputs=inputs,
        direction=dtype,
        outputs=(Output((), dtype, False), *counts, *state),
        cost=direction_cost(group, form, shape, dtype, device),
        name=name,
        device=device,
    )


def _nothing() -> tuple[list[Tensor], ...]:
    """No parts: of a matrix that is only planned with."""
    return ()


def direction_cost(
    group: dict[str, Any],
    form: Geometry,
    shape: tuple[int, int],
    dtype: torch.dtype,
    device: torch.device,
) -> float:
    """Return roughly how many multiplications the direction of a matrix takes.

    It decides who works on what, so it depends on nothing that is measured, and is the same on all
    processes.

    Example:
        >>> import polargrad as pg
        >>> group = pg.PolarGrad([torch.nn.Parameter(torch.ones(8, 4))], lr=0.1).param_groups[0]
        >>> from polargrad.geometry import Spectral
        >>> cost = [
        ...     direction_cost(group, Spectral(), (m, 64), torch.float32, torch.device("cpu"))
        ...     for m in (64, 640)
        ... ]
        >>> cost[0] < cost[1]
        True
    """
    small, large = sorted(shape)
    entries, product = float(small * large), float(small * small * large)
    if form.uses_polar:
        # Chosen, and kept in the group, on all processes: what is saved is the same on all.
        example = torch.empty((), dtype=dtype, device=device).expand(1, *shape)
        work = resolve(group, example).work(large, small, dtype, CONDITION)
        factorizations = FACTORIZATION * work.factorizations + SOLVE * work.solves
        return entries + (work.products + factorizations) * product
    if form.accumulates:
        return entries + EIGENPROBLEM * float(small**3 + large**3)
    if isinstance(form, PolarGeometry):  # from the eigenvalues of a Gram matrix
        return entries + EIGENPROBLEM * product
    return entries
