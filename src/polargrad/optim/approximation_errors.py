"""How far an approximation's directions are from exact ones: measured, and only when asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polargrad.distributed.local import StackFunction
from polargrad.optim.approximate import Approximate
from polargrad.optim.buffers import KEPT
from polargrad.optim.engine import MatrixOptimizer
from polargrad.optim.entries import Entry, by_device
from polargrad.optim.gradients import active
from polargrad.optim.group_members import named_parameters
from polargrad.optim.inner_products import inner_product
from polargrad.optim.matrix import Update
from polargrad.optim.shared_sums import sums
from polargrad.optim.signal import signal_from
from polargrad.optim.sketches import LEFT

__all__ = ["ApproximationError", "approximation_error"]

# What an approximation leaves in the state of a parameter that has taken a step.
OF_A_STEP = {"rounds": KEPT, "sketch": LEFT}


@dataclass(frozen=True)
class ApproximationError:
    r"""The approximate direction D of one matrix beside the exact one, :math:`D_*`.

    Attributes:
        name: of the parameter.
        matrix: the position of the matrix among those of the parameter.
        shape: (m, n).
        distance: :math:`\|D - D_*\|_F / \|D_*\|_F`.
        cosine: :math:`\langle D, D_*\rangle / (\|D\|_F \|D_*\|_F)`.
    """

    name: str
    matrix: int
    shape: tuple[int, int]
    distance: float
    cosine: float


@torch.no_grad()
def approximation_error(optimizer: MatrixOptimizer) -> list[ApproximationError]:
    """Return how far the directions of the last step are from exact ones, matrix by matrix.

    To be called after ``step()`` and before ``zero_grad()``: the exact directions are found of the
    signals of that step, at the cost of a step that is not approximated. Nothing is changed. An old
    direction that no longer descends is reported as it is, though the step did not take it. Where
    processes share parameters all of them call it, and get the same.

    Args:
        optimizer: whose groups' approximations are measured; of groups without one nothing is
            returned. A ratio with nothing to compare is NaN.

    Raises:
        ValueError: if no parameter that is approximated has both a step behind it and a gradient.

    Example:
        >>> import polargrad as pg
        >>> weight = torch.nn.Parameter(torch.diag(torch.tensor([3.0, 2.0, 1.0])))
        >>> sketch = {"name": "sketch", "rank": 3}
        >>> optimizer = pg.PolarGrad([weight], lr=0.1, approximation=sketch)
        >>> weight.square().sum().backward()
        >>> optimizer.step()
        >>> [error] = approximation_error(optimizer)
        >>> error.distance < 1e-5, error.cosine > 0.99999
        (True, True)
    """
    errors: list[ApproximationError] = []
    looked = False
    for number, group in enumerate(optimizer.param_groups):
        if group["rule"] != "matrix" or group["approximation"] is None:
            continue
        kept = OF_A_STEP[group["approximation"]["name"]]
        params = [p for p in active(group) if kept in optimizer.state[p]]
        looked = looked or bool(params) or group["approximation"].get("every") == 1
        if not params:
            continue
        held = {id(p) for p in params}
        members = zip(named_parameters(group), group["views"], strict=True)
        chosen = [(name, view) for (name, p), view in members if id(p) in held]
        form, sharing = optimizer._geometry(group), optimizer._sharing
        views = [view for _, view in chosen]
        step = Update(group, number, form, params, views, optimizer.state, None, None, sharing, {})
        assert step.approximate is not None  # as there is what it keeps
        compared = _compared(step, step.approximate)
        for entry, row in zip(step.entries, compared, strict=True):
            name = chosen[entry.parameter][0]
            errors.append(_error(name, entry, row))
    if not looked:
        raise ValueError(
            "approximation_error needs an optimizer with an approximation that has taken a step, "
            "and the gradients of it: call it after step() and before zero_grad()"
        )
    return errors


def _compared(step: Update, approximate: Approximate) -> list[list[float]]:
    """‖D − D*‖², ‖D‖², ‖D*‖² and ⟨D, D*⟩ of each matrix."""
    known: dict[int, tuple[Tensor, ...]] = {}

    def compare(position: int, part: Entry, exact: Tensor) -> None:
        exact = exact.reshape(part.target.shape).to(torch.float64)
        taken = approximate.taken(position, part).to(torch.float64)
        pairs = ((taken - exact,) * 2, (taken, taken), (exact, exact), (taken, exact))
        known[id(part)] = tuple(inner_product(x, y) for x, y in pairs)

    def whole(positions: list[int], results: tuple[Tensor, ...]) -> None:
        for position, exact in zip(positions, results[0], strict=True):
            compare(position, step.entries[position], exact)

    def in_parts(position: int, patches: list[Tensor], rest: list[Tensor | None]) -> None:
        shared = step.entries[position].shared
        assert shared is not None  # or it would not be in parts
        for part, exact in zip(shared.parts, patches, strict=True):
            compare(position, part, exact)

    step.each(range(len(step.entries)), _exactly(step), whole, in_parts)
    rows: list[list[float]] = [[] for _ in step.entries]
    for positions in by_device(step.entries).values():
        some = [step.entries[i] for i in positions]
        found = sums(some, 4, lambda part: known[id(part)], "the errors of directions")
        for position, row in zip(positions, found.tolist(), strict=True):
            rows[position] = row
    return rows


def _exactly(step: Update) -> StackFunction:
    """What finds the exact directions of a stack, and their dual norms."""

    def function(positions: list[int], *stacks: Tensor) -> tuple[Tensor, ...]:
        return step.ascent_of(signal_from(step.group, stacks), None)

    return function


def _error(name: str, entry: Entry, row: Sequence[float]) -> ApproximationError:
    """The record of one matrix from its four sums."""
    apart, taken, exact, inner = row
    return ApproximationError(
        name,
        entry.number,
        entry.target.shape,
        math.sqrt(apart / exact) if exact else math.nan,
        inner / math.sqrt(taken * exact) if taken and exact else math.nan,
    )
