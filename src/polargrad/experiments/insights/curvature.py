"""κ_H of single layers beside κ_G: is the curvature the more anisotropic of the two?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from polargrad.experiments.insights.protocol import FAMILIES
from polargrad.experiments.insights.results import InsightsResults
from polargrad.experiments.insights.statistics import median, rank_correlation, share, signed
from polargrad.experiments.insights.verdict import (
    CURVATURE,
    NOT_SUPPORTED,
    SUPPORTED,
    SUPPORTED_IF,
    Verdict,
    untested,
)

# Products from a float32 model are uncertain by about 1e-7 of the largest eigenvalue.
ROUNDING = 1e-5
# "≪": a factor of ten.
MUCH = 10.0


# In the place of a family: before the first step all runs of a seed are the same model.
START = "start"


def layers_looked_at(results: InsightsResults) -> Iterator[tuple[str, int, Mapping[str, float]]]:
    """Yield family, step and measurements of every layer whose Hessian was looked at.

    The looks before the first step are given once a seed, as those of :data:`START`; layers of
    which H or G is zero are left out.
    """
    started = set()
    for trace in results.traces:
        for record in trace.curvature:
            first = record["step"] == 0
            if first and trace.seed in started:
                continue
            started |= {trace.seed} if first else set()
            for measured in record["curvature"].values():
                if measured["stable_rank"] > 0 and measured["gradient_stable_rank"] > 0:
                    yield START if first else trace.run.family, record["step"], measured


def spreads(measured: Mapping[str, float]) -> tuple[float, float]:
    r"""Return the largest over the root mean square, of H's eigenvalues and of G's singular values.

    .. math:: |\lambda|_{\max}\sqrt{n}/\|H\|_F, \qquad \sigma_1\sqrt{r}/\|G\|_F

    Each is a lower bound of the condition number |λ|_max/|λ|_min, σ₁/σᵣ, and at most √n, √r: the
    one of the larger matrix may be the larger for that reason alone.
    """
    return (
        math.sqrt(measured["dimension"] / measured["stable_rank"]),
        math.sqrt(measured["gradient_dimension"] / measured["gradient_stable_rank"]),
    )


def concentrations(measured: Mapping[str, float]) -> tuple[float, float]:
    """Return |λ|_max/‖H‖_F and σ₁/‖G‖_F: the spreads over the largest possible, 1 for rank one."""
    return measured["stable_rank"] ** -0.5, measured["gradient_stable_rank"] ** -0.5


def curvature_verdicts(results: InsightsResults) -> list[Verdict]:
    """Return the verdict on κ_G ≪ κ_H."""
    looked = list(layers_looked_at(results))
    numbers = _numbers([measured for _, _, measured in looked])
    for family in {family for family, _, _ in looked}:
        own = [_ratio(spreads(m)) for f, _, m in looked if f == family]
        numbers[f"{family}_spread_ratio"] = median(own)
    verdict, condition = _judge(numbers)
    made = Verdict(
        name="gradient-less-anisotropic-than-curvature",
        phenomenon=CURVATURE,
        claim="Layer by layer the gradient is far better conditioned than the Hessian, κ_G ≪ κ_H",
        criterion="in most layers the largest over the root mean square is ten times larger for "
        "the Hessian's eigenvalues than for the gradient's singular values, and also larger "
        "relative to the largest value that either dimension allows",
        numbers=numbers,
        evidence=_evidence(numbers),
        verdict=verdict,
        condition=condition,
    )
    return [untested(made, numbers["spread_ratio"])]


def _judge(numbers: dict[str, float]) -> tuple[str, str]:
    much = numbers["share_spread_much_larger"] > 0.5
    concentrated = numbers["share_concentration_larger"] > 0.5
    if much and concentrated:
        return SUPPORTED, ""
    if much:
        return SUPPORTED_IF, (
            "dimension counts: H has more eigenvalues than G has singular values; relative to the "
            "largest spread that the dimension allows, H is not the more anisotropic"
        )
    if concentrated:
        return SUPPORTED_IF, "a larger anisotropy is enough: by a factor of ten it is not"
    if numbers["share_indefinite"] > 0.5:
        return SUPPORTED_IF, (
            "κ_H counts as infinite where H is indefinite: by measures that both have, H is not "
            "ten times as anisotropic, nor more anisotropic relative to its dimension"
        )
    return NOT_SUPPORTED, ""


def _ratio(pair: tuple[float, float]) -> float:
    return pair[0] / pair[1]


def _numbers(layers: list[Mapping[str, float]]) -> dict[str, float]:
    """The evidence over all looks at a layer."""
    # A Ritz value is never below the smallest eigenvalue: one below zero, by more than what float32
    # products leave uncertain, proves the Hessian indefinite.
    indefinite = [
        m["smallest"] < -ROUNDING * max(abs(m["smallest"]), abs(m["largest"])) for m in layers
    ]
    spread, concentration = [spreads(m) for m in layers], [concentrations(m) for m in layers]
    return {
        "layers": float(len(layers)),
        "share_indefinite": share(indefinite),
        "negative_over_positive": median(
            [-m["smallest"] / m["largest"] for m in layers if m["largest"] > 0]
        ),
        "gradient_condition": median([m["gradient_condition"] for m in layers]),
        "gradient_effective": median([m["gradient_effective"] for m in layers]),
        "gradient_spread": median([g for _, g in spread]),
        "hessian_spread": median([h for h, _ in spread]),
        "gradient_stable_rank": median([m["gradient_stable_rank"] for m in layers]),
        "hessian_stable_rank": median([m["stable_rank"] for m in layers]),
        "spread_ratio": median([_ratio(pair) for pair in spread]),
        "share_spread_larger": share([h > g for h, g in spread]),
        "share_spread_much_larger": share([h >= MUCH * g for h, g in spread]),
        "concentration_ratio": median([_ratio(pair) for pair in concentration]),
        "share_concentration_larger": share([h > g for h, g in concentration]),
        "rank_correlation": rank_correlation(
            [g for _, g in concentration], [h for h, _ in concentration]
        ),
    }


def _evidence(numbers: dict[str, float]) -> str:
    by_family = ", ".join(
        f"{family.label} {numbers[f'{name}_spread_ratio']:.3g}"
        for name, family in FAMILIES.items()
        if f"{name}_spread_ratio" in numbers
    )
    return (
        f"{numbers['layers']:g} looks at a layer: {numbers['share_indefinite']:.0%} of the "
        f"Hessians are indefinite, so that κ_H = L/μ is infinite (median |λ_min|/λ_max "
        f"{numbers['negative_over_positive']:.2g}); κ_G is {numbers['gradient_condition']:.3g}. "
        f"Largest over root mean square: {numbers['hessian_spread']:.3g} (H) and "
        f"{numbers['gradient_spread']:.3g} (G), {numbers['spread_ratio']:.3g} times larger for H "
        f"({by_family}). Stable ranks: {numbers['hessian_stable_rank']:.3g} (H) and "
        f"{numbers['gradient_stable_rank']:.3g} (G); relative to its dimension H is the more "
        f"anisotropic in {numbers['share_concentration_larger']:.0%} of the looks. Rank "
        f"correlation of the two {signed(numbers['rank_correlation'])}"
    )
