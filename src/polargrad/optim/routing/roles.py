"""What each parameter is: found from module types, ties and widths, never from names."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from polargrad.optim.routing.heads import find_heads
from polargrad.optim.routing.views import FLATTEN, WHOLE, View, logical_shape, split

__all__ = ["ROLES", "Assignment", "assign"]

# Role → rule. Only hidden matrices take the matrix rule: the gradient of an embedding has a row for
# each token and most of them are zero, a head's is nearly as lopsided, and a vector has no factor.
ROLES: dict[str, str] = {
    "hidden matrix": "matrix",
    "convolution": "matrix",
    "unknown matrix": "matrix",
    "embedding": "adamw",
    "head": "adamw",
    "tied embedding": "adamw",
    "vector": "adamw",
    "other": "adamw",
}
GATES: dict[type[nn.Module], int] = {nn.LSTM: 4, nn.GRU: 3, nn.LSTMCell: 4, nn.GRUCell: 3}


@dataclass(frozen=True)
class Assignment:
    """One trainable parameter: what it is, which logical matrices it holds, who steps it, and why.

    Attributes:
        name: its qualified name.
        parameter: the parameter itself.
        role: a key of ``ROLES``.
        view: its logical matrices, as plain data.
        reason: how the role was found, in a few words.
    """

    name: str
    parameter: Tensor
    role: str
    view: View
    reason: str

    @property
    def rule(self) -> str:
        """``"matrix"`` or ``"adamw"``."""
        return ROLES[self.role]


@dataclass(frozen=True)
class Use:
    """One place where a module holds a parameter, itself or through a parametrization."""

    module: nn.Module
    attribute: str
    name: str
    parameter: Tensor


def assign(model: nn.Module, roles: Mapping[str, str] | None = None) -> list[Assignment]:
    """Return one assignment for every trainable parameter of ``model``, each exactly once.

    Args:
        model: any module.
        roles: the user's own roles, from patterns on qualified names (as in :mod:`fnmatch`) to
            keys of ``ROLES``; the first match wins.

    Raises:
        TypeError: if ``model`` is not a module, or ``roles`` no mapping.
        ValueError: for a pattern that matches no parameter, an unknown role, or a matrix role for
            something that is not a matrix.

    Example:
        >>> model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 8), nn.Linear(8, 10))
        >>> [(a.name, a.role) for a in assign(model) if a.parameter.ndim > 1]
        [('0.weight', 'embedding'), ('1.weight', 'hidden matrix'), ('2.weight', 'head')]
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if not isinstance(roles, Mapping | None):
        raise TypeError(f"roles must map patterns to roles, got {roles!r}")
    heads = find_heads(model)
    found = []
    for uses in _trainable(model):
        role, view, reason = _role(uses, uses[0].parameter, heads)
        found.append(Assignment(uses[0].name, uses[0].parameter, role, view, reason))
    return _override(found, roles or {})


def _trainable(model: nn.Module) -> Iterator[list[Use]]:
    """Yield the uses of each trainable parameter; parameters of one storage are tied."""
    uses: dict[object, list[Use]] = {}
    for use in _uses(model):
        uses.setdefault(_identity(use.parameter), []).append(use)
    # A parameter that is held twice as one object is stepped once; two objects on one storage are
    # two parameters for torch, and each is listed with the uses of both.
    for parameter in model.parameters():
        if parameter.requires_grad:
            every = uses[_identity(parameter)]
            own = [use for use in every if use.parameter is parameter]
            yield own + [use for use in every if use.parameter is not parameter]


def _uses(model: nn.Module) -> Iterator[Use]:
    """Yield every place where a module holds a parameter."""
    modules = dict(model.named_modules())
    for path, module in modules.items():
        for attribute, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{attribute}" if path else attribute
            if isinstance(module, ParametrizationList):  # "….parametrizations.weight", of "…"
                owner, _, tensor = path.rpartition("parametrizations.")
                yield Use(modules[owner.removesuffix(".")], tensor, name, parameter)
            else:
                yield Use(module, attribute, name, parameter)


def _identity(parameter: Tensor) -> object:
    """What makes two parameters the same memory: storage, offset and shape."""
    if parameter.is_meta or parameter.numel() == 0 or hasattr(parameter, "device_mesh"):
        return id(parameter)
    storage = parameter.untyped_storage().data_ptr()
    return (parameter.device, storage, parameter.storage_offset(), tuple(parameter.shape))


def _role(
    uses: list[Use], parameter: Tensor, heads: Mapping[nn.Module, str]
) -> tuple[str, View, str]:
    """Role, view and reason of a parameter that is used in these places."""
    if type(parameter).__name__ == "FlatParameter":
        raise ValueError(
            f"parameter {uses[0].name} is a FlatParameter: FSDP1 has flattened its matrices away. "
            "Use fully_shard (FSDP2) or DistributedDataParallel"
        )
    if parameter.ndim < 2:
        return "vector", WHOLE, f"{parameter.ndim}-D"
    embedded = any(isinstance(use.module, nn.Embedding | nn.EmbeddingBag) for use in uses)
    if embedded and len(uses) > 1:
        others = ", ".join(use.name for use in uses[1:])
        return "tied embedding", WHOLE, f"shared with {others}"
    if embedded:
        return "embedding", WHOLE, type(uses[0].module).__name__
    for use in uses:
        if use.module in heads:
            return "head", WHOLE, heads[use.module]
    role, view, reason = _by_module(uses[0], parameter)
    if ROLES[role] != "matrix":
        return role, view, reason
    _, rows, columns = logical_shape(view, tuple(parameter.shape))
    if min(rows, columns) < 2:
        return "vector", WHOLE, f"{rows} × {columns}: one row or column has no polar factor to use"
    return role, view, reason


def _by_module(use: Use, parameter: Tensor) -> tuple[str, View, str]:
    """Role, view and reason from the type of the module that holds the parameter."""
    module, kind = use.module, type(use.module).__name__
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        if module.groups > 1:
            return "other", WHOLE, f"{kind} of {module.groups} groups"
        return "convolution", FLATTEN, f"{kind}: outputs × (inputs · taps)"
    if parameter.ndim > 2:
        return "other", WHOLE, f"{parameter.ndim}-D parameter of {kind}, layout unknown"
    if isinstance(module, nn.Linear):
        return "hidden matrix", WHOLE, kind
    if isinstance(module, nn.MultiheadAttention) and use.attribute == "in_proj_weight":
        return "hidden matrix", split(3), f"{kind}: query, key and value in one"
    gates = next((count for type_, count in GATES.items() if isinstance(module, type_)), 1)
    if gates > 1 and parameter.shape[0] % gates == 0 and not use.attribute.startswith("weight_hr"):
        return "hidden matrix", split(gates), f"{kind}: {gates} gates in one"
    if kind == "Conv1D" and getattr(module, "nf", None) == parameter.shape[1]:
        if parameter.shape[1] == 3 * parameter.shape[0]:
            return "hidden matrix", split(3, transpose=True), f"{kind}: query, key and value in one"
        return "hidden matrix", {**WHOLE, "transpose": True}, f"{kind}: stored (inputs, outputs)"
    if isinstance(module, nn.MultiheadAttention | nn.RNNBase | nn.RNNCellBase):
        return "hidden matrix", WHOLE, kind
    return "unknown matrix", WHOLE, f"2-D parameter of {kind}, a type not known here"


def _override(found: list[Assignment], roles: Mapping[str, str]) -> list[Assignment]:
    """Apply the user's patterns; the first that matches wins."""
    matched: set[str] = set()
    result = []
    for assignment in found:
        for pattern, role in roles.items():
            if fnmatch.fnmatchcase(assignment.name, pattern):
                matched.add(pattern)
                result.append(_reassign(assignment, pattern, role))
                break
        else:
            result.append(assignment)
    for pattern in roles:
        if pattern not in matched:
            raise ValueError(
                f"roles: the pattern {pattern!r} matches no trainable parameter that an earlier "
                f"pattern has not taken; there are {', '.join(a.name for a in found[:5])}, …"
            )
    return result


def _reassign(assignment: Assignment, pattern: str, role: str) -> Assignment:
    """The assignment with the user's role, checked against its shape."""
    if role not in ROLES:
        raise ValueError(f"roles: {pattern!r} must be one of {', '.join(ROLES)}, got {role!r}")
    shape = tuple(assignment.parameter.shape)
    view = assignment.view
    if ROLES[role] == "matrix" and len(shape) != 2 and view["kind"] == "whole":
        if role != "convolution" or len(shape) < 3:
            raise ValueError(
                f"roles: {pattern!r} makes {assignment.name} of shape {shape} a {role}, "
                "which needs two dimensions"
            )
        view = FLATTEN
    return replace(assignment, role=role, view=view, reason=f"roles[{pattern!r}]")
