"""The members of a parameter group: their names, the rule that steps them, what they need."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from polargrad.optim.routing.views import WHOLE

__all__ = [
    *("VECTOR_KEYS", "check_ordered", "named_parameters", "refuse_no_matrix", "share_lr"),
    "split_by_rule",
]

RULES = ("matrix", "adamw")
DEFAULT_VECTOR_LR = 1e-3
# The options of AdamW, which the engine takes with "vector_" in front.
VECTOR_KEYS = ("lr", "betas", "eps", "weight_decay")


def check_ordered(params: object) -> None:
    """Raise TypeError for a set of parameters."""
    if isinstance(params, set | frozenset):
        raise TypeError("params must be ordered, as a list is, got a set")


def split_by_rule(
    group: Mapping[str, Any],
    vector_defaults: Mapping[str, Any],
    matrix_options: Collection[str] = (),
) -> list[dict[str, Any]]:
    """Return the group, or a matrix group and an AdamW group, completed with what AdamW needs.

    Args:
        group: as a user gave it.
        vector_defaults: the options of AdamW.
        matrix_options: the options that a group without a rule gives to its matrices alone.

    Raises:
        ValueError: for a vector without ``vector_lr``, or a parameter of an unknown layout.
    """
    named = named_parameters(group)
    counts = Counter(name for name, _ in named)
    twice = next((name for name in counts if counts[name] > 1), None)
    if twice is not None:
        raise ValueError(f"the name {twice} is given to two parameters, and names must differ")
    rest = {key: value for key, value in group.items() if key not in ("params", "param_names")}
    own = {key: rest.pop(f"vector_{key}") for key in VECTOR_KEYS if f"vector_{key}" in rest}
    vector_defaults = {**vector_defaults, **own}
    none = group.get("rule") == "matrix" or all(p.ndim >= 2 for _, p in named)
    if own and none and group.get("rule") != "adamw":
        raise ValueError(
            f"vector_{next(iter(own))} is for AdamW, and the group has no vector: it would have no "
            "effect"
        )
    if "rule" in group:
        if group["rule"] not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)}, got {group['rule']!r}")
        params = named if "param_names" in group else group["params"]
        return [_complete({**rest, "params": params}, named, vector_defaults)]
    matrices = [(n, p) for n, p in named if p.ndim >= 2]
    vectors = [(n, p) for n, p in named if p.ndim < 2]
    if vectors and vector_defaults["lr"] is None:
        name, parameter = vectors[0]
        raise ValueError(
            f"parameter {name} of shape {tuple(parameter.shape)} is not a matrix, and AdamW needs "
            "a learning rate of its own for it: give vector_lr=, to the optimizer or in the group, "
            "or a group of its own with rule='adamw' and lr; or pass "
            "polargrad.param_groups(model), which also keeps embeddings and heads apart"
        )
    for name, parameter in matrices:
        if parameter.ndim > 2:
            raise ValueError(
                f"parameter {name} of shape {tuple(parameter.shape)} is not a matrix, and a list "
                "of parameters does not say which of its dimensions are: pass "
                "polargrad.param_groups(model), which knows the layouts of modules"
            )
    pairs = [isinstance(entry, tuple) for entry in _entries(group)]
    if any(pairs) and not all(pairs):
        raise ValueError(
            "params must be all with/without names, got some (name, tensor) pairs and some tensors"
        )
    with_names = "param_names" in group or any(pairs)
    result = []
    for rule, members in (("matrix", matrices), ("adamw", vectors)):
        if members:
            params = members if with_names else [p for _, p in members]
            # What the group says about matrices (its lr, its method) is not said about vectors.
            hidden = () if rule == "matrix" else matrix_options
            options = {key: value for key, value in rest.items() if key not in hidden}
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


def refuse_no_matrix(groups: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError where no group of an optimizer holds a matrix."""
    if not any(group["params"] for group in groups if group["rule"] == "matrix"):
        raise ValueError(
            f"params hold no matrix among {sum(len(group['params']) for group in groups)} "
            "parameters: use torch.optim.AdamW, or polargrad.param_groups(model, roles=...)"
        )


def share_lr(group: dict[str, Any], base: float | Tensor, now: float | Tensor) -> None:
    """Keep the common learning rate in a group, and the ratio of its own to that beside it.

    Args:
        group: with a learning rate of its own.
        base: the common one, of before any schedule.
        now: the common one as it stands.

    Raises:
        ValueError: if the common one is zero, of which no other is a multiple.
    """
    if not float(base):
        raise ValueError(f"shared_lr=True needs lr above 0, got {base}")
    group["lr_scale"] = group["lr_scale"] * float(group["lr"]) / float(base)
    group["lr"] = now
    if group["rule"] == "matrix":
        group["base_lr"] = float(base)
