"""Check of the plateau at which sign methods with a constant learning rate stop."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

import torch

from polargrad.experiments.claims import FAILS, HOLDS
from polargrad.experiments.oracles import MUON_NEWTON_SCHULZ
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
from polargrad.experiments.theory.form import ErrorForm, Setting, instance
from polargrad.linalg import polar
from polargrad.optim import MatrixOptimizer, SignSGD

PLATEAU = "plateau"
STEPS = 6000
# Two decades of γ on the small problem, less on the published one, where a run takes ‖E₀‖₂/γ steps
# of several milliseconds before it reaches its plateau.
SMALL_RATES = tuple(0.1 * 10.0 ** (-k / 4) for k in range(7))
PUBLISHED_RATES = (0.2, 0.1, 0.05)
PUBLISHED_STEPS = 1000
USER_STEPS = 2500
# A run counts as arrived where the medians of its last two quarters agree to this.
ARRIVED = 0.1
EXPONENT = 0.15

SIGN_DESCENT = "matrix sign descent"
SIGN_DESCENT_PUBLISHED = "matrix sign descent at the published sizes"
MUON = "Muon"
SIGN_SGD = "signSGD"
Make = Callable[[torch.nn.Parameter, float], torch.optim.Optimizer]


def _muon(parameter: torch.nn.Parameter, lr: float) -> torch.optim.Optimizer:
    """Muon of the published experiments, with its quintic."""
    return MatrixOptimizer([parameter], lr, **MUON_NEWTON_SCHULZ)


# Every entry of signSGD's step has the size γ, so its γ are smaller.
OPTIMIZERS: tuple[tuple[str, Make, float], ...] = (
    (MUON, _muon, 1.0),
    (SIGN_SGD, lambda parameter, lr: SignSGD([parameter], lr=lr), 0.25),
)


def plateau(setting: Setting) -> Check:
    """Measure the plateau against γ, and check T3's inequality at every step."""
    small_steps = setting.extent.steps(STEPS, least=2500)
    rates = SMALL_RATES if setting.extent.share == 1.0 else SMALL_RATES[:5:2]
    records = sign_descent(setting.small, SIGN_DESCENT, rates, small_steps)
    if setting.extent.share == 1.0:
        records += sign_descent(
            setting.form, SIGN_DESCENT_PUBLISHED, PUBLISHED_RATES, PUBLISHED_STEPS
        )
    for name, make, factor in OPTIMIZERS:
        records += [_optimizer_run(setting, name, make, factor * gamma) for gamma in rates[:5]]
    findings = _findings(setting, records)
    violated = any(f.violations for f in findings if SIGN_SGD not in f.condition)
    return Check(
        name=PLATEAU,
        statement=(
            "Matrix sign descent X - γU obeys Δ₊ ≤ Δ - γ√(2μΔ) + (L/2)γ²r, Δ = f - f*: with a "
            "constant γ it stops at a plateau of at most (Lγr/2)²/(2μ), which is proportional to "
            "γ²."
        ),
        source="arXiv 2505.21799, theorem 3; the fixed point of its inequality",
        evidence=_evidence(setting, records, findings),
        verdict=FAILS if violated else HOLDS,
        findings=findings,
        panels=_panels(setting, records),
        records=tuple({k: v for k, v in r.items() if k != "gaps"} for r in records),
    )


def bound(form: ErrorForm, gamma: float) -> float:
    """(Lγr/2)²/(2μ), where the inequality of T3 promises no further decrease."""
    return (form.smoothness * gamma * form.rank / 2.0) ** 2 / (2.0 * form.strong_convexity)


def sign_descent(form: ErrorForm, name: str, rates: Sequence[float], steps: int) -> list[Record]:
    """Runs of E ← E - γU, all γ as one stack, with the inequality's worst ratio of each."""
    gammas = torch.tensor(rates, dtype=torch.float64)
    E = form.start.expand(len(rates), *form.start.shape).clone()
    quadratic = 0.5 * form.smoothness * form.rank * gammas.square()
    gaps = torch.empty(steps + 1, len(rates), dtype=torch.float64)
    worst = torch.full((len(rates),), math.inf, dtype=torch.float64)
    failed = torch.zeros(len(rates), dtype=torch.int64)
    for step in range(steps + 1):
        G = form.gradient(E)
        gaps[step] = form.gap(E, G)
        if step:
            fall = gammas * (2.0 * form.strong_convexity * gaps[step - 1]).sqrt()
            # What T3 allows the step to add to Δ - γ√(2μΔ), over what it adds.
            added = (gaps[step] - gaps[step - 1] + fall).clamp_min(1e-300)
            ratio = quadratic / added
            worst, failed = torch.minimum(worst, ratio), failed + (ratio < 1.0)
        E = E - gammas[:, None, None] * polar(G).U
    return [
        {
            "method": name,
            "gamma": gamma,
            "steps": steps,
            "worst_ratio": float(worst[i]),
            "violations": int(failed[i]),
            **_ending(gaps[:, i].tolist()),
        }
        for i, gamma in enumerate(rates)
    ]


def _optimizer_run(setting: Setting, name: str, make: Make, gamma: float) -> Record:
    """The same for an optimizer in float32, on the small problem."""
    problem, start = instance(setting.extent.small, setting.seed)
    parameter = torch.nn.Parameter(start.clone())
    optimizer = make(parameter, gamma)
    gaps = []
    for _ in range(setting.extent.steps(USER_STEPS, least=1500)):
        gaps.append(problem.gap(parameter.detach()))
        parameter.grad = problem.gradient(parameter.detach())
        optimizer.step()
    return {"method": name, "gamma": gamma, "steps": len(gaps) - 1, **_ending(gaps)}


def _ending(gaps: list[float]) -> Record:
    """The median gap of the last quarter, and whether the quarter before it has the same."""
    quarter = len(gaps) // 4
    last, before = (statistics.median(gaps[-i * quarter :][:quarter]) for i in (1, 2))
    return {"plateau": last, "arrived": abs(before / last - 1.0) <= ARRIVED, "gaps": gaps}


def _findings(setting: Setting, records: list[Record]) -> tuple[Finding, ...]:
    """The inequality, the bound of the plateau, and the exponents."""
    findings = []
    for name, form in ((SIGN_DESCENT, setting.small), (SIGN_DESCENT_PUBLISHED, setting.form)):
        rows = of(records, method=name)
        if not rows:
            continue
        findings.append(_inequality(name, rows))
        arrived = [r for r in rows if r["arrived"]]
        findings.append(
            bounded(
                "plateau ≤ (Lγr/2)²/(2μ)",
                f"{name}, {len(arrived)} of {len(rows)} γ that reached it; margin: the ratio",
                [bound(form, r["gamma"]) / r["plateau"] for r in arrived],
            )
        )
    for name in (SIGN_DESCENT, SIGN_DESCENT_PUBLISHED, MUON, SIGN_SGD):
        rows = [r for r in of(records, method=name) if r["arrived"]]
        if len(rows) >= 2:
            findings.append(_exponent(name, rows))
    return tuple(findings)


def _inequality(name: str, rows: list[Record]) -> Finding:
    """Δ₊ ≤ Δ - γ√(2μΔ) + (L/2)γ²r over all steps of all γ."""
    violations = sum(r["violations"] for r in rows)
    return Finding(
        claim="Δ₊ ≤ Δ - γ√(2μΔ) + (L/2)γ²r",
        condition=f"{name}, γ from {rows[-1]['gamma']:.2g} to {rows[0]['gamma']:.2g}",
        steps=sum(r["steps"] for r in rows),
        violations=violations,
        margin=min(r["worst_ratio"] for r in rows),
        verdict=HOLDS if not violations else FAILS,
    )


def _exponent(name: str, rows: list[Record]) -> Finding:
    """The exponent of the plateau in γ."""
    gammas = [r["gamma"] for r in rows]
    exponent = slope(gammas, [r["plateau"] for r in rows])
    right = abs(exponent - 2.0) <= EXPONENT
    return Finding(
        claim="plateau ∝ γ²",
        condition=(
            f"{name}, {len(rows)} γ from {min(gammas):.2g} to {max(gammas):.2g}; margin: exponent"
        ),
        steps=sum(r["steps"] for r in rows),
        violations=int(not right),
        margin=exponent,
        verdict=HOLDS if right else FAILS,
    )


def _evidence(setting: Setting, records: list[Record], findings: tuple[Finding, ...]) -> str:
    """Exponents and looseness in words."""
    exponents = ", ".join(
        f"{f.condition.split(', ')[0]} {f.margin:.2f}" for f in findings if "∝" in f.claim
    )
    loose = next(f.margin for f in findings if f.claim.startswith("plateau ≤"))
    m, n = setting.small.start.shape
    return (
        f"Exponent of the plateau in γ: {exponents} (problem with X of {m} × {n} but where said). "
        f"The bound is at least {loose:.2g} times the plateau. On a quadratic the exponent 2 of "
        "matrix sign descent follows by homogeneity, (E, γ) → (cE, cγ) maps runs to runs, if the "
        "plateau does not depend on where the run began. That of signSGD does: it stops in one of "
        "many cycles of period two."
    )


def _panels(setting: Setting, records: list[Record]) -> tuple[Panel, ...]:
    """Plateau against γ with the bound, and the runs."""
    curves = []
    for name in (SIGN_DESCENT, SIGN_DESCENT_PUBLISHED, MUON, SIGN_SGD):
        rows = [r for r in of(records, method=name) if r["arrived"]]
        curves.append(
            Curve(
                label=name,
                x=[r["gamma"] for r in rows],
                y=[r["plateau"] for r in rows],
                mark="points",
            )
        )
    for label, name, form in (
        ("bound of T3", SIGN_DESCENT, setting.small),
        ("bound of T3 at the published sizes", SIGN_DESCENT_PUBLISHED, setting.form),
    ):
        rates = sorted(r["gamma"] for r in of(records, method=name))
        values = [bound(form, gamma) for gamma in rates]
        curves.append(Curve(label=label, x=rates, y=values, mark="bound"))
    runs = []
    for r in of(records, method=SIGN_DESCENT)[::2]:
        steps = thinned(range(len(r["gaps"])))
        y = [r["gaps"][step] for step in steps]
        runs.append(Curve(label=f"γ = {r['gamma']:.2g}", x=steps, y=y))
    return (
        Panel(
            title="Plateau of sign methods against γ",
            x_label="γ",
            y_label="f - f*",
            curves=[curve for curve in curves if curve.x],
            x_scale="log",
        ),
        Panel(title="Matrix sign descent", x_label="step k", y_label="f - f*", curves=runs),
    )
