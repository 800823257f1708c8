"""Check of the floor that PolarSGD with a constant learning rate reaches under noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from polargrad.experiments.claims import FAILS, HOLDS, HOLDS_IF
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
from polargrad.experiments.theory.form import ErrorForm, Setting
from polargrad.linalg import polar

NOISE_FLOOR = "noise-floor"
GAUSSIAN = "Gaussian"
SKEWED = "skewed"
# Skewed noise: this share of the entries is hit, all in one direction, and the mean taken off.
HIT = 0.02
VARIANCES = (1e4, 1e5, 1e6, 1e7, 1e8)
VARIANCE_STEPS = 8000
# γ in units of 1/(L r); the bound is stated for at most 1/2.
RATES = (2.0, 1.0, 0.5, 0.25, 0.125, 0.0625)
RATE_STEPS = 20000
REPLICAS = 4
# One-step expectations: from each of so many points, so many draws.
POINTS = 40
DRAWS = 2000
EXPONENT = 0.1
Noise = Callable[[tuple[int, ...], torch.Generator], Tensor]


def gaussian(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Independent Gaussian entries with E‖Z‖²_F = 1."""
    return torch.randn(shape, generator=generator, dtype=torch.float64) / math.sqrt(
        shape[-2] * shape[-1]
    )


def skewed(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Rare hits of one sign minus their mean, E Z = 0 and E‖Z‖²_F = 1: as of rare words."""
    hit = torch.rand(shape, generator=generator, dtype=torch.float64) < HIT
    return (hit.double() - HIT) / math.sqrt(HIT * (1.0 - HIT) * shape[-2] * shape[-1])


NOISES: dict[str, Noise] = {GAUSSIAN: gaussian, SKEWED: skewed}


def noise_floor(setting: Setting) -> Check:
    """Measure the floor against σ² and against γ, and the one-step bound of the expectation."""
    form = setting.small
    half = 0.5 * form.certain_step
    sweep = [(GAUSSIAN, half, variance) for variance in VARIANCES]
    steps = setting.extent.steps(VARIANCE_STEPS, least=4000)
    by_variance = runs(form, sweep, steps, form.start, setting.seed, "variance")
    by_rate = []
    for noise in NOISES:
        cases = [(noise, rate * form.certain_step, 1.0) for rate in RATES]
        optimum = torch.zeros_like(form.start)
        by_rate += runs(
            form,
            cases,
            setting.extent.steps(RATE_STEPS, least=3000),
            optimum,
            setting.seed + 1,
            "rate",
        )
    expectations = list(one_step(form, setting))
    findings = _findings(form, by_variance, by_rate, expectations)
    records = (*by_variance, *by_rate)
    verdict, condition = _verdict(findings)
    return Check(
        name=NOISE_FLOOR,
        statement=(
            "With a gradient ∇f + Z, E Z = 0 and E‖Z‖²_F ≤ σ², and γ ≤ 1/(2 L r), PolarSGD obeys "
            "E Δ₊ ≤ (1 - γμ/2) Δ + (γ/2) r σ²: its gap falls linearly to a floor of at most rσ²/μ, "
            "which is said not to vanish with γ, since the step is biased."
        ),
        source="arXiv 2505.21799, theorem 2; constants derived with Young's inequality",
        evidence=_evidence(form, by_rate, findings),
        verdict=verdict,
        condition=condition,
        findings=findings,
        panels=_panels(form, by_variance, by_rate),
        records=(*({k: v for k, v in r.items() if k != "gaps"} for r in records), *expectations),
    )


def runs(
    form: ErrorForm,
    cases: Sequence[tuple[str, float, float]],
    steps: int,
    start: Tensor,
    seed: int,
    sweep: str,
) -> list[Record]:
    """Runs of PolarSGD for (noise, γ, σ²), some replicas of each, all as one stack."""
    generator = torch.Generator().manual_seed(seed)
    noise = NOISES[cases[0][0]]
    gamma = _column([case[1] for case in cases])
    deviation = _column([math.sqrt(case[2]) for case in cases])
    E = start.expand(len(gamma), *start.shape).clone()
    gaps = torch.empty(steps, len(gamma), dtype=torch.float64)
    for step in range(steps):
        G = form.gradient(E)
        gaps[step] = form.gap(E, G)
        E = _step(G + deviation * noise(tuple(E.shape), generator), E, gamma)
    tails = gaps.view(steps, len(cases), REPLICAS).mean(dim=-1)
    quarter = steps // 4
    return [
        {
            "sweep": sweep,
            "noise": name,
            "gamma": rate,
            "variance": variance,
            "steps": steps,
            "floor": float(tails[-2 * quarter :, i].mean()),
            "floor_third_quarter": float(tails[-2 * quarter : -quarter, i].mean()),
            "gaps": tails[:, i].tolist(),
        }
        for i, (name, rate, variance) in enumerate(cases)
    ]


def _column(values: list[float]) -> Tensor:
    """One number a case, repeated for its replicas, to multiply a stack of matrices."""
    column = torch.tensor(values, dtype=torch.float64).repeat_interleave(REPLICAS)
    return column[:, None, None]


def _step(signal: Tensor, E: Tensor, gamma: Tensor | float) -> Tensor:
    """E - γ‖S‖_* polar(S) for a stack of signals S."""
    U = polar(signal).U
    return E - gamma * (signal * U).sum(dim=(-2, -1), keepdim=True) * U


def one_step(form: ErrorForm, setting: Setting) -> Iterator[Record]:
    """Mean gaps after one noisy step with γ = 1/(2 L r) from points along a run without noise."""
    generator = torch.Generator().manual_seed(setting.seed + 2)
    gamma, points = 0.5 * form.certain_step, setting.extent.steps(POINTS, least=9)
    draws = setting.extent.steps(DRAWS, least=500)
    E = form.start
    for point in range(points):
        G = form.gradient(E)
        gap = float(form.gap(E, G))
        # Noise as large as the gradient, a tenth and ten times of it, in turns.
        variance = float(G.square().sum()) * 10.0 ** (2 * (point % 3) - 2)
        Z = gaussian((draws, *E.shape), generator)
        after = form.gap(_step(G + math.sqrt(variance) * Z, E, gamma))
        yield {
            "sweep": "one step",
            "gamma": gamma,
            "variance": variance,
            "gap": gap,
            "mean_next_gap": float(after.mean()),
            "standard_error": float(after.std()) / math.sqrt(draws),
            "draws": draws,
        }
        for _ in range(20):
            E = _step(form.gradient(E), E, form.certain_step)


def floor_bound(form: ErrorForm, variance: float) -> float:
    """rσ²/μ."""
    return form.rank * variance / form.strong_convexity


def _recursion_ratio(form: ErrorForm, record: Record) -> float:
    """(1 - γμ/2) Δ + (γ/2) r σ² over the mean of Δ₊ less three standard errors."""
    gamma = record["gamma"]
    allowed = (1.0 - 0.5 * gamma * form.strong_convexity) * record["gap"]
    allowed += 0.5 * gamma * form.rank * record["variance"]
    return float(allowed / (record["mean_next_gap"] - 3.0 * record["standard_error"]))


def _findings(
    form: ErrorForm,
    by_variance: list[Record],
    by_rate: list[Record],
    expectations: list[Record],
) -> tuple[Finding, ...]:
    """The recursion, the bound, and the exponents in σ² and γ."""
    bounded_runs = [
        r for r in (*by_variance, *by_rate) if r["gamma"] <= 0.5 * form.certain_step * (1 + 1e-9)
    ]
    findings = [
        bounded(
            "E Δ₊ ≤ (1 - γμ/2) Δ + (γ/2) r σ²",
            f"γ = 1/(2 L r), Gaussian, means of {expectations[0]['draws']} draws less three "
            "standard errors",
            [_recursion_ratio(form, r) for r in expectations],
        ),
        bounded(
            "floor ≤ rσ²/μ",
            "runs with γ ≤ 1/(2 L r), Gaussian and skewed; margin: the ratio",
            [floor_bound(form, r["variance"]) / r["floor"] for r in bounded_runs],
        ),
        _exponent(
            "floor ∝ σ²",
            "Gaussian, γ = 1/(2 L r)",
            [r["variance"] for r in by_variance],
            by_variance,
            1.0,
        ),
    ]
    for noise in NOISES:
        rows = _small_rates(of(by_rate, noise=noise))
        findings.append(_bias(noise, rows))
    return tuple(findings)


def _small_rates(rows: list[Record]) -> list[Record]:
    """The runs with the four smallest γ."""
    return sorted(rows, key=lambda r: float(r["gamma"]))[:4]


def _exponent(
    claim: str, condition: str, x: list[float], rows: list[Record], expected: float
) -> Finding:
    """A measured exponent of the floor."""
    exponent = slope(x, [r["floor"] for r in rows])
    right = abs(exponent - expected) <= EXPONENT
    return Finding(
        claim=claim,
        condition=f"{condition}; margin: exponent",
        steps=sum(r["steps"] for r in rows),
        violations=int(not right),
        margin=exponent,
        verdict=HOLDS if right else FAILS,
    )


def _bias(noise: str, rows: list[Record]) -> Finding:
    """Whether the floor stays as γ falls: its exponent in γ is 0 if it does and 1 if it goes."""
    exponent = slope([r["gamma"] for r in rows], [r["floor"] for r in rows])
    stays = exponent < 0.5
    return Finding(
        claim="the floor does not vanish with γ",
        condition=f"{noise} noise, γ from 1/(16 L r) to 1/(2 L r); margin: exponent in γ",
        steps=sum(r["steps"] for r in rows),
        violations=int(not stays),
        margin=exponent,
        verdict=HOLDS if stays else FAILS,
    )


def _verdict(findings: tuple[Finding, ...]) -> tuple[str, str]:
    """The verdict on the statement as a whole, and its condition."""
    *bounds, symmetric, skew = findings
    if any(f.violations for f in bounds) or skew.violations:
        return FAILS, ""
    if not symmetric.violations:
        return HOLDS, ""
    return HOLDS_IF, "the noise is skewed; with symmetric noise the floor does vanish with γ"


def _evidence(form: ErrorForm, by_rate: list[Record], findings: tuple[Finding, ...]) -> str:
    """The exponents and the looseness in words."""
    recursion, bound, variance, *biases = findings
    exponents = {noise: f.margin for noise, f in zip(NOISES, biases, strict=True)}
    skew = _small_rates(of(by_rate, noise=SKEWED))
    m, n = form.start.shape
    return (
        f"X of {m} × {n}. The floor is proportional to (σ²)^{variance.margin:.2f} and at least "
        f"{bound.margin:.2g} times below rσ²/μ; the recursion holds at {recursion.steps} points. "
        f"With Gaussian noise the floor falls as γ^{exponents[GAUSSIAN]:.2f}: at the optimum the "
        "mean step E[νU(Z)] is odd in Z and vanishes for symmetric noise. With skewed noise it "
        f"does not: the floor goes as γ^{exponents[SKEWED]:.2f} and is {skew[0]['floor']:.2g} at "
        f"1/(16 L r), {skew[-1]['floor']:.2g} at 1/(2 L r), for σ² = 1."
    )


def _panels(form: ErrorForm, by_variance: list[Record], by_rate: list[Record]) -> tuple[Panel, ...]:
    """Runs, floor against σ², floor against γ."""
    gaps = []
    for r in by_variance:
        steps = thinned(range(r["steps"]))
        y = [r["gaps"][step] for step in steps]
        gaps.append(Curve(label=f"σ² = {r['variance']:.0e}", x=steps, y=y))
    variances = [r["variance"] for r in by_variance]
    measured = Curve(
        label="measured", x=variances, y=[r["floor"] for r in by_variance], mark="points"
    )
    allowed = [floor_bound(form, variance) for variance in variances]
    rates = []
    for noise in NOISES:
        rows = of(by_rate, noise=noise)
        x = [r["gamma"] / form.certain_step for r in rows]
        y = [r["floor"] for r in rows]
        rates.append(Curve(label=f"{noise} noise", x=x, y=y, mark="points"))
    proportional = [rates[0].y[-1] * a / rates[0].x[-1] for a in rates[0].x]
    rates.append(Curve(label="proportional to γ", x=rates[0].x, y=proportional, mark="bound"))
    return (
        Panel(
            title="PolarSGD, γ = 1/(2 L r), Gaussian",
            x_label="step k",
            y_label="f - f*",
            curves=gaps,
        ),
        Panel(
            title="Floor against σ²",
            x_label="σ²",
            y_label="f - f*",
            curves=(measured, Curve(label="rσ²/μ", x=variances, y=allowed, mark="bound")),
            x_scale="log",
        ),
        Panel(
            title="Floor against γ, σ² = 1",
            x_label="γ · L r",
            y_label="f - f*",
            curves=rates,
            x_scale="log",
        ),
    )
