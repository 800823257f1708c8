"""Parameter groups for one optimizer: matrices to the matrix rule, the rest to AdamW."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from polargrad.optim.routing.roles import Assignment, assign

__all__ = ["param_groups"]


def param_groups(
    model: nn.Module,
    *,
    vector_lr: float | None = None,
    vector_betas: tuple[float, float] | None = None,
    vector_eps: float | None = None,
    vector_weight_decay: float | None = None,
    roles: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    r"""Sort the trainable parameters of a model into groups for one optimizer.

    Hidden matrices and convolutions go to the matrix rule; embeddings, output heads, tied pairs,
    vectors and scalars to AdamW with a learning rate of its own. Roles are found from module types,
    ties and widths; ``print(polargrad.explain(model))`` shows each of them with its reason.

    Args:
        model: any module; every trainable parameter lands in exactly one group.
        vector_lr: AdamW's learning rate. It has the unit of a parameter, not that of PolarGrad's
            ``lr``, and is never taken from it. None, here and below, leaves it to the optimizer
            (1e-3 unless it is told otherwise).
        vector_betas: AdamW's betas.
        vector_eps: AdamW's eps.
        vector_weight_decay: AdamW's decoupled weight decay.
        roles: your own roles, from patterns on parameter names to role names
            (see :func:`polargrad.optim.routing.assign`); the first match wins.

    Returns:
        Groups for ``polargrad.PolarGrad`` or ``polargrad.Muon``, with parameter names.

    Warns:
        UserWarning: if matrices of module types not known here are taken as hidden matrices.

    Raises:
        TypeError: if ``model`` is not a module, or ``roles`` no mapping.
        ValueError: if the model has no hidden matrix, a pattern matches nothing, or a role is
            unknown.

    Example:
        >>> import polargrad as pg
        >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> [(g["rule"], g["roles"]) for g in pg.param_groups(model)]
        [('matrix', ['hidden matrix']), ('adamw', ['vector', 'head', 'vector'])]
    """
    assignments = assign(model, roles)
    matrices = [a for a in assignments if a.rule == "matrix"]
    others = [a for a in assignments if a.rule == "adamw"]
    if not matrices:
        seen = ", ".join(f"{a.name} {tuple(a.parameter.shape)} ({a.role})" for a in assignments[:4])
        raise ValueError(
            f"model has no hidden matrix among its {len(assignments)} trainable parameters "
            f"({seen or 'none'}): use torch.optim.AdamW, or name one with roles="
        )
    _warn_of_guesses(matrices)
    groups = [_group("matrix", matrices)]
    if others:
        group = _group("adamw", others)
        given = {
            "lr": vector_lr,
            "betas": vector_betas,
            "eps": vector_eps,
            "weight_decay": vector_weight_decay,
        }
        group.update({key: value for key, value in given.items() if value is not None})
        groups.append(group)
    return groups


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


def _group(rule: str, assignments: list[Assignment]) -> dict[str, Any]:
    """One group of plain data; lists run parallel to ``params``."""
    return {
        "params": [(a.name, a.parameter) for a in assignments],
        "rule": rule,
        "roles": [a.role for a in assignments],
        "views": [a.view for a in assignments],
        "reasons": [a.reason for a in assignments],
    }
