"""Parameter groups for one optimizer: each role by its rule, one group for equal options."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from polargrad.optim.routing.overrides import RoleRules
from polargrad.optim.routing.policies import MATRIX_OPTIONS, VECTOR_OPTIONS, Policy, has_own_unit
from polargrad.optim.routing.roles import FLATTENED, ROLES, Assignment, assign

__all__ = ["param_groups"]


def param_groups(
    model: nn.Module,
    *,
    policy: str | Policy | Mapping[str, Mapping[str, Any]] = "muon",
    per_head: bool = False,
    lrs: Mapping[str, float | Tensor] | None = None,
    vector_lr: float | Tensor | None = None,
    vector_betas: tuple[float, float] | None = None,
    vector_eps: float | None = None,
    vector_weight_decay: float | None = None,
    roles: RoleRules | None = None,
) -> list[dict[str, Any]]:
    r"""Sort the trainable parameters of a model into groups for one optimizer.

    With the default policy hidden matrices and convolutions go to the matrix rule; embeddings,
    output heads, tied pairs, routers, vectors and scalars to AdamW with a learning rate of its own.
    Roles are found from module types, ties, shapes and places;
    ``print(polargrad.explain(model))`` shows each of them with its reason.

    Args:
        model: any module; every trainable parameter lands in exactly one group.
        policy: which rule steps which role: ``"muon"`` (the default), ``"paper"``,
            ``"paper-embedding"``, ``"symmetry"``, ``"symmetry-runs"``
            (:mod:`polargrad.optim.routing.policies` has their table), or a mapping from roles to
            entries that changes Muon's.
        per_head: take attention's projections apart by heads where these are known.
        lrs: learning rates by role. A role that a policy steps in another geometry or magnitude
            than the optimizer's own needs one, because its unit is another.
        vector_lr: AdamW's learning rate. It has the unit of a parameter, not that of PolarGrad's
            ``lr``, and is never taken from it. None, here and below, leaves it to the optimizer
            (1e-3 unless it is told otherwise).
        vector_betas: AdamW's betas.
        vector_eps: AdamW's eps.
        vector_weight_decay: AdamW's decoupled weight decay.
        roles: your own word: a mapping, or a list of pairs, from patterns on parameter names (as in
            :mod:`fnmatch`), module classes, or functions ``(name, module, parameter) -> bool``, to
            a role name or a dict with ``"role"``, ``"view"``, ``"rule"`` or options of the group
            such as ``"lr"``. The first match wins.

    Returns:
        Groups for one optimizer of polargrad, with parameter names: those of the optimizer's own
        rule first, AdamW's last.

    Warns:
        UserWarning: if matrices of module types not known here are taken as hidden matrices.

    Raises:
        TypeError: if ``model`` is not a module, or ``roles`` neither mapping nor list of pairs.
        ValueError: if the model has no hidden matrix, or a weight that was flattened; if a pattern
            matches nothing, a role or an option is unknown, or a role needs a learning rate.

    Example:
        >>> import polargrad as pg
        >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> [(g["rule"], g["roles"]) for g in pg.param_groups(model)]
        [('matrix', ['hidden matrix']), ('adamw', ['vector', 'head', 'vector'])]
    """
    assignments = assign(model, roles, policy=policy, per_head=per_head)
    _check_matrices(assignments)
    _warn_of_guesses([a for a in assignments if a.rule == "matrix"])
    _check_lrs(assignments, lrs or {})
    vector = {
        "lr": vector_lr,
        "betas": vector_betas,
        "eps": vector_eps,
        "weight_decay": vector_weight_decay,
    }
    given = {key: value for key, value in vector.items() if value is not None}
    sorted_in: dict[str, tuple[dict[str, Any], list[Assignment]]] = {}
    for a in assignments:
        options = {**(given if a.rule == "adamw" else {}), **_lr(a, lrs or {}), **a.options}
        _check_options(a, options)
        # A tensor that holds a learning rate is meant as itself, whatever it holds now.
        shown = {k: id(v) if isinstance(v, Tensor) else v for k, v in options.items()}
        key = repr((a.rule, sorted(shown.items(), key=lambda item: item[0])))
        sorted_in.setdefault(key, ({"rule": a.rule, **options}, []))[1].append(a)
    groups = [_group(options, members) for options, members in sorted_in.values()]
    plain = {"rule", "params", "roles", "views", "reasons"}
    # The optimizer's own rule first, AdamW last; between them as the model has them.
    return sorted(groups, key=lambda g: (g["rule"] == "adamw", not g.keys() <= plain))


def _check_matrices(assignments: list[Assignment]) -> None:
    """Raise ValueError if the matrix rule would step nothing, or if a matrix was flattened away."""
    if not any(a.rule == "matrix" for a in assignments):
        seen = ", ".join(f"{a.name} {tuple(a.parameter.shape)} ({a.role})" for a in assignments[:4])
        raise ValueError(
            f"model has no hidden matrix among its {len(assignments)} trainable parameters "
            f"({seen or 'none'}): use torch.optim.AdamW, or name one with roles="
        )
    for a in assignments:
        if a.reason == FLATTENED:
            raise ValueError(
                f"parameter {a.name} of shape {tuple(a.parameter.shape)} is the weight of a matrix "
                "that has been flattened or partitioned away: use fully_shard (FSDP2), "
                "DistributedDataParallel or ZeRO up to stage 2, or say roles="
                f"{{{a.name!r}: 'vector'}}"
            )


def _check_lrs(assignments: list[Assignment], lrs: Mapping[str, Any]) -> None:
    """Raise ValueError for a learning rate of no role here, or a role that lacks one."""
    present = {a.role for a in assignments}
    for role in lrs:
        if role not in ROLES:
            raise ValueError(f"lrs: a role must be one of {', '.join(ROLES)}, got {role!r}")
        if role not in present:
            raise ValueError(f"lrs: no trainable parameter is a {role}; there are {present}")
    for a in assignments:
        known = "lr" in a.options or a.role in lrs
        if a.rule == "matrix" and has_own_unit(a.options) and not known:
            raise ValueError(
                f"lrs: {a.name} is a {a.role}, stepped by {_own(a.options)} in a unit that is not "
                f"that of the optimizer's lr: give lrs={{{a.role!r}: …}}"
            )


def _own(options: Mapping[str, Any]) -> str:
    """What makes the unit of a group its own."""
    form = options.get("geometry")
    name = form.get("inner", form).get("name") if isinstance(form, Mapping) else form
    parts = [str(part) for part in (name, options.get("magnitude")) if part]
    return " with magnitude ".join(parts) or "options of its own"


def _lr(a: Assignment, lrs: Mapping[str, Any]) -> dict[str, Any]:
    """The learning rate of a role, if one was given."""
    return {"lr": lrs[a.role]} if a.role in lrs else {}


def _check_options(a: Assignment, options: Mapping[str, Any]) -> None:
    """Raise ValueError for an option that groups of this rule do not have."""
    allowed = MATRIX_OPTIONS if a.rule == "matrix" else VECTOR_OPTIONS
    strange = sorted(set(options) - set(allowed))
    if strange:
        raise ValueError(
            f"roles: {a.name} is a {a.role} under the rule {a.rule!r}, which has no option "
            f"{', '.join(strange)}; it has {', '.join(allowed)}"
        )


def _warn_of_guesses(matrices: list[Assignment]) -> None:
    """Warn of matrices in modules of unknown types: one might be a table of positions, say."""
    guessed = [a for a in matrices if a.role == "unknown matrix"]
    if guessed:
        names = ", ".join(a.name for a in guessed[:4]) + (", …" if len(guessed) > 4 else "")
        warnings.warn(
            f"{names}: 2-D parameters of modules whose types are not known here, taken as hidden "
            f"matrices ({len(guessed)} of {len(matrices)}). Say what they are: "
            f"param_groups(model, roles={{{guessed[0].name!r}: 'hidden matrix'}})",
            stacklevel=3,
        )


def _group(options: dict[str, Any], assignments: list[Assignment]) -> dict[str, Any]:
    """One group of plain data; lists run parallel to ``params``."""
    return {
        "params": [(a.name, a.parameter) for a in assignments],
        "roles": [a.role for a in assignments],
        "views": [a.view for a in assignments],
        "reasons": [a.reason for a in assignments],
        **options,
    }
