"""Whether accumulated gradients are those of the whole batch, or a multiple of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.optim import Optimizer

from polargrad.distributed import is_distributed

__all__ = ["accumulation_ratio"]

# Micro-batches of unequal sizes, dropout and rounding change a gradient by less than this.
TOLERANCE = 0.2


def accumulation_ratio(
    optimizer: Optimizer, whole: Callable[[], object], accumulated: Callable[[], object]
) -> float:
    r"""How many times the gradient of a batch its accumulated micro-batches are; 1 is right.

    .. math:: \rho = \frac{\langle G_{\text{whole}}, G_{\text{accumulated}}\rangle}
                          {\langle G_{\text{whole}}, G_{\text{whole}}\rangle}

    A step of PolarGrad is of degree 1 in the gradient: where k micro-batches are summed instead of
    averaged, it is k times as long, and an lr near its limit diverges. Muon and AdamW hide this.
    One pass of each kind, on the same batch and before the training, tells them apart.

    Args:
        optimizer: whose parameters are looked at; it is not stepped.
        whole: one backward pass of the loss of the whole batch.
        accumulated: the backward passes of its micro-batches, as the training loop does them.

    Returns:
        ρ, over all parameters. Gradients are afterwards what they were before.

    Warns:
        UserWarning: if ρ is off 1 by more than 0.2.

    Raises:
        ValueError: if the passes leave no gradient, or only zero or non-finite ones.

    Example:
        >>> import polargrad as pg
        >>> X, batch = torch.nn.Parameter(torch.eye(2)), torch.ones(4, 2)
        >>> def loss(rows):
        ...     return (rows @ X).square().mean()
        >>> accumulation_ratio(
        ...     pg.PolarGrad([X], lr=0.1),
        ...     lambda: loss(batch).backward(),
        ...     lambda: [(loss(rows) / 2).backward() for rows in batch.chunk(2)],
        ... )
        1.0
    """
    params = [p for group in optimizer.param_groups for p in group["params"]]
    kept = [p.grad for p in params]
    try:
        wanted = _gradients(params, whole)
        found = _gradients(params, accumulated)
    finally:
        for p, grad in zip(params, kept, strict=True):
            p.grad = grad
    square = sum(_inner(g, g) for g in wanted.values())
    product = sum(_inner(g, found[i]) for i, g in wanted.items() if i in found)
    if not (0 < square < math.inf) or not math.isfinite(product):
        raise ValueError(
            "whole and accumulated must leave finite gradients that are not all zero, got "
            f"⟨whole, whole⟩ = {square} and ⟨whole, accumulated⟩ = {product}"
        )
    ratio = product / square
    if abs(ratio - 1) > TOLERANCE:
        warnings.warn(
            f"the accumulated gradient is {ratio:.3g} times that of the whole batch: divide the "
            "loss of each micro-batch by their number, or a step that grows with the gradient "
            f"(PolarGrad's) is {ratio:.3g} times as long",
            stacklevel=2,
        )
    return ratio


def _gradients(params: list[Tensor], passes: Callable[[], object]) -> dict[int, Tensor]:
    """The gradients that the passes leave, by position."""
    for p in params:
        p.grad = None
    with torch.enable_grad():
        passes()
    return {i: p.grad for i, p in enumerate(params) if p.grad is not None}


def _inner(x: Tensor, y: Tensor) -> float:
    product = (x.double() * y.double()).sum()
    # Of a DTensor a sum over what each process holds, not yet added up.
    if is_distributed(product):
        product = product.full_tensor()  # type: ignore[attr-defined]
    return float(product)
