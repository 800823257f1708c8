"""Elementwise work on lists of tensors: one foreach call for many, or a loop; the same numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from polargrad.linalg.precision import working_dtype
from polargrad.optim.signal import weight

__all__ = ["add_product_to", "average", "batches", "shrink", "store", "subtract", "widened"]

# What is copied to a wider dtype, or computed beside its target, is done so many bytes at a time.
BATCH_BYTES = 64 * 2**20


def batches(*lists: Sequence[Tensor]) -> Iterator[tuple[list[Tensor], ...]]:
    """Yield the lists in parallel pieces of at most 64 MiB in float32, or of one tensor."""
    start, size = 0, 0
    for position, tensor in enumerate(lists[0]):
        bytes_ = tensor.numel() * working_dtype(tensor.dtype).itemsize
        if position > start and size + bytes_ > BATCH_BYTES:
            yield tuple(list(tensors[start:position]) for tensors in lists)
            start, size = position, 0
        size += bytes_
    if start < len(lists[0]):
        yield tuple(list(tensors[start:]) for tensors in lists)


def widened(tensors: Sequence[Tensor], negate: bool = False) -> list[Tensor]:
    """The tensors in at least float32, negated if asked for; what needs no change is no copy."""
    wide = [t.to(working_dtype(t.dtype)) for t in tensors]
    return list(torch._foreach_neg(wide)) if negate and wide else wide


def average(
    targets: list[Tensor],
    inputs: Sequence[Tensor],
    beta: float | Tensor,
    *,
    form: str,
    gate: Tensor | None,
    foreach: bool,
    negate: bool = False,
) -> None:
    r"""M ← βM + (1−β)·input (``"ema"``) or M ← βM + input (``"heavy-ball"``), in place.

    Inputs are taken in at least float32, whatever the dtype of a target. Where ``gate`` is false
    every bit stays.
    """
    exact = gate is None and not negate
    direct = exact and all(
        t.dtype == x.dtype == working_dtype(t.dtype) for t, x in zip(targets, inputs, strict=True)
    )
    if direct:
        _average_in_place(targets, list(inputs), beta, form, foreach)
        return
    for some_targets, some_inputs in batches(targets, inputs):
        wide = [t.to(working_dtype(t.dtype), copy=True) for t in some_targets]
        added = [x.to(w.dtype) for x, w in zip(widened(some_inputs, negate), wide, strict=True)]
        _average_in_place(wide, added, beta, form, foreach)
        store(some_targets, wide, gate)


def _average_in_place(
    targets: list[Tensor], inputs: list[Tensor], beta: float | Tensor, form: str, foreach: bool
) -> None:
    # A tensor as a weight is not for foreach, which would wait for its device to read it.
    if foreach and targets and not isinstance(beta, Tensor):
        if form == "ema":
            torch._foreach_lerp_(targets, inputs, 1.0 - beta)
        else:
            torch._foreach_mul_(targets, beta)
            torch._foreach_add_(targets, inputs)
        return
    for target, x in zip(targets, inputs, strict=True):
        if form == "ema":
            target.lerp_(x, weight(1.0 - beta, target))
        else:
            target.mul_(beta).add_(x)


def shrink(targets: list[Tensor], factor: Tensor | float, foreach: bool) -> None:
    """Target ← factor · target."""
    if foreach and len(targets) > 1:
        torch._foreach_mul_(targets, factor)
    else:
        for target in targets:
            target.mul_(factor)


def subtract(targets: list[Tensor], amounts: list[Tensor], foreach: bool) -> None:
    """Target ← target − amount."""
    if foreach and len(targets) > 1:
        torch._foreach_sub_(targets, amounts)
    else:
        for target, amount in zip(targets, amounts, strict=True):
            target.sub_(amount)


def add_product_to(target: Tensor, left: Tensor, right: Tensor, kept: float, amount: float) -> None:
    """Target ← kept · target + amount · left · right, in one call where the dtypes agree."""
    if left.dtype == target.dtype:
        target.addmm_(left, right, beta=kept, alpha=amount)
        return
    if kept != 1.0:
        target.mul_(kept)
    target.add_(left @ right, alpha=amount)


def store(targets: Sequence[Tensor], values: Sequence[Tensor], gate: Tensor | None) -> None:
    """Target ← value; where ``gate`` is false, every bit of the target stays."""
    for target, value in zip(targets, values, strict=True):
        if gate is None:
            target.copy_(value)
        else:
            kept = value.to(target.dtype)
            target.copy_(torch.where(gate.to(target.device), kept, target))
