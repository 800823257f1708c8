"""Checks of how the size of a step follows the gradient: null-gradient consistency, degrees."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from polargrad.experiments.claims import FAILS, HOLDS, HOLDS_IF
from polargrad.experiments.oracles import MUON_NEWTON_SCHULZ, polargrad_options
from polargrad.experiments.theory.check import (
    Check,
    Curve,
    Finding,
    Panel,
    Record,
    bounded,
    of,
    slope,
    thinned,
)
from polargrad.experiments.theory.form import Setting, instance
from polargrad.optim import GradientDescent, MatrixSignDescent, PolarGrad, SignSGD
from polargrad.optim.engine import MatrixOptimizer

NULL_GRADIENT = "null-gradient"
SCALE_LAW = "scale-law"
STEPS = 400
SCALE_STEPS = 20

# An exponent counts as 1, or as 0, within this.
EXPONENT = 0.15


@dataclass(frozen=True)
class Method:
    """An optimizer, how its step is to follow the gradient, and its γ in units of the problem's.

    Args:
        name: a word for records.
        label: what tables call it.
        make: builds it from parameters and learning rate.
        unit: what ``lr`` multiplies: "1/L", "2/L_op", or "1" where γ has the unit of X.
        lr: the learning rate in that unit.
        degree: d where a gradient c times as large makes the step c^d times as large.
        consistent: whether the paper says that the step vanishes with the gradient.
        momentum: β of the average that takes the gradient's place, or None.
        options: further arguments.
    """

    name: str
    label: str
    make: Callable[..., torch.optim.Optimizer]
    unit: str
    lr: float
    degree: int
    consistent: bool
    momentum: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, parameter: torch.nn.Parameter, lr: float) -> torch.optim.Optimizer:
        """The optimizer for one parameter."""
        return self.make([parameter], lr=lr, **self.options)


METHODS = (
    Method(
        "polargrad",
        "PolarGrad",
        PolarGrad,
        "2/L_op",
        0.9,
        1,
        True,
        options=polargrad_options("exact"),
    ),
    Method(
        "polargrad-published",
        "PolarGrad (published oracle)",
        PolarGrad,
        "2/L_op",
        1.2,
        1,
        True,
        options=polargrad_options("published"),
    ),
    Method(
        "polargradm",
        "PolarGradM, β = 0.9",
        PolarGrad,
        "2/L_op",
        6.0,
        1,
        True,
        momentum=0.9,
        options=polargrad_options("exact", momentum=0.9),
    ),
    Method("gradient-descent", "gradient descent", GradientDescent, "1/L", 1.0, 1, True),
    Method("sign-descent", "matrix sign descent", MatrixSignDescent, "1", 0.1, 0, False),
    Method(
        "muon",
        "Muon (Newton–Schulz)",
        MatrixOptimizer,
        "1",
        0.1,
        0,
        False,
        momentum=0.95,
        options=MUON_NEWTON_SCHULZ,
    ),
    Method("signsgd", "signSGD", SignSGD, "1", 0.01, 0, False),
    Method("adam", "Adam", torch.optim.Adam, "1", 0.05, 0, False),
)


def _rate(method: Method, setting: Setting, *, small: bool = False) -> float:
    """The learning rate of a method in the problem's unit."""
    form = setting.small if small else setting.form
    unit = {"1/L": 1.0 / form.smoothness, "2/L_op": form.stability_limit, "1": 1.0}[method.unit]
    return method.lr * unit


def null_gradient(setting: Setting) -> Check:
    """Measure the exponent p of ‖ΔX‖ ∝ ‖G‖^p along a run of each optimizer."""
    problem, start = instance(setting.extent.sizes, setting.seed)
    steps = setting.extent.steps(STEPS, least=100)
    records: list[Record] = []
    for method in METHODS:
        parameter = torch.nn.Parameter(start.clone())
        optimizer = method.build(parameter, _rate(method, setting))
        average = torch.zeros_like(start)
        for step in range(steps):
            before = parameter.detach().clone()
            G = problem.gradient(before)
            parameter.grad = G.clone()
            optimizer.step()
            if method.momentum is not None:
                average.lerp_(G, 1.0 - method.momentum)
            signal = G if method.momentum is None else average
            records.append(
                {
                    "method": method.name,
                    "step": step,
                    "gradient": float(G.double().norm()),
                    "signal": float(signal.double().norm()),
                    "update": float((parameter.detach() - before).double().norm()),
                }
            )
    findings = [_consistency(method, of(records, method=method.name)) for method in METHODS]
    findings.insert(1, _sandwich(setting, of(records, method="polargrad")))
    failed = [f for f in findings if f.violations]
    verdict, condition = (FAILS if failed else HOLDS), ""
    if failed and all(f.claim.startswith("Adam") for f in failed):
        verdict = HOLDS_IF
        condition = (
            f"Adam is left out, whose step goes as the gradient to the {failed[0].margin:.2f} here"
        )
    return Check(
        name=NULL_GRADIENT,
        statement=(
            "The step of PolarGrad vanishes with the gradient (or the momentum in its place): "
            "γ√r‖G‖_F ≤ ‖ΔX‖_F ≤ γr‖G‖_F. Muon, matrix sign descent, signSGD and Adam are said not "
            "to have this property."
        ),
        source="arXiv 2505.21799, section 4 (null-gradient consistency); the bounds are derived",
        evidence=_null_evidence(findings),
        verdict=verdict,
        condition=condition,
        findings=tuple(findings),
        panels=(_null_panel(records),),
        records=tuple(records),
    )


def _late(rows: list[Record]) -> list[Record]:
    """The records in which gradient and step are there and the beginning is over."""
    return [r for r in rows[len(rows) // 20 :] if r["signal"] > 0.0 and r["update"] > 0.0]


def _consistency(method: Method, rows: list[Record]) -> Finding:
    """The exponent along the run, and whether it is the one that is claimed."""
    rows = _late(rows)
    exponent = slope([r["signal"] for r in rows], [r["update"] for r in rows])
    range_of_signal = max(r["signal"] for r in rows) / min(r["signal"] for r in rows)
    of_what = "momentum" if method.momentum is not None else "gradient"
    target = 1.0 if method.consistent else 0.0
    right = abs(exponent - target) <= EXPONENT
    claim = f"{method.label}: the step vanishes with the {of_what}"
    if not method.consistent:
        claim = f"{method.label}: the step does not follow the {of_what}"
    return Finding(
        claim=claim,
        condition=(
            f"‖{of_what}‖ over a factor of {range_of_signal:.2g}; margin: exponent of ‖ΔX‖ in it, "
            f"expected {target:.0f}"
        ),
        steps=len(rows),
        violations=int(not right),
        margin=exponent,
        verdict=HOLDS if right else FAILS,
    )


def _sandwich(setting: Setting, rows: list[Record]) -> Finding:
    """γ√r‖G‖ ≤ ‖ΔX‖ ≤ γr‖G‖ of the exact oracle, at every step."""
    form = setting.form
    gamma = _rate(METHODS[0], setting)
    ratios = []
    for r in rows:
        size = gamma * r["gradient"]
        lower, upper = size * math.sqrt(form.rank), size * form.rank
        ratios.append(min(r["update"] / lower, upper / r["update"]))
    return bounded(
        "γ√r‖G‖_F ≤ ‖ΔX‖_F ≤ γr‖G‖_F",
        "PolarGrad, exact factor, float32",
        ratios,
        slack=1e-5,
    )


def _null_evidence(findings: list[Finding]) -> str:
    """The exponents in words."""
    words = [
        f"{f.claim.split(':')[0]} {f.margin:.2f}" for f in findings if "exponent" in f.condition
    ]
    return (
        f"Exponent of ‖ΔX‖ in the gradient or the momentum along the run: {', '.join(words)}. "
        "Adam's denominator remembers the last thousand gradients: while gradients fall faster "
        "than it forgets, its step falls with them."
    )


def _null_panel(records: list[Record]) -> Panel:
    """Step against gradient, on logarithmic axes."""
    curves = []
    for method in METHODS:
        rows = thinned(_late(of(records, method=method.name)), 120)
        x, y = [r["signal"] for r in rows], [r["update"] for r in rows]
        curves.append(Curve(label=method.label, x=x, y=y, mark="points"))
    return Panel(
        title="Size of the step against size of the gradient (or momentum)",
        x_label="‖G‖_F, or ‖M‖_F of methods with momentum",
        y_label="‖ΔX‖_F",
        curves=curves,
        x_scale="log",
    )


def scale_law(setting: Setting) -> Check:
    """Scale f by c and γ as the degree says: the run is to be the same."""
    problem, start = instance(setting.extent.small, setting.seed)
    powers = [2.0**k for k in (-80, -40, -8, 8, 40, 80)]
    decimal = [1e-20, 1e-6, 1e-3, 1e3, 1e6, 1e20]
    records: list[Record] = []
    for method in METHODS:
        rate = _rate(method, setting, small=True)

        def path(c: float, method: Method = method, rate: float = rate) -> Tensor:
            gamma = rate / c**method.degree
            return _run(method, problem.gradient, start, gamma, c)

        plain = path(1.0)
        travelled = float((plain - start).norm())
        for c in (*powers, *decimal):
            difference = float((path(c) - plain).abs().amax()) / travelled
            records.append(
                {
                    "method": method.name,
                    "scale": c,
                    "power_of_two": c in powers,
                    "difference": difference,
                }
            )
    findings = [f for method in METHODS for f in _scale_findings(method, records)]
    ours = [f for f in findings if not f.claim.startswith("Adam")]
    return Check(
        name=SCALE_LAW,
        statement=(
            "f → c f makes PolarGrad's step c times as large, so γ/c gives the same run; the runs "
            "of Muon and the sign methods do not change with c at all."
        ),
        source="derived: PolarGrad is of degree 1 in the gradient, normalised methods of degree 0",
        evidence=_scale_evidence(records, findings),
        verdict=FAILS if any(f.violations for f in ours) else HOLDS,
        findings=tuple(findings),
        panels=(_scale_panel(records),),
        records=tuple(records),
    )


def _run(
    method: Method, gradient: Callable[[Tensor], Tensor], start: Tensor, gamma: float, c: float
) -> Tensor:
    """Where a method stands after some steps on c f."""
    parameter = torch.nn.Parameter(start.clone())
    optimizer = method.build(parameter, gamma)
    for _ in range(SCALE_STEPS):
        parameter.grad = c * gradient(parameter.detach())
        optimizer.step()
    return parameter.detach()


# Twenty steps of float32: one rounding, times what the problem's condition makes of it.
SAME = 1e-4


def _scale_findings(method: Method, records: list[Record]) -> list[Finding]:
    """Equal to the bit for powers of two, to rounding for others."""
    lr = "γ/c" if method.degree else "the same γ"
    findings = []
    for exact, condition in ((True, "c = 2⁻⁸⁰ … 2⁸⁰"), (False, "c = 1e-20 … 1e20")):
        rows = of(records, method=method.name, power_of_two=exact)
        wrong = [r for r in rows if r["difference"] > SAME]
        verdict = HOLDS if not wrong else FAILS
        if wrong and len(wrong) < len(rows):
            right = [r["scale"] for r in rows if r["difference"] <= SAME]
            verdict = f"{HOLDS_IF} c is from {min(right):.2g} to {max(right):.2g}"
        findings.append(
            Finding(
                claim=f"{method.label}: c f with {lr} is the same run",
                condition=f"{condition}; margin: largest difference over the distance travelled",
                steps=len(rows) * SCALE_STEPS,
                violations=len(wrong),
                margin=max(r["difference"] for r in rows),
                verdict=verdict,
            )
        )
    return findings


def _scale_evidence(records: list[Record], findings: list[Finding]) -> str:
    """Which runs are equal to the bit."""
    labels = {method.name: method.label for method in METHODS}
    to_the_bit = [
        label
        for name, label in labels.items()
        if all(r["difference"] == 0.0 for r in of(records, method=name, power_of_two=True))
    ]
    adam = next(f for f in findings if f.claim.startswith("Adam"))
    ours = max(r["difference"] for r in records if r["method"] != "adam")
    return (
        f"Equal to the bit for powers of two from 2⁻⁸⁰ to 2⁸⁰: {', '.join(to_the_bit)}. For all "
        f"of ours and every c from 1e-20 to 1e20 the runs differ by at most {ours:.1g} of the "
        f"distance travelled. torch's Adam: {adam.verdict}; smaller gradients vanish in its "
        "eps, the squares of larger ones overflow."
    )


def _scale_panel(records: list[Record]) -> Panel:
    """The difference of the scaled run against the scale."""
    least = 1e-9  # differences of 0 are drawn here, on the lower edge
    curves = []
    for method in METHODS:
        rows = sorted(of(records, method=method.name), key=lambda r: float(r["scale"]))
        y = [max(r["difference"], least) for r in rows]
        curves.append(Curve(label=method.label, x=[r["scale"] for r in rows], y=y, mark="points"))
    return Panel(
        title="Difference of the run on c f from the run on f (0 is drawn at 1e-9)",
        x_label="c",
        y_label="difference over distance travelled",
        curves=curves,
        x_scale="log",
    )
