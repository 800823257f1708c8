"""How much memory a step needs beside parameters, gradients and state: k stacks, k known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from polargrad.distributed.local import STACK_BYTES
from polargrad.linalg import GramEigh, GramZolotarev, Method
from polargrad.linalg.precision import working_dtype
from polargrad.optim.approximations import Sketch, approximation
from polargrad.optim.buffers import signal_dtype
from polargrad.optim.resolve import resolve
from polargrad.optim.routing.views import logical_shapes
from polargrad.optim.step_size import is_found

__all__ = ["stacks_held", "stacks_of", "step_bytes"]

# Stacks that are held at once, counted in a step with momentum before the direction, without
# Nesterov; the tests count them again. The workspace of LAPACK comes on top.
METHODS = {
    "svd": 11,
    "randomized_svd": 6,
    "gram_eigh": 15,
    "qdwh": 11,
    "mixed_qdwh": 19,
    "zolotarev": 66,
    "gram_zolotarev": 11,
    "newton": 17,
    "newton_schulz": 6,
    "polar_express": 7,
    "preconditioned_newton_schulz": 6,
    "gram_polynomial": 11,
}
GEOMETRIES = {
    "frobenius": 5,
    "max_entry": 5,
    "largest_row": 6,
    "largest_column": 6,
    "diagonal": 15,
    "kronecker": 22,
    "one_sided_kronecker": 22,
    "rotated_diagonal": 24,
    "given_hessian": 8,
}
# The rational function with a polynomial after it, and eigenvectors without polishing.
COMPOSED = 7
UNPOLISHED = 8
# What a composition adds to the method of its polar factor.
COMPOSITIONS = {"spectral": 0, "row_then_polar": 3, "polar_then_row": 1}
FROM_ONE_SIDE = 15
# What a step size that is found adds: the matrices of its decay, beside their directions.
FOUND_SIZE = 1
# Copies of the factors of all sketches of a group, which are held together.
FACTORS = 2


def step_bytes(optimizer: Optimizer) -> int:
    """The bytes that a step holds at most, beside parameters, gradients and state.

    Example:
        >>> import polargrad as pg
        >>> optimizer = pg.PolarGrad([torch.nn.Parameter(torch.ones(8, 4))], lr=0.1)
        >>> stacks_held(optimizer), step_bytes(optimizer)  # a stack of one matrix of 32 numbers
        (8, 1024)
    """
    return max((k * size for k, size in _stacks(optimizer)), default=0) + _thin_bytes(optimizer)


def _thin_bytes(optimizer: Optimizer) -> int:
    """The bytes of the factors of sketches, the new ones and what they are made of."""
    total = 0
    for group in optimizer.param_groups:
        found = approximation(group.get("approximation"))
        if group.get("rule") == "matrix" and isinstance(found, Sketch):
            for p, view in zip(group["params"], group["views"], strict=True):
                shapes = logical_shapes(view, tuple(p.shape)) if p.numel() else []
                numbers = sum((m + n) * min(found.rank, m, n) for m, n in shapes)
                total += FACTORS * numbers * signal_dtype(group, p).itemsize
    return total


def stacks_held(optimizer: Optimizer) -> int:
    """k: a step holds at most k stacks of at most 64 MiB each, or of one larger matrix."""
    return max((k for k, _ in _stacks(optimizer)), default=0)


def _stacks(optimizer: Optimizer) -> Iterator[tuple[int, int]]:
    """For each logical shape of each group, how many stacks, and the bytes of the largest."""
    for group in optimizer.param_groups:
        if group.get("rule") != "matrix":
            continue
        counts: Counter[tuple[int, int, torch.dtype, torch.device]] = Counter()
        for p, view in zip(group["params"], group["views"], strict=True):
            for m, n in logical_shapes(view, tuple(p.shape)) if p.numel() else []:
                counts[m, n, working_dtype(p.dtype), p.device] += 1
        for (m, n, dtype, device), count in counts.items():
            example = torch.empty(m, n, dtype=dtype, device=device)
            one = m * n * dtype.itemsize
            yield stacks_of(group, example), min(count * one, max(STACK_BYTES, one))


def stacks_of(group: Mapping[str, Any], example: Tensor) -> int:
    """How many stacks of matrices like an example a step of a group holds on one device."""
    found = FOUND_SIZE if is_found(group) else 0
    return _of_geometry(group, group["geometry"], example) + _of_order(group) + found


def _of_order(group: Mapping[str, Any]) -> int:
    """What the signal adds."""
    if not isinstance(group["momentum"], Tensor) and not group["momentum"]:
        return 1
    extra = 2 if group["nesterov"] and group["order"] == "momentum-first" else 0
    extra += int(group["order"] != "momentum-first") + int(group["state_dtype"] is not None)
    return extra + 2 * int(group["bias_correction"])


def _of_geometry(group: Mapping[str, Any], form: Mapping[str, Any], example: Tensor) -> int:
    """What the direction needs."""
    name = form["name"]
    if name == "centred":
        return 1 + _of_geometry(group, form["inner"], example)
    if name not in COMPOSITIONS:
        return GEOMETRIES[name]
    if form.get("side") is not None or form.get("damping"):
        return COMPOSITIONS[name] + FROM_ONE_SIDE
    correction = 2 * bool(form.get("correct"))
    return COMPOSITIONS[name] + _of_method(resolve(dict(group), example)) + correction


def _of_method(method: Method) -> int:
    """What the polar factor needs; the planner's choices at training accuracy are leaner."""
    if isinstance(method, GramZolotarev) and method.polynomial is not None:
        return COMPOSED
    if isinstance(method, GramEigh) and method.polish == 0:
        return UNPOLISHED
    return METHODS[method.name]
