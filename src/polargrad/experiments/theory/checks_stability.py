"""Check of the largest learning rate with which PolarGrad converges, by oracle."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from polargrad.experiments.claims import FAILS, HOLDS
from polargrad.experiments.theory.check import Check, Curve, Finding, Panel, Record
from polargrad.experiments.theory.form import ErrorForm, Setting
from polargrad.experiments.theory.oracles import EXACT, ORACLES, PUBLISHED, Oracle
from polargrad.linalg import polar
from polargrad.optim import PolarGrad
from polargrad.problems import MatrixQuadraticRegression

STABILITY = "stability-limit"
STEPS = 300
# The bisection begins with an interval of this factor around the prediction, in both directions.
AROUND = 2.0
DIVERGED = 1e6  # times the first gap: it does not come back from there
AGREES = 0.02
FAR = 5.0  # times 2/L_op: such a limit is not drawn
# Beyond its limit an inexact oracle's run swings, and a median of one-step limits is a rough word
# for it.
ROUGHLY = 0.15

# (oracle, γ, StepLR's factor every 25 steps): the learning rates of the published script and those
# beside them, for the published sizes.
LEARNING_RATES: tuple[tuple[Oracle, float, float], ...] = (
    (EXACT, 3.0e-8, 1.0),
    (EXACT, 3.4e-8, 1.0),
    (PUBLISHED, 4.0e-8, 1.0),
    (PUBLISHED, 4.75e-8, 0.99),
    (PUBLISHED, 5.0e-8, 1.0),
)
DECAY_EVERY = 25
PUBLISHED_STEPS = 300


def stability_limit(setting: Setting) -> Check:
    """Bisect the stability limit of each oracle and hold it against what theory says."""
    form = setting.form
    limits = [_limit(form, oracle, setting) for oracle in ORACLES[: setting.extent.oracles]]
    # The exact factor's limit is predicted, the published oracle's is what was found above.
    predicted = {EXACT.name: form.stability_limit, PUBLISHED.name: limits[1]["observed"]}
    published = list(_published(setting, predicted))
    findings = [
        _exact_finding(form, limits[0]),
        *(_guaranteed(form, record) for record in limits[1:]),
        *(_one_step_finding(record) for record in limits),
        *(_published_finding(record) for record in published),
    ]
    right = not any(f.violations for f in findings)
    return Check(
        name=STABILITY,
        statement=(
            "With the exact factor PolarGrad converges for γ < 2/L_op and not for larger γ, "
            "L_op = Σ σᵢ(A)²σᵢ(B)². An oracle Û with singular values at most s is stable for "
            "γ < 2/(s² L_op); one that shrinks singular values is stable beyond 2/L_op."
        ),
        source="derived: the spectral norm's smoothness; explains the learning rates of 6.1",
        evidence=_evidence(form, limits),
        verdict=HOLDS if right else FAILS,
        findings=tuple(findings),
        panels=_panels(form, limits, published),
        records=(*limits, *published),
    )


def run(form: ErrorForm, oracle: Oracle, gamma: float, steps: int) -> list[float]:
    """The gaps of E ← E - γ⟨G, Û⟩Û, until it has plainly diverged."""
    E, gaps = form.start, []
    for _ in range(steps + 1):
        G = form.gradient(E)
        gaps.append(float(form.gap(E, G)))
        if not gaps[-1] < DIVERGED * gaps[0]:
            break
        U = oracle(G)
        E = E - gamma * (G * U).sum() * U
    return gaps


def converges(gaps: list[float], steps: int) -> bool:
    """Whether all steps were taken and the gap still fell over their second half."""
    return len(gaps) == steps + 1 and gaps[-1] < gaps[steps // 2]


def _limit(form: ErrorForm, oracle: Oracle, setting: Setting) -> Record:
    """The limit by bisection in log γ, and what the oracle does along the run just below it."""
    steps = setting.extent.steps(STEPS, least=120)
    U = oracle(form.gradient(form.start))
    first = 2.0 / float(form.curvature(U))  # the one-step limit at the start: a first guess
    low, high = first / AROUND, first * AROUND
    while not converges(run(form, oracle, low, steps), steps):
        low /= AROUND
    while converges(run(form, oracle, high, steps), steps):
        high *= AROUND
    for _ in range(setting.extent.halvings):
        middle = math.sqrt(low * high)
        stable = converges(run(form, oracle, middle, steps), steps)
        low, high = (middle, high) if stable else (low, middle)
    return {
        "oracle": oracle.name,
        "label": oracle.label,
        "stable": low,
        "unstable": high,
        "observed": math.sqrt(low * high),
        "steps": steps,
        "at_start": first,
        **_along(form, oracle, low, steps),
    }


def _along(form: ErrorForm, oracle: Oracle, gamma: float, steps: int) -> Record:
    """Medians along the second half of the run with the largest stable γ, every tenth step."""
    E = form.start
    rows: list[tuple[float, ...]] = []
    for step in range(steps):
        G = form.gradient(E)
        U = oracle(G)
        estimate = (G * U).sum()
        if step >= steps // 2 and step % 10 == 0:
            exact = polar(G).U
            shortfall = float(estimate / (G * exact).sum())
            size = float(U.norm() / exact.norm())
            largest = float(torch.linalg.matrix_norm(U, 2))
            limits = (2.0 / float(form.curvature(factor)) for factor in (U, exact))
            rows.append((shortfall, size, largest, *limits))
        E = E - gamma * estimate * U
    names = ("nuclear_ratio", "size", "largest", "one_step_limit", "one_step_limit_exact")
    columns = zip(*rows, strict=True)
    return {name: statistics.median(c) for name, c in zip(names, columns, strict=True)}


def _exact_finding(form: ErrorForm, record: Record) -> Finding:
    """Observed limit of the exact oracle against 2/L_op."""
    ratio = record["observed"] / form.stability_limit
    within = _uncertainty(record)
    agrees = abs(ratio - 1.0) <= max(AGREES, within)
    return Finding(
        claim="exact factor: stable up to γ = 2/L_op",
        condition=(
            f"{record['steps']} steps, bisection to {within:.1%}: {record['observed']:.4g} against "
            f"{form.stability_limit:.4g}; margin: their ratio"
        ),
        steps=record["steps"],
        violations=int(not agrees),
        margin=ratio,
        verdict=HOLDS if agrees else FAILS,
    )


def _uncertainty(record: Record) -> float:
    """Half the width of the last interval, relative."""
    return float(0.5 * math.log(record["unstable"] / record["stable"]))


def _guaranteed(form: ErrorForm, record: Record) -> Finding:
    """γ < 2/(s² L_op) is stable, s the largest singular value of Û."""
    certain = form.stability_limit / record["largest"] ** 2
    ratio = record["unstable"] / certain
    return Finding(
        claim="inexact factor: stable at least up to γ = 2/(s² L_op)",
        condition=(
            f"{record['label']}, s = {record['largest']:.3g}: {record['observed']:.3g} against "
            f"{certain:.3g}; margin: their ratio"
        ),
        steps=record["steps"],
        violations=int(ratio < 1.0 - AGREES),
        margin=ratio,
        verdict=HOLDS if ratio >= 1.0 - AGREES else FAILS,
    )


def _one_step_finding(record: Record) -> Finding:
    """The limit is where γ meets the one-step limits of its own run."""
    ratio = record["observed"] / record["one_step_limit"]
    close = abs(ratio - 1.0) <= ROUGHLY
    return Finding(
        claim=f"the limit is the γ that meets 2/‖A Û B‖² along its own run, to {ROUGHLY:.0%}",
        condition=(
            f"{record['label']}: {record['observed']:.3g} against a median of "
            f"{record['one_step_limit']:.3g}; margin: their ratio"
        ),
        steps=record["steps"] // 2,
        violations=int(not close),
        margin=ratio,
        verdict=HOLDS if close else FAILS,
    )


def _published(setting: Setting, limits: Mapping[str, float]) -> Iterator[Record]:
    """The optimizer in float32 with the published learning rates, on the published problem."""
    problem, start = MatrixQuadraticRegression.published(setting.seed)
    steps = setting.extent.steps(PUBLISHED_STEPS, least=150)
    for oracle, gamma, decay in LEARNING_RATES:
        last = gamma * decay ** (steps // DECAY_EVERY)
        parameter = torch.nn.Parameter(start.clone())
        options: dict[str, Any] = dict(oracle.options)
        optimizer = PolarGrad([parameter], lr=gamma, momentum=0.0, **options)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, DECAY_EVERY, gamma=decay)
        gaps = [problem.gap(start)]
        for _ in range(steps):
            parameter.grad = problem.gradient(parameter.detach())
            optimizer.step()
            schedule.step()
            gaps.append(problem.gap(parameter.detach()))
            if not gaps[-1] < DIVERGED * gaps[0]:
                break
        yield {
            "oracle": oracle.name,
            "label": oracle.label,
            "gamma": gamma,
            "decay": decay,
            "last_over_limit": last / limits[oracle.name],
            "converges": converges(gaps, steps),
            "gaps": gaps,
        }


def _published_finding(record: Record) -> Finding:
    """Whether a learning rate of the published script does what the limit says of it."""
    gaps, decay = record["gaps"], "" if record["decay"] == 1.0 else ", decaying"
    ratio = record["last_over_limit"]
    right = record["converges"] == (ratio < 1.0) or abs(ratio - 1.0) <= AGREES
    word = "converges" if ratio < 1.0 else "diverges"
    return Finding(
        claim=f"γ = {record['gamma']:.3g}{decay} {word} with {record['label']}",
        condition=(
            f"PolarGrad in float32, {ratio:.3f} times the limit{' at the end' * bool(decay)}, last "
            f"gap {gaps[-1]:.3g}; margin: last gap over first"
        ),
        steps=len(gaps) - 1,
        violations=int(not right),
        margin=gaps[-1] / gaps[0],
        verdict=HOLDS if right else FAILS,
    )


def _evidence(form: ErrorForm, limits: list[Record]) -> str:
    """Why the published learning rates are stable with the published oracle alone."""
    exact, published = limits[0], next(r for r in limits if r["oracle"] == PUBLISHED.name)
    gain = published["nuclear_ratio"] * published["size"]
    turned = published["one_step_limit_exact"] / form.stability_limit
    return (
        f"2/L_op = {form.stability_limit:.4g}; bisection gives {exact['observed']:.4g} for the "
        f"exact factor and {published['observed']:.4g} for the published oracle, "
        f"{published['observed'] / exact['observed']:.2f} times as much. Along its run "
        f"⟨G, Û⟩/‖G‖_* is {published['nuclear_ratio']:.3f} and ‖Û‖_F/√r {published['size']:.3f}: "
        f"an effective gain of {gain:.3f}, which alone would allow "
        f"{form.stability_limit / gain:.3g}. The rest, a factor {turned:.3f}, is that its "
        "gradients never turn into the worst direction."
    )


def _panels(form: ErrorForm, limits: list[Record], published: list[Record]) -> tuple[Panel, ...]:
    """The limits by oracle, and the runs of the optimizer."""
    runs = [
        Curve(
            label=f"{r['label']}, γ = {r['gamma']:.3g}" + (" ↓" if r["decay"] < 1.0 else ""),
            x=list(range(len(r["gaps"]))),
            y=r["gaps"],
        )
        for r in published
    ]
    return (
        _limits_panel(form, limits),
        Panel(title="PolarGrad in float32", x_label="step k", y_label="f - f*", curves=runs),
    )


def _limits_panel(form: ErrorForm, limits: list[Record]) -> Panel:
    """The limits in units of 2/L_op; one far outside is named in place of being drawn."""
    near = [r for r in limits if r["observed"] < FAR * form.stability_limit]
    words = [
        f"{r['label']}: {r['observed'] / form.stability_limit:.3g}" for r in limits if r not in near
    ]
    places = list(range(len(near)))
    columns: tuple[tuple[str, list[float]], ...] = (
        ("observed", [r["observed"] for r in near]),
        (
            "2/L_op over the effective gain",
            [form.stability_limit / (r["nuclear_ratio"] * r["size"]) for r in near],
        ),
        ("median 2/‖A Û B‖² along the run", [r["one_step_limit"] for r in near]),
    )
    curves = [
        Curve(label=label, x=places, y=[v / form.stability_limit for v in values], mark="points")
        for label, values in columns
    ]
    ends = [places[0], places[-1]]
    curves.append(Curve(label="2/L_op", x=ends, y=[1.0, 1.0], mark="bound"))
    return Panel(
        title="Largest stable γ" + (f" (not drawn: {'; '.join(words)})" if words else ""),
        x_label="",
        y_label="γ in units of 2/L_op",
        curves=curves,
        y_scale="linear",
        ticks=[r["label"] for r in near],
    )
