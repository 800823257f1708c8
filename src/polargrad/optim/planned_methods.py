"""The methods of an optimizer whose matrices are on the meta device and stand for others."""

from __future__ import annotations

import torch
from torch.optim import Optimizer

from polargrad.geometry import geometry
from polargrad.linalg.precision import working_dtype
from polargrad.optim.resolve import resolve
from polargrad.optim.routing.views import logical_shapes

__all__ = ["choose_methods"]


def choose_methods(optimizer: Optimizer, device: str) -> None:
    """Have the methods of the polar factors chosen for a kind of device, and not for meta.

    Args:
        optimizer: of matrices on the meta device.
        device: ``"cpu"`` or ``"cuda"``.
    """
    for group in optimizer.param_groups:
        if group.get("rule") != "matrix" or not geometry(group["geometry"]).uses_polar:
            continue
        for parameter, view in zip(group["params"], group["views"], strict=True):
            for m, n in set(logical_shapes(view, tuple(parameter.shape))):
                dtype = working_dtype(parameter.dtype)
                example = torch.empty(m, n, dtype=dtype, device="meta")
                resolve(group, example, device=device)
