"""The verdict on the gradients of a step, among all processes that share parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from polargrad.distributed import Sharing
from polargrad.optim.group_members import named_parameters

__all__ = ["agreed"]


def agreed(
    sharing: Sharing,
    groups: Sequence[dict[str, Any]],
    chosen: Sequence[Sequence[Tensor]],
    finite: Tensor | bool | None,
    whole: bool,
    gated: Callable[[Tensor], bool],
) -> Tensor | bool | None:
    """Return whether the gradients are finite on all processes, None where there is none.

    Args:
        sharing: who shares what; where nothing is shared the verdict is that of this process.
        groups: of the optimizer.
        chosen: the parameters of each group that are stepped.
        finite: the verdict of this process, None if it holds no gradient.
        whole: whether these are all that have a gradient.
        gated: whether a verdict stays on the device of a tensor.

    Raises:
        CollectiveError: if the processes are about to step different parameters.
    """
    members = (p for group in groups for p in group["params"])
    shared = next((p for p in members if sharing.ranks_of(p) is not None), None)
    if shared is None:
        return finite
    named = [
        (name, p)
        for group, params in zip(groups, chosen, strict=True)
        for name, p in named_parameters(group)
        if whole or any(p is q for q in params)
    ]
    if finite is None:  # what has a gradient lies on other processes
        on_device = gated(shared)
        finite = torch.ones((), dtype=torch.bool, device=shared.device) if on_device else True
    verdict = sharing.agreed(finite, named, shared.device)
    return verdict if any(chosen) else None
