"""Check of the linear rates: what they promise a step, and what a step does."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

from polargrad.experiments.claims import FAILS, HOLDS
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
from polargrad.experiments.theory.form import ErrorForm, Setting
from polargrad.experiments.theory.trajectories import (
    CERTAIN,
    CONDITIONED,
    EDGE,
    GRADIENT_DESCENT,
    NATURAL,
    exact_trajectories,
)

RATES = "rates"
# Below it a curve is left out of the figure: no floating-point run on the data comes so far.
LEAST_DRAWN = 1e-8
Progress = Callable[[Record, ErrorForm], float]


def rank_form(record: Record, form: ErrorForm) -> float:
    """1/(r κ_H): the share of the gap that a step with γ = 1/(L r) takes off at least."""
    return 1.0 / (float(record["rank"]) * form.condition_number)


def conditioning_form(record: Record, form: ErrorForm) -> float:
    """1/(κ_G² κ_H): the same in terms of the gradient's condition number."""
    return 1.0 / (float(record["gradient_condition"]) ** 2 * form.condition_number)


def printed_rank_form(record: Record, form: ErrorForm) -> float:
    """1/(r² κ_H), as the first version of the paper prints it."""
    return 1.0 / (float(record["rank"]) ** 2 * form.condition_number)


def spectral_form(record: Record, form: ErrorForm) -> float:
    """ν²/(2 L_op (f - f*)) is at least μ/L_op: the same with the spectral norm's constant."""
    return form.strong_convexity / form.spectral_smoothness


BOUNDS: tuple[tuple[str, Progress], ...] = (
    ("f₊ - f* ≤ (1 - 1/(r κ_H)) (f - f*)", rank_form),
    ("f₊ - f* ≤ (1 - 1/(κ_G² κ_H)) (f - f*)", conditioning_form),
    ("f₊ - f* ≤ (1 - 1/(r² κ_H)) (f - f*), as printed in T1", printed_rank_form),
)


def progress(record: Record) -> float:
    """1 - Δ₊/Δ, the share of the gap Δ that the step took off."""
    return float(1.0 - record["next_gap"] / record["gap"])


def rates(setting: Setting) -> Check:
    """Check the rank form, the conditioning form and the printed form at every step."""
    form = setting.form
    records = [
        r
        for r in exact_trajectories(setting)
        if r["trajectory"] in (CERTAIN, NATURAL, EDGE, CONDITIONED, GRADIENT_DESCENT)
    ]
    findings = [
        bounded(
            claim,
            f"γ = {name}",
            [progress(r) / promise(r, form) for r in of(records, trajectory=name)],
        )
        for name in (CERTAIN, CONDITIONED)
        for claim, promise in BOUNDS
    ]
    findings.append(
        bounded(
            "f₊ - f* ≤ (1 - μ/L_op) (f - f*)",
            f"γ = {NATURAL}",
            [progress(r) / spectral_form(r, form) for r in of(records, trajectory=NATURAL)],
        )
    )
    violated = any(f.violations for f in findings)
    return Check(
        name=RATES,
        statement=(
            "With γ = 1/(L r) a step of PolarGrad leaves at most 1 - max(1/r, 1/κ_G²)/κ_H of the "
            "gap f - f*; the first version of the paper prints 1/r² for 1/r."
        ),
        source="arXiv 2505.21799, theorem 1 (conditioning form as printed); rank form derived",
        evidence=_evidence(form, records, findings),
        verdict=FAILS if violated else HOLDS,
        findings=tuple(findings),
        panels=_panels(form, records),
        records=tuple(records),
    )


def _evidence(form: ErrorForm, records: list[Record], findings: list[Finding]) -> str:
    """How loose the bounds are, and which of the two is the better one how often."""
    certain = of(records, trajectory=CERTAIN)
    loose = statistics.median(progress(r) / rank_form(r, form) for r in certain)
    words = []
    for name, label in ((CERTAIN, "the paper's start"), (CONDITIONED, "the start with κ_G = 1")):
        rows = of(records, trajectory=name)
        active = sum(r["gradient_condition"] ** 2 < r["rank"] for r in rows)
        conditions = [r["gradient_condition"] for r in rows]
        words.append(
            f"From {label} κ_G goes from {conditions[0]:.3g} to {conditions[-1]:.3g}, and the "
            f"conditioning form is the better one in {active} of {len(rows)} steps"
        )
    last = {
        name: _reached(of(records, trajectory=name))
        for name in (CERTAIN, NATURAL, EDGE, GRADIENT_DESCENT)
    }
    return (
        f"κ_H = {form.condition_number:.3g}, r = {form.rank}. {'. '.join(words)}. A step with "
        f"1/(L r) takes off {loose:.3g} times (median) what the rank form promises, at least "
        f"{findings[0].margin:.3g} times. After {certain[-1]['step']} steps the gap is "
        f"{last[CERTAIN]} with 1/(L r), {last[NATURAL]} with 1/L_op, {last[EDGE]} with {EDGE}, and "
        f"{last[GRADIENT_DESCENT]} with gradient descent at 1/L."
    )


def _reached(rows: list[Record]) -> str:
    """The last gap, or since when it has been below what a run on the data can reach."""
    below = [r["step"] for r in rows if r["gap"] <= LEAST_DRAWN]
    return f"below {LEAST_DRAWN:g} from step {below[0]} on" if below else f"{rows[-1]['gap']:.3g}"


def _panels(form: ErrorForm, records: list[Record]) -> tuple[Panel, ...]:
    """The gaps beside what the bounds promise, and the progress of each step beside it."""
    runs = (CERTAIN, NATURAL, EDGE, GRADIENT_DESCENT)
    gaps = [_gap_curve(name, of(records, trajectory=name)) for name in runs]
    certain = of(records, trajectory=CERTAIN)
    promised = [certain[0]["gap"]]
    for r in certain[:-1]:
        best = max(rank_form(r, form), conditioning_form(r, form))
        promised.append(promised[-1] * (1.0 - best))
    gaps.append(
        Curve(
            label="promised with 1/(L r)",
            x=thinned([r["step"] for r in certain]),
            y=thinned(promised),
            mark="bound",
        )
    )
    return (
        Panel(title="f - f* along the runs", x_label="step k", y_label="f - f*", curves=gaps),
        *(
            _progress_panel(form, title, of(records, trajectory=name))
            for name, title in (
                (CERTAIN, "A step with 1/(L r), from the paper's start"),
                (CONDITIONED, "From a start with κ_G = 1"),
            )
        ),
    )


def _gap_curve(name: str, rows: list[Record]) -> Curve:
    label = name if name == GRADIENT_DESCENT else f"PolarGrad, {name}"
    rows = thinned([r for r in rows if r["gap"] > LEAST_DRAWN])
    return Curve(label=label, x=[r["step"] for r in rows], y=[r["gap"] for r in rows])


def _progress_panel(form: ErrorForm, title: str, rows: list[Record]) -> Panel:
    """The share of the gap that each step takes off, measured and promised."""
    rows = thinned(rows)
    steps = [r["step"] for r in rows]
    lines: tuple[tuple[str, Progress, str], ...] = (
        ("measured", lambda r, _: max(progress(r), math.ulp(1.0)), "line"),
        ("rank form, 1/(r κ_H)", rank_form, "bound"),
        ("conditioning form, 1/(κ_G² κ_H)", conditioning_form, "bound"),
        ("printed rank form, 1/(r² κ_H)", printed_rank_form, "bound"),
    )
    return Panel(
        title=title,
        x_label="step k",
        y_label="1 - (f₊ - f*) / (f - f*)",
        curves=[
            Curve(label=label, x=steps, y=[value(r, form) for r in rows], mark=mark)
            for label, value, mark in lines
        ],
    )
