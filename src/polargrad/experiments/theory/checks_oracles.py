"""Check of the bounds for an inexact polar factor, with its errors measured at every step."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import torch

from polargrad.experiments.claims import FAILS, HOLDS
from polargrad.experiments.theory.check import Check, Curve, Panel, Record, bounded, of
from polargrad.experiments.theory.form import ErrorForm, Setting
from polargrad.experiments.theory.oracles import ORACLES, Oracle

INEXACT = "inexact-oracle"
STEPS = 200


def inexact_oracle(setting: Setting) -> Check:
    """Check descent and rate with γ = 1/(L r (1 + δ)²) for each oracle."""
    form = setting.form
    oracles = ORACLES[: setting.extent.oracles]
    steps = setting.extent.steps(STEPS, least=20)
    records = [record for oracle in oracles for record in _run(form, oracle, steps)]
    findings = []
    for oracle in oracles:
        rows = of(records, oracle=oracle.name)
        errors = f"{oracle.label}: {_range(rows, 'epsilon', 'ε')}, {_range(rows, 'delta', 'δ')}"
        findings += [
            bounded("f₊ ≤ f - γν̂²(1 - γLr(1+δ)²/2)", errors, [descent_ratio(r) for r in rows]),
            bounded(
                "f₊ - f* ≤ (1 - (1-ε)²/(1+δ)² · max(1/r, 1/κ_G²)/κ_H) (f - f*)",
                errors,
                [rate_ratio(r, form) for r in rows],
            ),
        ]
    violated = any(f.violations for f in findings)
    return Check(
        name=INEXACT,
        statement=(
            "Let ν̂ = ⟨∇f, Û⟩ ≥ (1-ε)‖∇f‖_* and ‖Û‖²_F ≤ (1+δ)² r. A step γν̂Û with "
            "γ = 1/(L r (1+δ)²) leaves at most 1 - (1-ε)²/(1+δ)² · max(1/r, 1/κ_G²)/κ_H of the gap."
        ),
        source="derived for the scale ν̂ that the code uses; later versions of the paper treat it",
        evidence=_evidence(records, oracles),
        verdict=FAILS if violated else HOLDS,
        findings=tuple(findings),
        panels=_panels(form, records, oracles),
        records=tuple(records),
    )


def _run(form: ErrorForm, oracle: Oracle, steps: int) -> Iterator[Record]:
    """A run whose step is, at each point, the one that the bound is stated for."""
    E = form.start
    G = form.gradient(E)
    for step in range(steps):
        U = oracle(G)
        estimate = float((G * U).sum())
        singular_values = torch.linalg.svdvals(G)
        nuclear_norm = float(singular_values.sum())
        size = float(U.square().sum()) / form.rank  # (1 + δ)²
        gap = float(form.gap(E, G))
        gamma = form.certain_step / size
        E = E - gamma * estimate * U
        G = form.gradient(E)
        yield {
            "oracle": oracle.name,
            "step": step,
            "gamma": gamma,
            "gap": gap,
            "next_gap": float(form.gap(E, G)),
            "estimate": estimate,
            "epsilon": 1.0 - estimate / nuclear_norm,
            "delta": size**0.5 - 1.0,
            "rank": form.rank,
            "gradient_condition": float(singular_values[0] / singular_values[-1]),
        }


def descent_ratio(record: Record) -> float:
    """The decrease over γν̂²/2, what the inequality promises at this γ."""
    least = 0.5 * record["gamma"] * record["estimate"] ** 2
    return float((record["gap"] - record["next_gap"]) / least)


def rate_ratio(record: Record, form: ErrorForm) -> float:
    """The share of the gap that the step took off, over what the bound promises."""
    return float((1.0 - record["next_gap"] / record["gap"]) / promised_progress(record, form))


def promised_progress(record: Record, form: ErrorForm) -> float:
    """(1-ε)²/(1+δ)² · max(1/r, 1/κ_G²)/κ_H."""
    quality = (1.0 - record["epsilon"]) ** 2 / (1.0 + record["delta"]) ** 2
    best = max(1.0 / record["rank"], 1.0 / record["gradient_condition"] ** 2)
    return float(quality * best / form.condition_number)


def _range(rows: list[Record], key: str, symbol: str) -> str:
    """The smallest and the largest value; rounding alone counts as 0."""
    low, high = (
        0.0 if abs(value) < 1e-5 else value
        for value in (min(r[key] for r in rows), max(r[key] for r in rows))
    )
    return f"{symbol} = {low:.3g}" if low == high else f"{symbol} from {low:.3g} to {high:.3g}"


def _evidence(records: list[Record], oracles: tuple[Oracle, ...]) -> str:
    """The errors of the oracles in words."""
    words = []
    for oracle in oracles:
        rows = of(records, oracle=oracle.name)
        epsilon, delta = (statistics.median(r[key] for r in rows) for key in ("epsilon", "delta"))
        words.append(
            f"{oracle.label}: ε = {_small(epsilon)}, δ = {_small(delta)}, f - f* = "
            f"{rows[-1]['next_gap']:.3g}"
        )
    steps = rows[-1]["step"] + 1
    return f"Medians over {steps} steps, and the gap after them. " + "; ".join(words) + "."


def _small(value: float) -> str:
    return "0" if abs(value) < 1e-5 else f"{value:.3g}"


def _panels(
    form: ErrorForm, records: list[Record], oracles: tuple[Oracle, ...]
) -> tuple[Panel, ...]:
    """The bound's looseness at every step, and the errors that go into it."""
    progress, shortfall, size = [], [], []
    for oracle in oracles:
        rows = of(records, oracle=oracle.name)
        steps = [r["step"] for r in rows]
        ratios = [rate_ratio(r, form) for r in rows]
        progress.append(Curve(label=oracle.label, x=steps, y=ratios))
        estimates = [1.0 - r["epsilon"] for r in rows]
        shortfall.append(Curve(label=oracle.label, x=steps, y=estimates))
        size.append(Curve(label=oracle.label, x=steps, y=[1.0 + r["delta"] for r in rows]))
    one = Curve(label="what is promised", x=[0, steps[-1]], y=[1.0, 1.0], mark="bound")
    return (
        Panel(
            title="Progress over the bound's",
            x_label="step k",
            y_label="measured / promised",
            curves=(*progress, one),
        ),
        Panel(
            title="1 - ε: ⟨G, Û⟩ / ‖G‖_*",
            x_label="step k",
            y_label="1 - ε",
            curves=shortfall,
            y_scale="linear",
        ),
        Panel(
            title="1 + δ: ‖Û‖_F / √r",
            x_label="step k",
            y_label="1 + δ",
            curves=size,
            y_scale="linear",
        ),
    )
