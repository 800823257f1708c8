"""What an explicit preconditioner remembers: kept with each parameter, one entry a matrix."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from polargrad.geometry import Geometry, State
from polargrad.linalg.precision import working_dtype
from polargrad.optim.elementwise import store
from polargrad.optim.entries import Entry
from polargrad.optim.routing.views import View, logical_shapes

__all__ = [
    "accumulated",
    "bytes_beside",
    "gathered",
    "geometry_state",
    "scatter",
    "start_geometry",
    "state_of_one",
]


def start_geometry(form: Geometry, p: Tensor, view: View, own: dict[str, Any]) -> None:
    """Give a parameter the zero state of an explicit preconditioner, where it has none yet."""
    if form.accumulates and any(key not in own for key in names(form)):
        for key, value in geometry_state(form, p, view).items():
            own.setdefault(key, value)


def geometry_state(form: Geometry, p: Tensor, view: View) -> dict[str, Tensor]:
    """The zero state of a parameter: a tensor for each key and each shape of its matrices."""
    counts: dict[tuple[int, int], int] = {}
    for shape in logical_shapes(view, tuple(p.shape)) if p.numel() else []:
        counts[shape] = counts.get(shape, 0) + 1
    return {
        key_of(key, block): value
        for block, (shape, count) in enumerate(counts.items())
        for key, value in form.start(
            torch.empty(count, *shape, dtype=working_dtype(p.dtype), device=p.device)
        ).items()
    }


@functools.lru_cache(maxsize=256)
def state_of_one(form: Geometry, shape: tuple[int, int], dtype: torch.dtype) -> State:
    """What is kept for a matrix of this shape, without its numbers."""
    return form.start(torch.empty(1, *shape, dtype=dtype, device="meta"))


def bytes_beside(form: Geometry, shape: tuple[int, int], dtype: torch.dtype) -> int:
    """The bytes that a matrix of this shape has beside it in a stack: state and workspace."""
    state = _state_bytes(form, shape, dtype) if form.accumulates else 0
    return state + form.workspace(*shape)


@functools.lru_cache(maxsize=256)
def _state_bytes(form: Geometry, shape: tuple[int, int], dtype: torch.dtype) -> int:
    return sum(x.numel() * x.element_size() for x in state_of_one(form, shape, dtype).values())


def gathered(form: Geometry, entries: Sequence[Entry], owners: Sequence[dict[str, Any]]) -> State:
    """The state of a stack; ``owners`` are the states of the parameters of its matrices."""
    return {
        key: torch.stack(
            [own[key_of(key, e.block)][e.place] for e, own in zip(entries, owners, strict=True)]
        )
        for key in names(form)
    }


def accumulated(form: Geometry, past: State, gradient: Tensor) -> State:
    """The state after a gradient; a zero gradient at zero state changes nothing."""
    new = form.accumulate(past, gradient)
    begun = (gradient != 0).flatten(1).any(1)
    for value in past.values():
        begun = begun | (value != 0).reshape(len(begun), -1).any(1)
    return {
        key: torch.where(begun.view(-1, *[1] * (value.ndim - 1)), value, past[key])
        for key, value in new.items()
    }


def scatter(
    form: Geometry,
    entries: Sequence[Entry],
    owners: Sequence[dict[str, Any]],
    new: Sequence[Tensor],
    gate: Tensor | None,
) -> None:
    """Keep the state of a stack; where ``gate`` is false every bit stays."""
    for key, value in zip(names(form), new, strict=True):
        targets = [
            own[key_of(key, e.block)][e.place] for e, own in zip(entries, owners, strict=True)
        ]
        store(targets, list(value.unbind(0)), gate)


@functools.lru_cache(maxsize=256)
def names(form: Geometry) -> tuple[str, ...]:
    """The keys of the state of a geometry, in their order."""
    return tuple(form.start(torch.empty(1, 1, 1, device="meta")))


def key_of(key: str, block: int) -> str:
    """The key of a block of equal matrices in the state of a parameter."""
    return key if block == 0 else f"{key}.{block}"
