"""What happens to each parameter, as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from polargrad.linalg import label
from polargrad.linalg.precision import working_dtype
from polargrad.optim.resolve import resolve
from polargrad.optim.routing.roles import assign
from polargrad.optim.routing.views import logical_shape

__all__ = ["Explanation", "Row", "explain"]


@dataclass(frozen=True)
class Row:
    """One parameter.

    Attributes:
        name: its qualified name, or ``group 0, parameter 1`` where the optimizer has no names.
        role: what it is.
        matrices: its logical matrices, ``"3 × 512×512"``, or its shape under the vector rule.
        rule: who steps it, with the method of the polar factor.
        lr: its learning rate, None where no optimizer has been made yet.
        weight_decay: its decay, likewise.
        reason: why.
        numel: how many numbers it holds.
    """

    name: str
    role: str
    matrices: str
    rule: str
    lr: float | None
    weight_decay: float | None
    reason: str
    numel: int


@dataclass(frozen=True)
class Explanation:
    """The rows, one a parameter; ``str`` gives the table, ``rows`` and ``to_dict`` the data."""

    rows: tuple[Row, ...]

    def to_dict(self) -> list[dict[str, Any]]:
        """Return the rows as plain data."""
        return [dataclasses.asdict(row) for row in self.rows]

    def __str__(self) -> str:
        header = ("parameter", "role", "matrices", "rule", "lr", "decay", "why")
        cells = [
            (r.name, r.role, r.matrices, r.rule, _number(r.lr), _number(r.weight_decay), r.reason)
            for r in self.rows
        ]
        widths = [max(len(row[i]) for row in (header, *cells)) for i in range(len(header))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (header, tuple("-" * w for w in widths), *cells)
        ]
        return "\n".join([*lines, self.total])

    @property
    def total(self) -> str:
        """How much of the model the matrix rule steps, in one line."""
        every = sum(row.numel for row in self.rows)
        matrix = sum(row.numel for row in self.rows if not row.rule.startswith("AdamW"))
        share = f", {matrix / every:.0%}" if every else ""
        return f"matrix rule: {_count(matrix)} of {_count(every)} parameters{share}"


def explain(
    model_or_optimizer: nn.Module | Optimizer, *, roles: Mapping[str, str] | None = None
) -> Explanation:
    """Say for every trainable parameter what it is, which matrices it holds, who steps it and why.

    Of a model: what :func:`polargrad.param_groups` would do with it. Of one of our optimizers: what
    it does, with learning rates, decays and the method of the polar factor.

    Args:
        model_or_optimizer: a module, or ``PolarGrad``, ``Muon`` or ``MatrixOptimizer``.
        roles: as in ``param_groups``; for a model only.

    Raises:
        TypeError: for anything else.

    Example:
        >>> import polargrad as pg
        >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> print(pg.explain(model).total)
        matrix rule: 64 of 131 parameters, 49%
    """
    if isinstance(model_or_optimizer, Optimizer):
        if roles is not None:
            raise TypeError("roles are given to param_groups; an optimizer already has them")
        return Explanation(tuple(_optimizer_rows(model_or_optimizer)))
    rows = [
        Row(
            name=a.name,
            role=a.role,
            matrices=_matrices(a.rule, a.view, a.parameter),
            rule="matrix" if a.rule == "matrix" else "AdamW",
            lr=None,
            weight_decay=None,
            reason=a.reason,
            numel=a.parameter.numel(),
        )
        for a in assign(model_or_optimizer, roles)
    ]
    return Explanation(tuple(rows))


def _optimizer_rows(optimizer: Optimizer) -> list[Row]:
    rows = []
    for number, group in enumerate(optimizer.param_groups):
        if "rule" not in group:
            raise TypeError(f"explain knows polargrad's optimizers, got {type(optimizer).__name__}")
        names = group.get("param_names") or [
            f"group {number}, parameter {i}" for i in range(len(group["params"]))
        ]
        columns = zip(
            names, group["params"], group["roles"], group["views"], group["reasons"], strict=True
        )
        for name, parameter, role, view, reason in columns:
            rows.append(
                Row(
                    name=name,
                    role=role,
                    matrices=_matrices(group["rule"], view, parameter),
                    rule=_rule(group, view, parameter),
                    lr=float(group["lr"]),
                    weight_decay=_decay(group),
                    reason=reason,
                    numel=parameter.numel(),
                )
            )
    return rows


def _matrices(rule: str, view: Mapping[str, Any], parameter: Tensor) -> str:
    """The logical matrices, ``3 × 512×512``, or the plain shape of what is no matrix."""
    if rule != "matrix":
        return "×".join(map(str, parameter.shape)) or "scalar"
    count, rows, columns = logical_shape(view, tuple(parameter.shape))
    return f"{rows}×{columns}" if count == 1 else f"{count} × {rows}×{columns}"


def _rule(group: dict[str, Any], view: Mapping[str, Any], parameter: Tensor) -> str:
    """AdamW, or the magnitude and the method of the polar factor."""
    if group["rule"] == "adamw":
        return "AdamW"
    _, m, n = logical_shape(view, tuple(parameter.shape))
    example = torch.empty(m, n, dtype=working_dtype(parameter.dtype), device=parameter.device)
    return f"{group['magnitude']} × {label(resolve(group, example))}"


def _decay(group: Mapping[str, Any]) -> float:
    """The decay of a group: for matrices the second form, where the first is not given."""
    own = float(group["weight_decay"])
    return own or (float(group["decay_per_step"]) if group["rule"] == "matrix" else 0.0)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _count(value: int) -> str:
    """A number of parameters: 84.9 M, 12.3 k, 131."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return str(value)
