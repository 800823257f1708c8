"""Saved states: checked against the parameters before they are loaded, and loaded as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from polargrad.distributed import is_distributed
from polargrad.geometry import geometry
from polargrad.linalg.precision import working_dtype
from polargrad.optim.approximations import Sketch, approximation
from polargrad.optim.buffers import BUFFER, KEPT, buffer_dtype, signal_dtype
from polargrad.optim.entries import count_of
from polargrad.optim.geometry_state import geometry_state
from polargrad.optim.group_members import named_parameters
from polargrad.optim.matrix import STEP
from polargrad.optim.rounds import COUNT
from polargrad.optim.routing.views import logical_shapes
from polargrad.optim.sketches import sketch_shapes
from polargrad.optim.step_size import (
    EVIDENCE,
    GIVEN,
    LAST,
    LAST_DTYPE,
    LOOK,
    NORM,
    PAIR,
    REACH,
    SIZE,
    evidence_columns,
)
from polargrad.optim.vector import STATE

__all__ = ["OF_ITS_SHAPE", "SKIPPED", "check_loadable", "in_our_order", "migrate", "restore"]

# What DistributedDataParallel puts in front of every name, and torch.compile anywhere.
DATA_PARALLEL, COMPILED = "module.", "_orig_mod"
# The lists of a group that have one entry for each parameter.
PARALLEL = ("params", "param_names", "roles", "views", "reasons")
# The state that has the shape of its parameter, and is sharded as it is.
OF_ITS_SHAPE = (BUFFER, LAST, KEPT, *STATE)
# What the host reads at every step.
ON_HOST = (COUNT,)
# The key of a saved group under which the number of skipped steps is kept.
SKIPPED = "skipped_steps"


def in_our_order(optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """Return a state whose parameters stand in the order of ours, where both have names.

    Raises:
        ValueError: if the names of a group are others than ours: by position alone the momentum of
            one parameter could go to another of its shape.
    """
    if len(optimizer.param_groups) != len(state_dict["param_groups"]):
        return state_dict  # refused by those who look at groups
    groups = []
    bare, other_bare = _bare(optimizer.param_groups), _bare(state_dict["param_groups"])
    for group, saved in zip(optimizer.param_groups, state_dict["param_groups"], strict=True):
        ours, theirs = list(group.get("param_names") or ()), list(saved.get("param_names") or ())
        if sorted(ours) != sorted(theirs):  # what wrappers add does not count
            ours = [bare[name] for name in ours]
            theirs = [other_bare[name] for name in theirs]
        if ours and theirs and sorted(ours) != sorted(theirs):
            mine, other = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
            raise ValueError(
                "state_dict is of another model: it holds the parameters "
                f"{', '.join(other[:3]) or 'of another group'}, this optimizer "
                f"{', '.join(mine[:3]) or 'others'}. To load it all the same, rename "
                "state_dict['param_groups'][...]['param_names']"
            )
        if ours and theirs and ours != theirs:
            order = [theirs.index(name) for name in ours]
            lists = {key: saved[key] for key in PARALLEL if key in saved}
            saved = saved | {key: [held[i] for i in order] for key, held in lists.items()}
        groups.append(saved)
    return {**state_dict, "param_groups": groups}


def _bare(groups: Sequence[dict[str, Any]]) -> dict[str, str]:
    """For each name the one without what wrappers add; itself where two would become one."""
    full = [name for group in groups for name in group.get("param_names") or ()]
    bare = [".".join(part for part in name.split(".") if part != COMPILED) for name in full]
    while bare and all(name.startswith(DATA_PARALLEL) for name in bare):
        bare = [name.removeprefix(DATA_PARALLEL) for name in bare]
    return dict(zip(full, bare if len(set(bare)) == len(full) else full, strict=True))


def check_loadable(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    """Raise ValueError unless the state is one of parameters like those of the optimizer."""
    mine = [(g["rule"], len(g["params"])) for g in optimizer.param_groups]
    theirs = [(g.get("rule"), len(g["params"])) for g in state_dict["param_groups"]]
    if mine != theirs:
        foreign = any(rule is None for rule, _ in theirs)
        raise ValueError(
            f"state_dict has the groups (rule, parameters) {theirs}, this optimizer {mine}"
            + (": for the state of another optimizer see polargrad.optim.convert_state" * foreign)
        )
    for group, saved in zip(optimizer.param_groups, state_dict["param_groups"], strict=True):
        for (name, _), ours, view in zip(
            named_parameters(group), group["views"], saved["views"], strict=True
        ):
            if _current(ours) != _current(view):
                raise ValueError(
                    f"state_dict is of another model or other roles: parameter {name} has the "
                    f"view {view} there, {ours} here"
                )
    for saved_id, _, saved, place, (name, parameter) in _members(optimizer, state_dict):
        expected = {key: tuple(x.shape) for key, x in _expected(saved, place, parameter).items()}
        for key, value in state_dict["state"].get(saved_id, {}).items():
            if not isinstance(value, Tensor) or key not in expected:
                continue
            if tuple(value.shape) != expected[key]:
                raise ValueError(
                    f"state_dict is of another model: {key} of parameter {name} has shape "
                    f"{tuple(value.shape)}, that of the parameter here {expected[key]}"
                )


def _current(view: dict[str, Any]) -> dict[str, Any]:
    """A view under today's name: the experts of version 0.1 were a stack."""
    return {**view, "kind": "experts"} if view.get("kind") == "stack" else view


def _expected(group: dict[str, Any], place: int, parameter: Tensor) -> dict[str, Tensor]:
    """The state that a parameter has, without its numbers: what is allowed of a loaded one."""
    # Of the whole shape, also where processes hold parts of it.
    example = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
    if group["rule"] == "adamw":
        return dict.fromkeys(STATE, example.to(working_dtype(parameter.dtype)))
    form, view = geometry(group.get("geometry", "spectral")), group["views"][place]
    options = {"state_dtype": None, "momentum": 0.0, "order": "momentum-first"} | group
    counted = torch.empty(count_of(parameter, view), dtype=torch.float32, device="meta")
    shapes = logical_shapes(view, tuple(parameter.shape)) if parameter.numel() else []
    numbers = sum(m + n for m, n in shapes)
    averaged = example.to(buffer_dtype(options, parameter))
    return {
        BUFFER: averaged,
        LAST: example.to(LAST_DTYPE),
        KEPT: example.to(signal_dtype(options, parameter)),
        COUNT: torch.empty((), dtype=torch.float32, device="meta"),
        **dict.fromkeys((STEP, SIZE, REACH, LOOK, NORM), counted),
        PAIR: torch.empty(numbers, dtype=torch.float32, device="meta"),
        EVIDENCE: counted[:, None].expand(-1, len(evidence_columns(options))),
        **geometry_state(form, example, view),
        **_expected_sketch(options, parameter, view),
    }


def _expected_sketch(
    group: dict[str, Any], parameter: Tensor, view: dict[str, Any]
) -> dict[str, Tensor]:
    """The factors of sketches that a parameter has."""
    found = approximation(group.get("approximation"))
    if not isinstance(found, Sketch):
        return {}
    shapes, dtype = sketch_shapes(found, parameter, view), signal_dtype(group, parameter)
    return {key: torch.empty(shape, dtype=dtype, device="meta") for key, shape in shapes.items()}


def restore(optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
    """Undo what torch does to a loaded state: it casts to the dtype of the parameter.

    Every tensor takes the dtype that the optimizer itself gives it: momentum and the moments of
    AdamW float32 at least, what a geometry accumulates float64.
    """
    for saved_id, group, _, place, (_, parameter) in _members(optimizer, state_dict):
        expected = _expected(group, place, parameter)
        for key, value in state_dict["state"].get(saved_id, {}).items():
            if key == STEP and not isinstance(value, Tensor):  # as old versions of torch saved it
                shape = expected[STEP].shape if STEP in expected else ()
                value = torch.full(shape, float(value))
            if not isinstance(value, Tensor):
                continue
            dtype = expected[key].dtype if key in expected else value.dtype
            device = "cpu" if key in ON_HOST else parameter.device
            value = value.to(device, dtype, copy=True)
            if key in OF_ITS_SHAPE:
                value = _placed_as(parameter, value)
            # torch's fused kernel is wrong for moments that are not (see vector.py).
            plain = key in STATE and group["rule"] == "adamw"
            optimizer.state[parameter][key] = value.contiguous() if plain else value


def _placed_as(parameter: Tensor, value: Tensor) -> Tensor:
    """A tensor of the shape of a parameter, sharded as the parameter is, or whole beside it.

    Only a DTensor of another placement is sent anywhere; then all its processes load together.
    """
    if not (is_distributed(parameter) or is_distributed(value)):
        return value
    mesh, placements = _placement(parameter)
    if _placement(value) == (mesh, placements):
        return value
    if is_distributed(value):
        value = value.full_tensor()  # type: ignore[attr-defined]
    if mesh is None:
        return value
    from torch.distributed.tensor import distribute_tensor

    placed: Tensor = distribute_tensor(value, mesh, placements, src_data_rank=None)
    return placed


def _placement(x: Tensor) -> tuple[Any, Any]:
    """Mesh and placements of a DTensor, nothing of another."""
    return getattr(x, "device_mesh", None), getattr(x, "placements", None)


def migrate(group: dict[str, Any], defaults: dict[str, Any]) -> None:
    """Complete a loaded group: what an older version did not have is as in this optimizer."""
    group.setdefault("step_size", GIVEN)  # before it could be found
    for key, value in defaults.items():
        group.setdefault(key, value)
    if group.get("magnitude") == "nuclear":  # the dual norm of what was the only norm
        group["magnitude"] = "dual_norm"


def _members(
    optimizer: Optimizer, state_dict: dict[str, Any]
) -> Iterator[tuple[int, dict[str, Any], dict[str, Any], int, tuple[str, Tensor]]]:
    """Saved identifier, group, saved group, position in it, and name with parameter, in order."""
    for group, saved in zip(optimizer.param_groups, state_dict["param_groups"], strict=True):
        named = named_parameters(group)
        for place, (saved_id, pair) in enumerate(zip(saved["params"], named, strict=True)):
            yield saved_id, group, saved, place, pair
