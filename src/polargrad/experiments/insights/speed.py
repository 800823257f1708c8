"""Muon's speed: κ of gradients, momenta and updates beside how fast the loss falls."""

from __future__ import annotations

import math

from polargrad.experiments.insights.instability import NOTICEABLE
from polargrad.experiments.insights.protocol import (
    ADAMW,
    FAMILIES,
    MUON,
    POLARGRAD,
    SAME_VECTORS,
)
from polargrad.experiments.insights.results import InsightsResults, median_over
from polargrad.experiments.insights.statistics import median, rank_correlation, signed
from polargrad.experiments.insights.verdict import (
    NOT_SUPPORTED,
    NOT_TESTED,
    SPEED,
    SUPPORTED,
    SUPPORTED_IF,
    Verdict,
    untested,
)

SPECTRAL = (MUON.name, POLARGRAD.name)
# "Near 1": within a factor of 2.
NEAR_ONE = 2.0


def speed_verdicts(results: InsightsResults) -> list[Verdict]:
    """Return the verdicts on Muon's speed."""
    return [_update_near_one(results), _gradient_falls(results), _faster(results)]


def _update_near_one(results: InsightsResults) -> Verdict:
    numbers: dict[str, float] = {}
    parts = []
    for family in (*SPECTRAL, ADAMW.name):
        traces = results.best(family) if results.chosen([family], warmup=True) else []
        for field in ("condition", "effective", "stable_rank"):
            numbers[f"{family}_{field}"] = median_over(traces, "update", field)
        parts.append(
            f"{FAMILIES[family].label} κ₂ {numbers[f'{family}_condition']:.3g}, σ₁/median "
            f"{numbers[f'{family}_effective']:.3g}, stable rank "
            f"{numbers[f'{family}_stable_rank']:.3g}"
        )
    strict = max(numbers[f"{family}_condition"] for family in SPECTRAL)
    bulk = max(numbers[f"{family}_effective"] for family in SPECTRAL)
    if strict <= NEAR_ONE:
        verdict, condition = SUPPORTED, ""
    elif bulk <= NEAR_ONE:
        verdict = SUPPORTED_IF
        condition = "judged by the median singular value: the smallest ones stay small, as the "
        condition += "polar factor is computed to training accuracy"
    else:
        verdict, condition = NOT_SUPPORTED, ""
    made = Verdict(
        name="spectral-updates-are-well-conditioned",
        phenomenon=SPEED,
        claim="The updates of Muon and PolarGrad have a condition number near 1",
        criterion="median over layers, steps and runs at the best learning rate at most 2: of κ₂, "
        "or of σ₁/median",
        numbers=numbers,
        evidence="updates at the best learning rate: " + "; ".join(parts),
        verdict=verdict,
        condition=condition,
    )
    return untested(made, strict, bulk)


def _gradient_falls(results: InsightsResults) -> Verdict:
    """Are gradients better conditioned under the spectral rules than under AdamW?"""
    steps = results.protocol.steps
    numbers: dict[str, float] = {}
    parts = []
    for family in SAME_VECTORS:
        traces = results.best(family) if results.chosen([family], warmup=True) else []
        for kind in ("gradient", "momentum"):
            for field in ("condition", "effective", "stable_rank"):
                for name, part in (("early", (0, steps / 4)), ("late", (steps / 2, math.inf))):
                    numbers[f"{family}_{kind}_{field}_{name}"] = median_over(
                        traces, kind, field, *part
                    )
        early, late = (numbers[f"{family}_gradient_effective_{n}"] for n in ("early", "late"))
        parts.append(
            f"{FAMILIES[family].label} σ₁/median {early:.3g} → {late:.3g}, κ₂ "
            f"{numbers[f'{family}_gradient_condition_early']:.3g} → "
            f"{numbers[f'{family}_gradient_condition_late']:.3g} (momentum, late: σ₁/median "
            f"{numbers[f'{family}_momentum_effective_late']:.3g})"
        )
    lower = {family: _lower_on_seeds(results, family) for family in SPECTRAL}
    for family, (seeds, won) in lower.items():
        numbers[f"{family}_seeds_lower"] = won if seeds else math.nan
    verdict, condition = _judge_gradients([0 < seeds == won for seeds, won in lower.values()])
    against = " and ".join(
        f"{won} of {seeds} seeds ({FAMILIES[family].label})"
        for family, (seeds, won) in lower.items()
    )
    evidence = "gradients at the best learning rate, first quarter → second half: "
    evidence += "; ".join(parts) + f"; late σ₁/median below AdamW's on {against}"
    made = Verdict(
        name="gradients-better-conditioned-under-spectral-rules",
        phenomenon=SPEED,
        claim="Under Muon and PolarGrad the gradients themselves become better conditioned than "
        "under AdamW",
        criterion="σ₁/median of the gradients over the second half lower than AdamW's on every "
        "seed, each at its best learning rate",
        numbers=numbers,
        evidence=evidence,
        verdict=verdict,
        condition=condition,
    )
    return untested(made, *(numbers[f"{family}_seeds_lower"] for family in SPECTRAL))


def _judge_gradients(wins: list[bool]) -> tuple[str, str]:
    """The verdict: does Muon, does PolarGrad have the better conditioned gradients?"""
    if all(wins):
        return SUPPORTED, ""
    if any(wins):
        return SUPPORTED_IF, f"the rule is {FAMILIES[SPECTRAL[wins.index(True)]].label}"
    return NOT_SUPPORTED, ""


def _lower_on_seeds(results: InsightsResults, family: str) -> tuple[int, int]:
    """On how many seeds a family is compared with AdamW, and has the lower late σ₁/median."""
    half = results.protocol.steps / 2
    found = {}
    for name in (family, ADAMW.name):
        traces = results.best(name) if results.chosen([name], warmup=True) else []
        found[name] = {t.seed: t.middle("gradient", "effective", half) for t in traces}
    common = found[family].keys() & found[ADAMW.name].keys()
    return len(common), sum(found[family][s] < found[ADAMW.name][s] for s in common)


def _faster(results: InsightsResults) -> Verdict:
    """Does a better conditioned update go with a faster fall of the loss, at equal steps?"""
    steps = results.protocol.steps
    marks = [steps // 4, steps // 2, steps - 6]
    present = [f for f in SAME_VECTORS if results.chosen([f], warmup=True)]
    numbers: dict[str, float] = {}
    parts = []
    for family in present:
        best = results.best(family)
        numbers[f"{family}_lr"] = results.best_rate(family)
        numbers[f"{family}_final_loss"] = median([t.validation for t in best])
        numbers[f"{family}_update_effective"] = median_over(best, "update", "effective")
        for mark in marks:
            numbers[f"{family}_loss_{mark}"] = median([t.loss_near(mark) for t in best])
        losses = ", ".join(f"{numbers[f'{family}_loss_{mark}']:.3f}" for mark in marks)
        parts.append(
            f"{FAMILIES[family].label} (lr {numbers[f'{family}_lr']:g}) {losses}, validation "
            f"{numbers[f'{family}_final_loss']:.3f}, update's σ₁/median "
            f"{numbers[f'{family}_update_effective']:.3g}"
        )
    numbers |= _with_final_loss(results, present)
    verdict, condition = _judge_speed(numbers, present)
    evidence = f"training loss near steps {', '.join(map(str, marks))} at the best rates: "
    evidence += "; ".join(parts) + ". " + _evidence_over_runs(numbers, present)
    return Verdict(
        name="better-conditioned-updates-are-faster",
        phenomenon=SPEED,
        claim="A lower condition number of the update makes the loss fall faster: this is why Muon "
        "is faster than Adam",
        criterion="at the best learning rates the order by final validation loss is the order by "
        "σ₁/median of the update, and over all runs both have a rank correlation of at least 0.3",
        numbers=numbers,
        evidence=evidence,
        verdict=verdict,
        condition=condition,
    )


def _with_final_loss(results: InsightsResults, present: list[str]) -> dict[str, float]:
    """Rank correlations of measures with the final loss, over all runs and within each rule."""
    traces = results.chosen(SAME_VECTORS, warmup=True)
    numbers: dict[str, float] = {"runs": len(traces)}
    groups = {"all": traces} | {
        family: [t for t in traces if t.run.family == family] for family in present
    }
    for name, own in groups.items():
        finals = [t.validation for t in own]
        for kind in ("update", "gradient"):
            for field in ("condition", "effective"):
                values = [t.middle(kind, field) for t in own]
                numbers[f"{name}_runs_{kind}_{field}"] = rank_correlation(values, finals)
    return numbers


def _evidence_over_runs(numbers: dict[str, float], present: list[str]) -> str:
    def pair(name: str) -> str:
        update, gradient = (
            signed(numbers[f"{name}_runs_{kind}_effective"]) for kind in ("update", "gradient")
        )
        return f"{update} and {gradient}"

    within = ", ".join(f"{FAMILIES[family].label} {pair(family)}" for family in present)
    return (
        f"Rank correlation of the final loss with σ₁/median of the updates and of the gradients: "
        f"{pair('all')} over {numbers['runs']:g} runs; within {within}"
    )


def _judge_speed(numbers: dict[str, float], present: list[str]) -> tuple[str, str]:
    """The verdict: are the three ordered as their updates' condition numbers?"""
    if set(present) != set(SAME_VECTORS):
        return NOT_TESTED, ""
    by_loss = sorted(present, key=lambda f: numbers[f"{f}_final_loss"])
    by_condition = sorted(present, key=lambda f: numbers[f"{f}_update_effective"])
    together = numbers["all_runs_update_effective"]
    if by_loss == by_condition and together >= NOTICEABLE:
        return SUPPORTED, ""
    if by_loss[-1] == by_condition[-1] == ADAMW.name:
        first, better = by_loss[0], by_condition[0]
        if first == better:
            return SUPPORTED_IF, "the best run of each rule counts: over all runs it is not so"
        return SUPPORTED_IF, (
            f"spectral rules are compared with AdamW: {FAMILIES[better].label}, whose update is "
            f"the better conditioned, is slower than {FAMILIES[first].label}"
        )
    return NOT_SUPPORTED, ""
