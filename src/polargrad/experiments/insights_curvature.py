"""κ_H of single layers beside κ_G: is the curvature the more anisotropic of the two?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from polargrad.experiments.insights_protocol import FAMILIES
from polargrad.experiments.insights_results import InsightsResults
from polargrad.experiments.insights_statistics import median, rank_correlation, share
from polargrad.experiments.insights_verdict import (
    CURVATURE,
    NOT_SUPPORTED,
    SUPPORTED,
    SUPPORTED_IF,
    Verdict,
    untested,
)

# "≪": a factor of ten.
MUCH = 10.0


def layers_looked_at(results: InsightsResults) -> Iterator[tuple[str, int, Mapping[str, float]]]:
    """Yield family, step and measurements of every layer whose Hessian was looked at."""
    for trace in results.traces:
        for record in trace.curvature:
            for measured in record["curvature"].values():
                yield trace.run.family, record["step"], measured


def curvature_verdicts(results: InsightsResults) -> list[Verdict]:
    """Return the verdict on κ_G ≪ κ_H."""
    looked = list(layers_looked_at(results))
    layers = [measured for _, _, measured in looked]
    # A Ritz value is never below the smallest eigenvalue: one below zero, by more than what float32
    # products leave uncertain, proves the Hessian indefinite.
    indefinite = [
        m["smallest"] < -1e-5 * max(abs(m["smallest"]), abs(m["largest"])) for m in layers
    ]
    ratios = [m["spread"] / m["gradient_spread"] for m in layers]
    numbers = {
        "layers": float(len(layers)),
        "share_indefinite": share(indefinite),
        "negative_over_positive": median([-m["smallest"] / m["largest"] for m in layers]),
        "gradient_condition": median([m["gradient_condition"] for m in layers]),
        "gradient_effective": median([m["gradient_effective"] for m in layers]),
        "gradient_spread": median([m["gradient_spread"] for m in layers]),
        "hessian_spread": median([m["spread"] for m in layers]),
        "ratio": median(ratios),
        "ratio_least": min(ratios, default=math.nan),
        "share_larger": share([ratio > 1.0 for ratio in ratios]),
        "share_much_larger": share([ratio >= MUCH for ratio in ratios]),
        "rank_correlation": rank_correlation(
            [m["gradient_spread"] for m in layers], [m["spread"] for m in layers]
        ),
    }
    for family in {family for family, _, _ in looked}:
        own = [m["spread"] / m["gradient_spread"] for f, _, m in looked if f == family]
        numbers[f"{family}_ratio"] = median(own)
    if numbers["share_much_larger"] > 0.5 and numbers["share_larger"] >= 0.9:
        verdict, condition = SUPPORTED, ""
    elif numbers["share_larger"] > 0.5:
        verdict = SUPPORTED_IF
        condition = (
            "κ_H is infinite where H is indefinite; where both are measured alike, by the largest "
            f"over the root mean square, H is the more anisotropic by a factor of "
            f"{numbers['ratio']:.2g} only"
        )
    else:
        verdict, condition = NOT_SUPPORTED, ""
    by_family = ", ".join(
        f"{family.label} {numbers[f'{name}_ratio']:.3g}"
        for name, family in FAMILIES.items()
        if f"{name}_ratio" in numbers
    )
    evidence = (
        f"{len(layers)} looks at a layer: {numbers['share_indefinite']:.0%} of the Hessians are "
        f"indefinite, so that κ_H = L/μ is infinite (median |λ_min|/λ_max "
        f"{numbers['negative_over_positive']:.2g}); κ_G is {numbers['gradient_condition']:.3g}. "
        f"Largest over root mean square: eigenvalues {numbers['hessian_spread']:.3g}, singular "
        f"values of the gradient {numbers['gradient_spread']:.3g}, the first larger in "
        f"{numbers['share_larger']:.0%} of the looks, the median ratio {numbers['ratio']:.3g} "
        f"({by_family}); rank correlation of the two {numbers['rank_correlation']:+.2f}"
    )
    made = Verdict(
        name="gradient-less-anisotropic-than-curvature",
        phenomenon=CURVATURE,
        claim="Layer by layer the gradient is far better conditioned than the Hessian, κ_G ≪ κ_H",
        criterion="largest over root mean square ten times larger for the Hessian's eigenvalues "
        "than for the gradient's singular values in most layers, and larger in nine of ten",
        numbers=numbers,
        evidence=evidence,
        verdict=verdict,
        condition=condition,
    )
    return [untested(made, numbers["ratio"])]
