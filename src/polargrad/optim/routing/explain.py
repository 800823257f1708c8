"""What happens to each parameter, as a table."""

from __future__ import annotations

import dataclasses
import html
import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from polargrad.geometry import geometry
from polargrad.linalg import label
from polargrad.linalg.precision import working_dtype
from polargrad.optim.approximations import Sketch, approximation
from polargrad.optim.group_rule import rule_of
from polargrad.optim.memory import stacks_held, step_bytes
from polargrad.optim.resolve import resolve
from polargrad.optim.routing.overrides import RoleRules
from polargrad.optim.routing.policies import Policy
from polargrad.optim.routing.roles import assign
from polargrad.optim.routing.views import logical_shapes
from polargrad.optim.step_size import SIZE, is_found
from polargrad.optim.update_size import update_rms

__all__ = ["Explanation", "Row", "explain"]

HEADER = ("parameter", "role", "matrices", "rule", "lr", "decay", "update", "why")


@dataclass(frozen=True)
class Row:
    """One parameter.

    Attributes:
        name: its qualified name, or ``group 0, parameter 1`` where the optimizer has no names.
        role: what it is.
        matrices: its logical matrices, ``"3 × 512×512"`` or ``"512×512 + 2 × 128×512"``, or its
            shape under the vector rule.
        rule: who steps it, with the method of the polar factor.
        lr: its learning rate, None where no optimizer has been made yet. Where the run finds the
            step size it is the median size of the last step over the matrices of the parameter,
            None before the first.
        weight_decay: its decay, likewise.
        reason: why.
        numel: how many numbers it holds.
        update: the predicted size of an update, the RMS of its entries: ``"0.0006"``, or
            ``"0.003 g"`` for a step that is proportional to the gradient, g the RMS of a gradient
            of independent Gaussian entries (:func:`polargrad.optim.update_rms`); AdamW's is the
            conventional 0.2 lr. Empty where no prediction is known, or no optimizer.
    """

    name: str
    role: str
    matrices: str
    rule: str
    lr: float | None
    weight_decay: float | None
    reason: str
    numel: int
    update: str = ""


@dataclass(frozen=True)
class Explanation:
    """The rows, one a parameter: a table as text and in a notebook, ``to_dict`` as plain data.

    Attributes:
        rows: one a parameter.
        memory: of an optimizer, what a step holds beside parameters, gradients and state.
    """

    rows: tuple[Row, ...]
    memory: str | None = None

    def to_dict(self) -> list[dict[str, Any]]:
        """Return the rows as plain data."""
        return [dataclasses.asdict(row) for row in self.rows]

    def __str__(self) -> str:
        cells = self._cells()
        widths = [max(len(row[i]) for row in (HEADER, *cells)) for i in range(len(HEADER))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (HEADER, tuple("-" * w for w in widths), *cells)
        ]
        return "\n".join([*lines, *self.totals])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in HEADER)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self._cells()
        )
        totals = "<br>".join(html.escape(line) for line in self.totals)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{totals}</p>"

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            (
                *(r.name, r.role, r.matrices, r.rule, _number(r.lr), _number(r.weight_decay)),
                *(r.update, r.reason),
            )
            for r in self.rows
        ]

    @property
    def total(self) -> str:
        """How much of the model the matrix rule steps, in one line."""
        every = sum(row.numel for row in self.rows)
        matrix = sum(row.numel for row in self.rows if not row.rule.startswith("AdamW"))
        return f"matrix rule: {_share(matrix, every)}"

    @property
    def totals(self) -> tuple[str, ...]:
        """The total; before it a line for each rule where there are more than two; memory."""
        every = sum(row.numel for row in self.rows)
        counts: Counter[str] = Counter()
        for row in self.rows:
            counts[row.rule] += row.numel
        each = [f"{rule}: {_share(n, every)}" for rule, n in counts.items()]
        memory = () if self.memory is None else (self.memory,)
        return (*(each if len(counts) > 2 else ()), self.total, *memory)


def explain(
    model_or_optimizer: nn.Module | Optimizer,
    *,
    policy: str | Policy | Mapping[str, Mapping[str, Any]] | None = None,
    per_head: bool | None = None,
    roles: RoleRules | None = None,
) -> Explanation:
    """Say for every trainable parameter what it is, which matrices it holds, who steps it and why.

    Of a model: what :func:`polargrad.param_groups` would do with it. Of one of our optimizers: what
    it does, with learning rates, decays and the method of the polar factor.

    Args:
        model_or_optimizer: a module, or an optimizer of polargrad.
        policy, per_head, roles: as in ``param_groups``; for a model only.

    Raises:
        TypeError: for anything else.

    Example:
        >>> import polargrad as pg
        >>> model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> print(pg.explain(model).total)
        matrix rule: 64 of 131 parameters, 49%
    """
    given = {"policy": policy, "per_head": per_head, "roles": roles}
    if isinstance(model_or_optimizer, Optimizer):
        for name, value in given.items():
            if value is not None:
                raise TypeError(f"{name} are given to param_groups; an optimizer already has them")
        mine = tuple(_optimizer_rows(model_or_optimizer))
        return Explanation(mine, _memory(model_or_optimizer))
    found = assign(
        model_or_optimizer,
        roles,
        policy="muon" if policy is None else policy,
        per_head=bool(per_head),
    )
    rows = [
        Row(
            name=a.name,
            role=a.role,
            matrices=_matrices(a.rule, a.view, a.parameter),
            rule=_direction(a.options) or "matrix" if a.rule == "matrix" else "AdamW",
            lr=a.options.get("lr"),
            weight_decay=a.options.get("weight_decay"),
            reason=a.reason,
            numel=a.parameter.numel(),
        )
        for a in found
    ]
    return Explanation(tuple(rows))


def _memory(optimizer: Optimizer) -> str:
    """What a step holds at most, in one line."""
    held, k = step_bytes(optimizer), stacks_held(optimizer)
    unit, size = ("MiB", 2**20) if held >= 2**20 else ("KiB", 2**10)
    return f"memory of a step beside the state: at most {k} stacks, {held / size:.0f} {unit}"


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
                    lr=_lr(group, optimizer.state.get(parameter, {})),
                    weight_decay=_decay(group),
                    reason=reason,
                    numel=parameter.numel(),
                    update=_update(group, view, parameter),
                )
            )
    return rows


def _update(group: Mapping[str, Any], view: Mapping[str, Any], parameter: Tensor) -> str:
    """The predicted size of an update of a parameter, by its first logical matrix."""
    shapes = [(1, 1)]
    if group["rule"] == "matrix":
        shapes = logical_shapes(view, tuple(parameter.shape)) if parameter.numel() else []
    rule = rule_of(group, shapes[0]) if shapes and group["lr"] else None
    if rule is None:
        return ""
    of_gradient = rule.kind in ("polargrad", "gradient_descent")
    size = update_rms(rule, shapes[0], gradient_rms=1.0 if of_gradient else None)
    return f"{size:.2g}" + (" g" if of_gradient else "")


def _matrices(rule: str, view: Mapping[str, Any], parameter: Tensor) -> str:
    """The logical matrices, ``3 × 512×512``, or the plain shape of what is no matrix."""
    if rule != "matrix":
        return "×".join(map(str, parameter.shape)) or "scalar"
    runs = itertools.groupby(sorted(logical_shapes(view, tuple(parameter.shape)), reverse=True))
    counted = [(shape, len(list(run))) for shape, run in runs]
    return " + ".join(f"{m}×{n}" if k == 1 else f"{k} × {m}×{n}" for (m, n), k in counted) or "none"


def _rule(group: dict[str, Any], view: Mapping[str, Any], parameter: Tensor) -> str:
    """AdamW, or the magnitude, the geometry, and the methods of the polar factor."""
    if group["rule"] == "adamw":
        return "AdamW"
    if not geometry(group["geometry"]).uses_polar:
        return _direction(group)
    dtype = working_dtype(parameter.dtype)
    methods = [
        resolve(group, torch.empty(m, n, dtype=dtype, device=parameter.device))
        for m, n in dict.fromkeys(
            _sketched(group, shape) for shape in logical_shapes(view, tuple(parameter.shape))
        )
    ]
    # What was chosen is named; what was asked for is repeated in full.
    auto = group["method"] == "auto"
    labels = dict.fromkeys(method.name if auto else label(method) for method in methods)
    return " × ".join(filter(None, (_direction(group), " / ".join(labels))))


def _sketched(group: Mapping[str, Any], shape: tuple[int, int]) -> tuple[int, int]:
    """The shape of the matrix of which a polar factor is found: that of a sketch is thin."""
    found = approximation(group["approximation"])
    return (max(shape), min(found.rank, *shape)) if isinstance(found, Sketch) else shape


def _direction(options: Mapping[str, Any]) -> str:
    """Magnitude, geometry and approximation, if they are said; plain spectral goes unsaid."""
    exponent = options.get("exponent", 1.0)
    power = f"^{exponent:g}" if exponent != 1.0 else ""
    form = _form(options.get("geometry", "spectral"))
    size = options.get("magnitude", "")
    if is_found(options):
        size = "found size" if size in ("dual_norm", "unit") else f"found size × {size}"
    elif size == "dual_norm" and form.startswith("spectral"):
        size = "nuclear"  # what its dual norm is called
    size += power
    about = options.get("approximation")
    parts = (size, form if form != "spectral" else "", "" if about is None else _form(about))
    return " × ".join(part for part in parts if part)


def _form(spec: Any) -> str:
    """A geometry in a few words: its name, its options, and the one inside it."""
    if isinstance(spec, str):
        return spec
    if not isinstance(spec, Mapping):
        return str(getattr(spec, "name", type(spec).__name__))
    inner = spec.get("inner")
    said = [
        f"{key}={value}"
        for key, value in spec.items()
        if key not in ("name", "inner") and value not in (None, False, 0.0)
    ]
    words = [_form(inner)] if inner is not None else []
    return str(spec.get("name")) + (f"({', '.join([*words, *said])})" if words or said else "")


def _lr(group: Mapping[str, Any], state: Mapping[str, Any]) -> float | None:
    """The learning rate; of a size that the run finds the median one, None before a step."""
    given = float(group["lr"]) * float(group.get("lr_scale", 1.0))
    if group["rule"] == "adamw" or not is_found(group):
        return given
    sizes = state.get(SIZE)
    return None if sizes is None or not len(sizes) else given * float(sizes.median())


def _decay(group: Mapping[str, Any]) -> float:
    """The decay of a group: for matrices the second form, where the first is not given."""
    own = float(group["weight_decay"])
    return own or (float(group["decay_per_step"]) if group["rule"] == "matrix" else 0.0)


def _number(value: float | None) -> str:
    return "" if value is None else f"{float(value):g}"


def _share(part: int, every: int) -> str:
    """``84.9 M of 124.4 M parameters, 68%``."""
    share = f", {part / every:.0%}" if every else ""
    return f"{_count(part)} of {_count(every)} parameters{share}"


def _count(value: int) -> str:
    """A number of parameters: 84.9 M, 12.3 k, 131."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= size:
            return f"{value / size:.1f} {unit}"
    return str(value)
