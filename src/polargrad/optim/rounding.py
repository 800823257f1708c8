"""Stochastic rounding to bfloat16: right on average, so that small steps are not lost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["ATTEMPTS", "count_attempts", "round_stochastically"]

# The key of a group under which its steps are counted, for the bits of stochastic rounding.
ATTEMPTS = "attempts"

# A float32 is a bfloat16 and sixteen more bits of its mantissa.
LOWER_BITS = 16
# Mixes seed, step and position into one number; any large prime would do.
PRIME = 1_000_003


def round_stochastically(x: Tensor, key: tuple[int, ...]) -> Tensor:
    r"""Round to one of the two neighbouring bfloat16 numbers, so that the mean is x.

    .. math:: P(\text{up}) = \frac{x - \lfloor x \rfloor}{\lceil x \rceil - \lfloor x \rfloor}

    A step of less than half a unit in the last place of a bfloat16 parameter (1/256 of it) is lost
    in rounding to nearest; here it is taken that much less often. What is not finite stays so, and
    a number that bfloat16 holds is not changed.

    Args:
        x: any shape, at least float32; taken in float32.
        key: seed, step, group and position. They alone decide the random bits, so that nothing has
            to be saved for a run to be resumed, and every rank rounds alike.

    Returns:
        bfloat16, the shape of x.

    Example:
        >>> x = torch.full((1000,), 1.0 + 2.0**-9)  # a quarter of the way to the next number
        >>> round_stochastically(x, (0, 0, 0, 0)).unique().tolist()
        [1.0, 1.0078125]

    Source: S. Gupta et al., arXiv 1502.02551.
    """
    generator = torch.Generator(device=x.device)
    seed = 0
    for number in key:
        seed = (seed * PRIME + number) % 2**63
    generator.manual_seed(seed)
    bits = x.to(torch.float32, copy=True).view(torch.int32)
    added = torch.randint(
        0, 2**LOWER_BITS, x.shape, generator=generator, dtype=torch.int32, device=x.device
    )
    # Adding to the magnitude carries into the upper half as often as the lower half is large.
    raised = ((bits + added) & -(2**LOWER_BITS)).view(torch.float32)
    # Beyond the largest bfloat16 there is no neighbour above: to nearest, as everywhere else.
    known = torch.isfinite(raised) & torch.isfinite(x)
    return torch.where(known, raised, x.float()).to(torch.bfloat16)


def count_attempts(groups: Iterable[dict[str, Any]]) -> None:
    """Count a step in the groups of matrices that round stochastically, skipped or not.

    A step of lr 0, as torch.distributed.checkpoint takes it, rounds nothing.
    """
    for group in groups:
        if group.get("rounding") != "stochastic" or group["rule"] != "matrix":
            continue
        if isinstance(group["lr"], Tensor) or group["lr"]:
            group[ATTEMPTS] = group.get(ATTEMPTS, 0) + 1
