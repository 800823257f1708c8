"""Checks of one step: the descent inequality, and the exact limit of a step that decreases f."""

from __future__ import annotations

import torch

from polargrad.experiments.claims import FAILS, HOLDS, HOLDS_IF
from polargrad.experiments.theory.check import (
    Check,
    Curve,
    Finding,
    Panel,
    Record,
    bounded,
    of,
    thinned,
)
from polargrad.experiments.theory.form import ErrorForm, Setting, instance
from polargrad.experiments.theory.trajectories import (
    CERTAIN,
    CONDITIONED,
    EDGE,
    NATURAL,
    OFF_LIMIT,
    exact_trajectories,
)
from polargrad.linalg import polar
from polargrad.optim import PolarGrad

DESCENT = "descent"
ONE_STEP_LIMIT = "one-step-limit"
TRAJECTORIES = (CERTAIN, NATURAL, EDGE, CONDITIONED)
FLOAT32_STEPS = 600
FLOAT32 = "float32, "
# Ratios of float64 gaps after thousands of additions: the inequality may be missed by this much.
ROUNDING = 1e-9


def descent(setting: Setting) -> Check:
    """Check f(X - γνU) ≤ f(X) - γν² + (c/2)γ²ν² with c = L r and with c = L_op, at every step."""
    form = setting.form
    exact = [r for r in exact_trajectories(setting) if r["trajectory"] in TRAJECTORIES]
    single = [*float32_run(setting, CERTAIN), *float32_run(setting, EDGE)]
    findings = [
        bounded(
            "f₊ ≤ f - γν² + (L/2)γ²ν²r",
            f"γ = {name}, float64",
            [promised(r, form.smoothness * r["rank"]) for r in of(exact, trajectory=name)],
            slack=ROUNDING,
        )
        for name in (CERTAIN, CONDITIONED)  # elsewhere γ > 2/(L r): nothing is promised
    ]
    findings += [
        bounded(
            "f₊ ≤ f - γν² + (L_op/2)γ²ν²",
            f"γ = {name}, float64",
            [promised(r, form.spectral_smoothness) for r in of(exact, trajectory=name)],
            slack=ROUNDING,
        )
        for name in TRAJECTORIES
    ]
    verdict, condition = (FAILS, "") if any(f.violations for f in findings) else (HOLDS, "")
    findings += _in_float32(form, single)
    if verdict == HOLDS and findings[-1].violations:
        verdict, condition = (
            HOLDS_IF,
            (
                f"{findings[-1].verdict.removeprefix(HOLDS_IF).strip()} in float32, where below it "
                "rounding is larger than the step; without exception in float64"
            ),
        )
    return Check(
        name=DESCENT,
        statement=(
            "With the exact polar factor U of the gradient and ν = ‖∇f‖_*, a step of PolarGrad "
            "obeys f(X - γνU) ≤ f(X) - γν² + (L/2)γ²ν²r; at γ = 1/(L r) it decreases f by at "
            "least ν²/(2 L r). In the spectral norm L r is replaced by L_op."
        ),
        source="arXiv 2505.21799, section 4 (descent lemma), derived anew",
        evidence=_descent_evidence(form, findings),
        verdict=verdict,
        condition=condition,
        findings=tuple(findings),
        panels=_descent_panels(form, exact, single),
        records=(*exact, *single),
    )


def promised(record: Record, constant: float) -> float:
    """The decrease of a step over the decrease γν²(1 - γc/2) that the inequality promises."""
    gamma, nuclear_norm = record["gamma"], record["nuclear_norm"]
    least = gamma * nuclear_norm**2 * (1.0 - 0.5 * gamma * constant)
    return float((record["gap"] - record["next_gap"]) / least)


def float32_run(setting: Setting, trajectory: str) -> list[Record]:
    """A run of the optimizer in float32 as a user would have it, measured in float64."""
    form = setting.form
    problem, start = instance(setting.extent.sizes, setting.seed)
    gamma = form.certain_step if trajectory == CERTAIN else 0.98 * form.stability_limit
    solution = problem.solution()
    parameter = torch.nn.Parameter(start.clone())
    optimizer = PolarGrad([parameter], lr=gamma, momentum=0.0, tol=None)
    records = []
    for step in range(setting.extent.steps(FLOAT32_STEPS)):
        E = parameter.detach().double() - solution
        G = form.gradient(E)
        parameter.grad = problem.gradient(parameter.detach())
        optimizer.step()
        records.append(
            {
                "trajectory": FLOAT32 + trajectory,
                "step": step,
                "gamma": gamma,
                "gap": float(form.gap(E, G)),
                "next_gap": float(form.gap(parameter.detach().double() - solution)),
                "nuclear_norm": float(polar(G).nuclear_norm),
                "rank": form.rank,
            }
        )
    return records


def _in_float32(form: ErrorForm, records: list[Record]) -> list[Finding]:
    """The same inequalities for the optimizer's own steps in float32."""
    certain = of(records, trajectory=FLOAT32 + CERTAIN)
    edge = of(records, trajectory=FLOAT32 + EDGE)
    ratios = [promised(r, form.spectral_smoothness) for r in edge]
    failed = [r for r, ratio in zip(edge, ratios, strict=True) if ratio < 1.0]
    lowest = min(r["gap"] for r in edge)
    verdict = HOLDS
    if failed:
        verdict = f"{HOLDS} if f - f* is above {max(r['gap'] for r in failed):.2g}"
    return [
        bounded(
            "f₊ ≤ f - γν² + (L/2)γ²ν²r",
            f"γ = {CERTAIN}, PolarGrad in float32",
            [promised(r, form.smoothness * form.rank) for r in certain],
        ),
        bounded(
            "f₊ ≤ f - γν² + (L_op/2)γ²ν²",
            f"γ = {EDGE}, PolarGrad in float32, down to f - f* = {lowest:.2g}",
            ratios,
            verdict=verdict,
        ),
    ]


def _descent_evidence(form: ErrorForm, findings: list[Finding]) -> str:
    """The numbers in words."""
    certain = findings[0]
    natural = next(f for f in findings if "L_op" in f.claim)
    steps = sum(f.steps for f in findings if "float64" in f.condition)
    violations = sum(f.violations for f in findings if "float64" in f.condition)
    return (
        f"{steps} steps in float64, {violations} violations. At γ = 1/(L r) the decrease is at "
        f"least {certain.margin:.3g} times what the inequality with L r promises and at least "
        f"{natural.margin:.3g} times what it promises with L_op: L r = "
        f"{form.smoothness * form.rank:.3g} is {form.smoothness * form.rank / _op(form):.2f} times "
        f"L_op = {_op(form):.3g}. In float32: {findings[-1].verdict}."
    )


def _op(form: ErrorForm) -> float:
    return form.spectral_smoothness


def _descent_panels(
    form: ErrorForm, exact: list[Record], single: list[Record]
) -> tuple[Panel, ...]:
    """The decrease over what is promised, with both constants."""
    curves = []
    for name in TRAJECTORIES:
        rows = thinned(of(exact, trajectory=name))
        steps = [r["step"] for r in rows]
        ratios = [promised(r, form.spectral_smoothness) for r in rows]
        curves.append(Curve(label=f"γ = {name}", x=steps, y=ratios))
    rough = thinned(of(single, trajectory=FLOAT32 + EDGE))
    return (
        Panel(
            title="Decrease over the decrease promised with L_op",
            x_label="step k",
            y_label="(f - f₊) / γν²(1 - γL_op/2)",
            curves=(*curves, _one([0, max(r["step"] for r in exact)])),
        ),
        Panel(
            title=f"PolarGrad in float32, γ = {EDGE}",
            x_label="f - f* (the run goes from right to left)",
            y_label="(f - f₊) / γν²(1 - γL_op/2)",
            curves=(
                Curve(
                    label="a step",
                    x=[r["gap"] for r in rough],
                    y=[promised(r, form.spectral_smoothness) for r in rough],
                    mark="points",
                ),
                _one([min(r["gap"] for r in rough), max(r["gap"] for r in rough)]),
            ),
            x_scale="log",
            y_scale="symlog",
        ),
    )


def _one(x: list[float]) -> Curve:
    return Curve(label="what is promised", x=x, y=[1.0, 1.0], mark="bound")


def one_step_limit(setting: Setting) -> Check:
    """Check that a step with the exact factor decreases f exactly if γ < 2/‖A U B‖²."""
    form = setting.form
    records = [r for r in exact_trajectories(setting) if r["trajectory"] in TRAJECTORIES]
    findings = (
        bounded(
            "f₊ < f just below the limit",
            f"γ = (1 - {OFF_LIMIT:g}) · 2/‖A U B‖²; margin: over the predicted decrease",
            [_change(r, "gap_below_limit", -1.0) for r in records],
            slack=1e-4,
        ),
        bounded(
            "f₊ > f just above the limit",
            f"γ = (1 + {OFF_LIMIT:g}) · 2/‖A U B‖²; margin: over the predicted increase",
            [_change(r, "gap_above_limit", 1.0) for r in records],
            slack=1e-4,
        ),
        bounded(
            "2/L_op ≤ 2/‖A U B‖²",
            "the same points; margin: the ratio",
            [r["one_step_limit"] / form.stability_limit for r in records],
            slack=ROUNDING,
        ),
    )
    limits = [r["one_step_limit"] for r in records]
    ends = ", ".join(
        f"{of(records, trajectory=name)[-1]['one_step_limit']:.3g} (γ = {name})"
        for name in TRAJECTORIES[:3]
    )
    return Check(
        name=ONE_STEP_LIMIT,
        statement=(
            "On a quadratic, a step with the exact factor U decreases f if γ < 2/‖A U B‖²_F and "
            "increases it if γ is larger. 2/L_op, L_op = Σ σᵢ(A)²σᵢ(B)², is the smallest limit "
            "that a U can have."
        ),
        source="derived: the second-order expansion of 6.1, exact for a quadratic",
        evidence=(
            f"At {len(records)} points the sign changes at the limit to within {OFF_LIMIT:g} of "
            f"it. The limit lies between {min(limits):.3g} and {max(limits):.3g} along the runs, "
            f"never below 2/L_op = {form.stability_limit:.4g}; 1/(L r) is {form.certain_step:.3g}. "
            f"It is lower at the end than at the start ({records[0]['one_step_limit']:.3g}): {ends}"
        ),
        verdict=FAILS if any(f.violations for f in findings) else HOLDS,
        findings=findings,
        panels=(_limits_panel(form, records),),
        records=tuple(records),
    )


def _change(record: Record, key: str, sign: float) -> float:
    """The change of f just beside the limit over γν²·|1 - γ/limit|, which theory says it is."""
    factor = 1.0 + sign * OFF_LIMIT
    predicted = factor * record["one_step_limit"] * record["nuclear_norm"] ** 2 * OFF_LIMIT
    return float(sign * (record[key] - record["gap"]) / predicted)


def _limits_panel(form: ErrorForm, records: list[Record]) -> Panel:
    """The one-step limit along the runs."""
    last = max(r["step"] for r in records)
    curves = []
    for name in TRAJECTORIES:
        rows = thinned(of(records, trajectory=name))
        limits = [r["one_step_limit"] for r in rows]
        curves.append(Curve(label=f"run with γ = {name}", x=[r["step"] for r in rows], y=limits))
    lines = (("2/L_op", form.stability_limit), ("1/(L r)", form.certain_step))
    for label, value in lines:
        curves.append(Curve(label=label, x=[0, last], y=[value, value], mark="bound"))
    return Panel(
        title="The largest γ with which the next step decreases f",
        x_label="step k",
        y_label="2 / ‖A U B‖²",
        curves=tuple(curves),
    )
