"""Gradients, looked at before a step: which there are, and whether the step can be taken."""

from __future__ import annotations

import math
import warnings
from collections.abc import Container
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from polargrad.distributed import check_layout, is_distributed, local_part
from polargrad.errors import NonFiniteError
from polargrad.linalg.precision import HALF
from polargrad.optim.entries import gradient_of
from polargrad.optim.group_members import named_parameters

__all__ = [
    "active",
    "all_finite",
    "finite_on_host",
    "place_like_parameters",
    "refuse_nonfinite",
    "refuse_sparse",
    "warn_of_no_gradient",
]


def active(group: dict[str, Any]) -> list[Tensor]:
    """The parameters of a group that have a gradient."""
    return [p for p in group["params"] if p.grad is not None]


def refuse_sparse(group: dict[str, Any], params: list[Tensor]) -> None:
    """Raise RuntimeError for a sparse gradient."""
    sparse = next((p for p in params if p.grad is not None and p.grad.is_sparse), None)
    if sparse is not None:
        name = next(n for n, p in named_parameters(group) if p is sparse)
        raise RuntimeError(
            f"parameter {name} has a sparse gradient, which no rule here reads: "
            "use Embedding(sparse=False)"
        )


def place_like_parameters(group: dict[str, Any], params: list[Tensor]) -> None:
    """Bring the gradients of DTensors to the placements of their parameters, where they differ.

    Tensor parallelism leaves some of them as sums that have not been added up.

    Raises:
        TypeError: for a parameter that has been put in the place of another, as ``accelerate`` does
            after an optimizer has been made, and whose matrix cannot be restored.
    """
    sharded = [p for p in params if is_distributed(p)]
    names = {id(p): name for name, p in named_parameters(group)} if sharded else {}
    for p in sharded:
        check_layout(p, names[id(p)])
        gradient = gradient_of(p)
        if not is_distributed(gradient):
            raise TypeError(
                f"the gradient of parameter {names[id(p)]} must be a DTensor as the parameter is, "
                f"got a plain tensor of shape {tuple(gradient.shape)}"
            )
        placements = p.placements  # type: ignore[attr-defined]
        if gradient.placements != placements:  # type: ignore[attr-defined]
            p.grad = gradient.redistribute(placements=placements)  # type: ignore[attr-defined]


def _held(params: list[Tensor]) -> list[Tensor]:
    """What this process holds of the gradients, but for what is empty."""
    gradients = [local_part(p.grad) for p in params if p.grad is not None]
    return [g for g in gradients if g.numel()]


def warn_of_no_gradient(groups: list[dict[str, Any]]) -> None:
    """Warn, among several processes, that not one parameter has a gradient.

    ``fully_shard`` puts parameters of its own into a model, and an optimizer that was made before
    holds the old ones: it would train nothing, without a word.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return
    number = sum(len(group["params"]) for group in groups)
    warnings.warn(
        f"none of the {number} parameters of the optimizer has a gradient, and none has had one: "
        "make the optimizer after fully_shard, parallelize_module or whatever else puts parameters "
        "of its own into the model",
        stacklevel=5,
    )


def finite_on_host(params: list[Tensor], known: Container[Tensor] = ()) -> bool | None:
    """Whether the gradients of these parameters are finite, None if there are none.

    For gradients on a CPU, whose values can be read at once; those of ``known`` are known to be.
    """
    if not _held(params):
        return None
    return all(map(_is_finite, _held([p for p in params if p not in known])))


def _is_finite(x: Tensor) -> bool:
    """Whether every entry is finite: a finite sum says so, another one may be an overflow."""
    if math.isfinite(x.sum(dtype=torch.float32) if x.dtype in HALF else x.sum()):
        return True
    least, greatest = torch.aminmax(x)
    return math.isfinite(least) and math.isfinite(greatest)


def all_finite(params: list[Tensor]) -> Tensor | None:
    """One boolean tensor for the gradients of these parameters, None if there are none."""
    gradients = _held(params)
    if not gradients:
        return None
    device = gradients[0].device
    # Wide enough for each: what float64 holds may be infinite in float32.
    wide = torch.float64 if any(g.dtype == torch.float64 for g in gradients) else torch.float32
    return torch.isfinite(torch.stack([x.to(device, wide) for x in _extremes(gradients)])).all()


def _extremes(gradients: list[Tensor]) -> list[Tensor]:
    """Numbers of which one is NaN or infinite exactly if an entry of the gradients is.

    The largest magnitude, or on a CPU, where that takes twenty times as long, both ends.
    """
    if any(g.device.type != "cpu" for g in gradients):
        return list(torch._foreach_norm(gradients, float("inf")))
    return [end for g in gradients for end in torch.aminmax(g)]


def refuse_nonfinite(groups: list[dict[str, Any]], params: list[Tensor]) -> NoReturn:
    """Raise NonFiniteError, with the names of those among ``params`` that have such a gradient."""
    looked = {id(p) for p in params}
    named = [pair for group in groups for pair in named_parameters(group)]
    bad = [name for name, p in named if id(p) in looked and _broken(p)]
    if not bad:
        raise NonFiniteError(
            "a gradient is not finite in the part that another process holds, whose message names "
            "it; parameters and state are as they were"
        )
    raise NonFiniteError(
        f"the gradient of {', '.join(bad[:5])}{', …' if len(bad) > 5 else ''} is not finite "
        f"({len(bad)} in all); parameters and state are as they were"
    )


def _broken(parameter: Tensor) -> bool:
    """Whether a parameter has a gradient that is not finite."""
    gradient = None if parameter.grad is None else local_part(parameter.grad)
    return gradient is not None and not bool(torch.isfinite(gradient).all())
