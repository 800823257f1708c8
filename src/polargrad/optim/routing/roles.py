"""What each parameter is: found from module types, ties, shapes and places, never from its name."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from polargrad.optim.routing.experts import find_experts
from polargrad.optim.routing.heads import EMBEDDINGS, find_heads
from polargrad.optim.routing.layouts import CONVOLUTIONS, adapter_layout, by_module
from polargrad.optim.routing.overrides import RoleRules, Told, parse, tell
from polargrad.optim.routing.policies import Policy, named_policy
from polargrad.optim.routing.uses import Finding, Use, trainable
from polargrad.optim.routing.views import FLATTEN, WHOLE, check, experts, logical_shapes, split

__all__ = ["ROLES", "Assignment", "assign"]

ROLES: dict[str, str] = {
    "hidden matrix": "a linear map between hidden features",
    "fused QKV": "query, key and value in one parameter, its parts taken apart",
    "attention heads": "a projection of attention, one matrix for each head",
    "gate/up": "a first map of a gated feed-forward part; gate and up in one are taken apart",
    "down": "the last map of a gated feed-forward part",
    "stacked experts": "one matrix for each expert, in one parameter",
    "expert gate/up": "stacked experts of which it is known that they are gate and up",
    "expert down": "stacked experts of which it is known that they are the last map",
    "router": "one row for each expert",
    "low-rank adapter": "a factor of a matrix's change (LoRA)",
    "convolution": "outputs × (inputs · taps)",
    "unknown matrix": "two dimensions, in a module of unknown type",
    "embedding": "a table: one row for each token or place",
    "head": "the linear map from which the model's answer comes",
    "tied embedding": "an embedding that is the head too",
    "vector": "one dimension, or one that is not 1",
    "scalar": "one number",
    "other": "more than two dimensions of unknown layout",
}
# What has no rows and columns to take apart.
NO_MATRIX = ("vector", "scalar", "other")
TABLES = ("embedding", "head", "tied embedding")
# What the shapes of neighbours may say better than the module's own type.
VAGUE = ("other", "unknown matrix", "hidden matrix")
FLATTENED = "1-D weight: its matrix has been flattened or partitioned away"


@dataclass(frozen=True)
class Assignment:
    """One trainable parameter: what it is, which logical matrices it holds, who steps it, and why.

    Attributes:
        name: its qualified name.
        parameter: the parameter itself.
        role: a key of ``ROLES``.
        view: its logical matrices, as plain data.
        reason: how the role was found, in a few words.
        rule: ``"matrix"`` or ``"adamw"``.
        options: what its group says beside that, plain data.
    """

    name: str
    parameter: Tensor
    role: str
    view: dict[str, Any]
    reason: str
    rule: str
    options: dict[str, Any] = field(default_factory=dict)


def assign(
    model: nn.Module,
    roles: RoleRules | None = None,
    *,
    policy: str | Policy | Mapping[str, Mapping[str, Any]] = "muon",
    per_head: bool = False,
) -> list[Assignment]:
    """Return one assignment for every trainable parameter of ``model``, each exactly once.

    Args:
        model: any module.
        roles: the user's own word, as in :func:`polargrad.param_groups`.
        policy: which rule steps which role, likewise.
        per_head: whether attention's projections are taken apart by heads where these are known.

    Raises:
        TypeError: if ``model`` is not a module, or ``roles`` neither mapping nor list of pairs.
        ValueError: for a pattern that matches no parameter, an unknown role or policy, or a matrix
            role for something that is not a matrix.

    Example:
        >>> model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 8), nn.Linear(8, 10))
        >>> [(a.name, a.role) for a in assign(model) if a.parameter.ndim > 1]
        [('0.weight', 'embedding'), ('1.weight', 'hidden matrix'), ('2.weight', 'head')]
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    chosen = named_policy(policy, tuple(ROLES))
    rules = parse(roles, tuple(ROLES))
    heads, beside = find_heads(model), find_experts(model)
    every = list(trainable(model))
    found = [_find(uses, heads, beside) for uses in every]
    told = tell(every, rules)
    return [
        _decide(uses, finding, word, chosen, per_head or chosen.per_head)
        for uses, finding, word in zip(every, found, told, strict=True)
    ]


def _find(
    uses: list[Use], heads: Mapping[nn.Module, str], beside: Mapping[int, Finding]
) -> Finding:
    """What a parameter that is used in these places is."""
    parameter = uses[0].parameter
    if type(parameter).__name__ == "FlatParameter":
        raise ValueError(
            f"parameter {uses[0].name} is a FlatParameter: FSDP1 has flattened its matrices away. "
            "Use fully_shard (FSDP2) or DistributedDataParallel"
        )
    if parameter.ndim < 2:
        return _of_few_dimensions(uses[0])
    embedded = any(isinstance(use.module, EMBEDDINGS) for use in uses)
    if embedded and len(uses) > 1:
        others = ", ".join(use.name for use in uses[1:])
        return Finding("tied embedding", WHOLE, f"shared with {others}")
    if embedded:
        return Finding("embedding", WHOLE, type(uses[0].module).__name__)
    near = beside.get(id(parameter))
    if near is not None and near.role == "router":  # its outputs feed no module either
        return near
    for use in uses:
        if use.module in heads and adapter_layout(use) is None:
            return Finding("head", WHOLE, heads[use.module])
    if sum(size != 1 for size in parameter.shape) < 2 and parameter.ndim > 2:
        role = "scalar" if parameter.numel() == 1 else "vector"
        if not isinstance(uses[0].module, CONVOLUTIONS):
            return Finding(role, WHOLE, f"{_shape(parameter)}: one dimension that is not 1")
    return _of_a_matrix(uses[0], beside)


def _of_few_dimensions(use: Use) -> Finding:
    """A parameter of no or one dimension."""
    parameter = use.parameter
    weight = getattr(use.module, "weight", None) is parameter
    if parameter.ndim == 1 and weight and isinstance(use.module, nn.Linear | nn.Embedding):
        return Finding("vector", WHOLE, FLATTENED)
    role = "scalar" if parameter.numel() == 1 else "vector"
    return Finding(role, WHOLE, f"{parameter.ndim}-D")


def _of_a_matrix(use: Use, beside: Mapping[int, Finding]) -> Finding:
    """What module and neighbours say; a vector where no logical matrix has two rows and columns."""
    finding = by_module(use)
    if finding.role in VAGUE:
        finding = beside.get(id(use.parameter), finding)
    if finding.role in NO_MATRIX or finding.role in TABLES:
        return finding
    try:
        shapes = logical_shapes(finding.view, tuple(use.parameter.shape))
    except ValueError as error:
        return Finding("other", WHOLE, f"not what its module should hold: {error}")
    if all(min(shape) < 2 for shape in shapes):
        rows, columns = shapes[0] if shapes else (0, 0)
        reason = f"{rows} × {columns}: one row or column has no polar factor to use"
        return Finding("vector", WHOLE, reason)
    return finding


def _decide(
    uses: list[Use], finding: Finding, told: Told | None, policy: Policy, per_head: bool
) -> Assignment:
    """The assignment of one parameter: what was found, the user's word, and the policy's rule."""
    use, (role, view, reason, by_head) = uses[0], finding
    shape = tuple(use.parameter.shape)
    options: dict[str, Any] = {}
    if per_head and by_head is not None and (told is None or not told.says_what):
        role, view, reason = "attention heads", by_head, f"{reason}; one matrix for each head"
    if told is not None:
        role, view, reason = told.role or role, told.view or view, f"roles[{told.pattern}]"
        options = dict(told.options)
    entry = copy.deepcopy(dict(policy.entries.get(role, {"rule": "adamw"})))
    rule = options.pop("rule", entry.pop("rule"))
    fused = told is not None and told.role == "fused QKV" and told.view is None
    if rule == "adamw":
        entry = {}
    elif told is not None and fused and view == WHOLE and len(shape) > 1:
        view = _three(use.name, shape, told)
    elif view == WHOLE and len(shape) > 2:
        stacked = "expert" in role or role in TABLES
        view = experts() if stacked else FLATTEN if role == "convolution" else view
    if rule == "matrix":
        _check(use.name, shape, role, view, told)
    return Assignment(use.name, use.parameter, role, view, reason, rule, {**entry, **options})


def _three(name: str, shape: tuple[int, ...], told: Told) -> dict[str, Any]:
    """The view of query, key and value in one square each, where nothing else is known."""
    if len(shape) == 2 and shape[0] == 3 * shape[1]:
        return split(3)
    raise ValueError(
        f"roles: {told.pattern} makes {name} of shape {shape} a fused QKV, and does not say where "
        "query, key and value lie: give {'role': 'fused QKV', 'view': split([...])}"
    )


def _check(
    name: str, shape: tuple[int, ...], role: str, view: dict[str, Any], told: Told | None
) -> None:
    """Raise ValueError unless the parameter holds the matrices that its rule will step."""
    try:
        check(view, shape)
    except ValueError as error:
        blame = "" if told is None else f"roles: {told.pattern} makes "
        needs = "which needs two dimensions" if view == WHOLE else str(error)
        raise ValueError(f"{blame}{name} of shape {shape} a {role}, {needs}") from None


def _shape(parameter: Tensor) -> str:
    return " × ".join(map(str, parameter.shape))
