"""Parameter groups: completed, checked, and turned into plain data before anything is added."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from polargrad.distributed import executor_for
from polargrad.geometry import MAGNITUDES
from polargrad.linalg import method as method_of
from polargrad.linalg import plain
from polargrad.linalg.planner import plan
from polargrad.linalg.precision import COMPUTE_DTYPES
from polargrad.optim.routing.views import WHOLE, logical_shape

ORDERS = ("momentum-first", "polar-first")
RULES = ("matrix", "adamw")
DEFAULT_VECTOR_LR = 1e-3
# PolarGrad's lr has the unit of 1/L: with a decay tied to it, what shrinks the parameter by a tenth
# or more at every step is a decay that was meant for another optimizer's lr.
LARGEST_DECAY_A_STEP = 0.1


def split_by_rule(
    group: Mapping[str, Any], vector_defaults: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return the group, or a matrix group and an AdamW group, completed with what AdamW needs.

    Raises:
        ValueError: for a vector without ``vector_lr``, or a parameter of an unknown layout.
    """
    named = named_parameters(group)
    rest = {key: value for key, value in group.items() if key not in ("params", "param_names")}
    if "rule" in group:
        if group["rule"] not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)}, got {group['rule']!r}")
        return [_complete({**rest, "params": group["params"]}, named, vector_defaults)]
    matrices = [(n, p) for n, p in named if p.ndim >= 2]
    vectors = [(n, p) for n, p in named if p.ndim < 2]
    if vectors and vector_defaults["lr"] is None:
        name, parameter = vectors[0]
        raise ValueError(
            f"parameter {name} of shape {tuple(parameter.shape)} is not a matrix, and AdamW needs "
            "a learning rate of its own for it: give vector_lr=, or pass "
            "polargrad.param_groups(model), which also keeps embeddings and heads apart"
        )
    for name, parameter in matrices:
        if parameter.ndim > 2:
            raise ValueError(
                f"parameter {name} of shape {tuple(parameter.shape)} is not a matrix, and a list "
                "of parameters does not say which of its dimensions are: pass "
                "polargrad.param_groups(model), which knows the layouts of modules"
            )
    with_names = any(isinstance(entry, tuple) for entry in _entries(group))
    result = []
    for rule, members in (("matrix", matrices), ("adamw", vectors)):
        if members:
            params = members if with_names else [p for _, p in members]
            # What the group says about matrices (its lr, its method) is not said about vectors.
            options = rest if rule == "matrix" else {}
            new = {**options, "params": params, "rule": rule}
            result.append(_complete(new, members, vector_defaults))
    return result


def _entries(group: Mapping[str, Any]) -> list[Any]:
    """The members of a group as they were given."""
    params = group["params"]
    return [params] if isinstance(params, Tensor) else list(params)


def named_parameters(group: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    """Names and parameters of a group; one without a name is called by its position."""
    entries = _entries(group)
    names = group.get("param_names") or [f"number {index}" for index in range(len(entries))]
    named = []
    for given, entry in zip(names, entries, strict=True):
        name, parameter = entry if isinstance(entry, tuple) else (given, entry)
        if not isinstance(parameter, Tensor):
            raise TypeError(
                f"params must be tensors or (name, tensor) pairs, got {type(parameter).__name__}"
            )
        named.append((name, parameter))
    return named


def _complete(
    group: dict[str, Any], named: list[tuple[str, Tensor]], vector_defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """Fill in what a group of its rule has, parallel lists included."""
    count = len(named)
    if group["rule"] == "adamw":
        group.setdefault("roles", ["vector"] * count)
        group.setdefault("reasons", [f"{p.ndim}-D" for _, p in named])
        for key, value in vector_defaults.items():
            group.setdefault(key, value)
        if group["lr"] is None:
            group["lr"] = DEFAULT_VECTOR_LR
    else:
        group.setdefault("roles", ["matrix"] * count)
        group.setdefault("reasons", ["given as a matrix"] * count)
    group.setdefault("views", [WHOLE] * count)
    for key in ("roles", "reasons", "views"):
        if len(group[key]) != count:
            raise ValueError(
                f"{key} must have one entry for each of the {count} parameters, "
                f"got {len(group[key])}"
            )
    return group


def check_group(group: dict[str, Any], named: list[tuple[str, Tensor]]) -> None:
    """Check every option and parameter of a completed group, and make its method plain data.

    Raises:
        ValueError: for an option outside its range, or a parameter that its view does not fit.
        TypeError: for a complex, integer or sharded parameter.
    """
    _check_number("lr", group["lr"])
    _check_number("weight_decay", group["weight_decay"])
    for name, parameter in named:
        executor_for(parameter, name)
        if not parameter.is_floating_point():
            raise TypeError(
                f"parameter {name} is of {parameter.dtype}; allowed are real floating-point types"
            )
    if group["rule"] == "adamw":
        _check_adamw(group)
        return
    _check_matrix_options(group)
    for (name, parameter), view in zip(named, group["views"], strict=True):
        try:
            logical_shape(view, tuple(parameter.shape))
        except ValueError as error:
            raise ValueError(f"parameter {name}: {error}") from None


def _check_matrix_options(group: dict[str, Any]) -> None:
    """Check the options of the matrix rule; the method becomes plain data."""
    _check_number("decay_per_step", group["decay_per_step"], below=1.0)
    _check_number("momentum", group["momentum"], below=1.0)
    _check_choice("order", group["order"], ORDERS)
    _check_choice("magnitude", group["magnitude"], MAGNITUDES)
    _check_choice("nesterov", group["nesterov"], (True, False))
    if group["compute_dtype"] is not None:
        name = str(group["compute_dtype"]).removeprefix("torch.")
        _check_choice("compute_dtype", name, tuple(COMPUTE_DTYPES))
        group["compute_dtype"] = name
    if group["method"] == "auto":
        plan(tol=group["tol"], dtype=torch.float32, device="cpu")  # raises for a wrong tol
    else:
        description = method_of(group["method"])
        group["method"] = plain(description)
        if not description.products_only and group["compute_dtype"] in ("float16", "bfloat16"):
            raise ValueError(
                f"compute_dtype must be None, float32 or float64 for method {description.name!r}, "
                f"got {group['compute_dtype']}"
            )
    group.setdefault("base_lr", float(group["lr"]))
    group.setdefault("resolved", {})
    shrink = float(group["lr"]) * group["weight_decay"]
    if group["magnitude"] == "nuclear" and shrink >= LARGEST_DECAY_A_STEP:
        raise ValueError(
            f"lr={group['lr']} with weight_decay={group['weight_decay']} shrinks every matrix by "
            f"the factor 1 − {shrink:.3g} at every step; lr·weight_decay must stay below "
            f"{LARGEST_DECAY_A_STEP}. For a decay that follows the schedule but not the unit of "
            "lr, give decay_per_step="
        )


def _check_adamw(group: Mapping[str, Any]) -> None:
    """Check the options of AdamW."""
    betas = group["betas"]
    if len(betas) != 2 or not all(0.0 <= float(beta) < 1.0 for beta in betas):
        raise ValueError(f"vector_betas must be two numbers in [0, 1), got {betas!r}")
    _check_number("vector_eps", group["eps"])


def _check_number(name: str, value: Any, below: float = math.inf) -> None:
    """Raise unless ``value`` is a number (or a tensor of one) in [0, below)."""
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise ValueError(
                f"{name} as a tensor must hold one number, got shape {tuple(value.shape)}"
            )
        return  # its value stays on its device
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not 0.0 <= value < below:
        allowed = "at least 0 and finite" if below == math.inf else f"in [0, {below:g})"
        raise ValueError(f"{name} must be {allowed}, got {value}")


def _check_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(str, allowed))}, got {value!r}")
