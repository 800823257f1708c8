"""The need for warmup: the final loss with and without, beside κ of the early updates."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from polargrad.experiments.insights.instability import NOTICEABLE
from polargrad.experiments.insights.protocol import ADAM_FAMILIES, ADAMW, FAMILIES, SAME_VECTORS
from polargrad.experiments.insights.results import InsightsResults, InsightTrace, median_over
from polargrad.experiments.insights.speed import SPECTRAL
from polargrad.experiments.insights.statistics import rank_correlation, signed
from polargrad.experiments.insights.verdict import (
    NOT_SUPPORTED,
    NOT_TESTED,
    SUPPORTED,
    SUPPORTED_IF,
    WARMUP,
    Verdict,
    untested,
)
from polargrad.language.schedules import WARMUP_STEPS

# Final losses of two seeds differ by about this: a smaller harm is not called one.
SMALLEST_HARM = 0.02
# Measures of the early updates; the largest singular value is their size.
FIELDS = ("condition", "effective", "largest")


@dataclass(frozen=True)
class Harm:
    """What leaving out warmup costs at one learning rate.

    Args:
        lr: the learning rate.
        mean: mean over seeds of the final validation loss without warmup minus that with it.
        error: its standard error; infinite with one seed.
        seeds: how many.
    """

    lr: float
    mean: float
    error: float
    seeds: int

    @classmethod
    def of(cls, lr: float, values: Sequence[float]) -> Harm:
        """From the differences of the seeds.

        Example:
            >>> print(Harm.of(0.1, [0.25, 0.75]))
            +0.500 ± 0.250 at lr 0.1
        """
        count = len(values)
        if not count or not all(map(math.isfinite, values)):
            return cls(lr, sum(values) / count if count else math.nan, math.inf, count)
        error = statistics.stdev(values) / math.sqrt(count) if count > 1 else math.inf
        return cls(lr, statistics.fmean(values), error, count)

    @property
    def needed(self) -> bool:
        """Warmup is needed: the harm is above 0.02 and, with several seeds, two errors from 0."""
        certain = self.seeds < 2 or not math.isfinite(self.mean) or self.mean > 2 * self.error
        return self.mean > SMALLEST_HARM and certain

    def __str__(self) -> str:
        spread = f" ± {self.error:.3f}" if math.isfinite(self.error) else ""
        return f"{self.mean:+.3f}{spread} at lr {self.lr:g}"


def harms_of(results: InsightsResults, family: str) -> list[Harm]:
    """Return the harm at each learning rate of a family that ran with and without warmup."""
    found = {lr: results.harms(family, lr) for lr in results.rates(family)}
    return [Harm.of(lr, list(by_seed.values())) for lr, by_seed in found.items() if by_seed]


def warmup_verdicts(results: InsightsResults) -> list[Verdict]:
    """Return the verdicts on the need for warmup."""
    return [_adam_needs(results), _spectral_need_less(results), _early_condition(results)]


def _adam_needs(results: InsightsResults) -> Verdict:
    """Does AdamW end higher without warmup at its best learning rate?"""
    numbers: dict[str, float] = {}
    at_best, elsewhere, parts = [], [], []
    for family in ADAM_FAMILIES:
        if not results.chosen([family], warmup=True):
            continue
        best = results.best_rate(family)
        harms = harms_of(results, family)
        numbers |= {f"{family}_harm_{harm.lr:g}": harm.mean for harm in harms}
        numbers |= {f"{family}_error_{harm.lr:g}": harm.error for harm in harms}
        numbers[f"{family}_best_lr"] = best
        at_best += [harm.needed for harm in harms if harm.lr == best]
        elsewhere += [(family, harm) for harm in harms if harm.needed]
        own = ", ".join(map(str, harms))
        parts.append(f"{FAMILIES[family].label} (best with warmup: lr {best:g}): {own}")
    if not at_best:
        verdict, condition = NOT_TESTED, ""
    elif all(at_best):
        verdict, condition = SUPPORTED, ""
    elif elsewhere:
        verdict = SUPPORTED_IF
        condition = "the learning rate is one of " + ", ".join(
            f"{harm.lr:g} ({FAMILIES[family].label})" for family, harm in elsewhere
        )
    else:
        verdict, condition = NOT_SUPPORTED, ""
    return Verdict(
        name="adam-needs-warmup",
        phenomenon=WARMUP,
        claim="Adam needs learning-rate warmup",
        criterion="the final validation loss is higher without it at the best learning rate: by "
        "more than 0.02 nats and twice the standard error over seeds",
        numbers=numbers,
        evidence="final validation loss without warmup minus with it, in nats: " + "; ".join(parts),
        verdict=verdict,
        condition=condition,
    )


def _spectral_need_less(results: InsightsResults) -> Verdict:
    """Compare the harms of the three rules at the best learning rate and at the next, about 3×."""
    numbers: dict[str, float] = {}
    parts, less = [], {}
    harms = {f: harms_of(results, f) for f in SAME_VECTORS if results.chosen([f], warmup=True)}
    for offset, name in enumerate(("best", "3 × best")):
        found = {}
        for family, own in harms.items():
            rates = [harm.lr for harm in own]
            place = rates.index(results.best_rate(family)) + offset
            if place < len(rates):
                found[family] = own[place]
                numbers[f"{family}_harm_{'best' if not offset else 'three_times_best'}"] = own[
                    place
                ].mean
        parts += [f"{FAMILIES[f].label} {harm} ({name})" for f, harm in found.items()]
        if len(found) == len(SAME_VECTORS):
            less[name] = all(found[f].mean < found[ADAMW.name].mean for f in SPECTRAL)
    if not less:
        verdict, condition = NOT_TESTED, ""
    elif all(less.values()):
        verdict, condition = SUPPORTED, ""
    elif any(less.values()):
        where = next(name for name, passed in less.items() if passed)
        verdict, condition = SUPPORTED_IF, f"the learning rate is {where}"
    else:
        verdict, condition = NOT_SUPPORTED, ""
    return Verdict(
        name="spectral-rules-need-less-warmup",
        phenomenon=WARMUP,
        claim="Muon and PolarGrad, whose updates are well conditioned, need warmup less than Adam",
        criterion="mean harm of leaving it out below AdamW's, at the best learning rate of each "
        "and at about three times that",
        numbers=numbers,
        evidence="final validation loss without warmup minus with it, in nats: " + ", ".join(parts),
        verdict=verdict,
        condition=condition,
    )


def _early_condition(results: InsightsResults) -> Verdict:
    """Is it κ of the early updates that makes warmup necessary?"""
    numbers = _early_and_late(results) | _early_with_harm(results)
    within, across = numbers["adam_effective"], numbers["all_effective"]
    early, late = (
        numbers.get(f"{ADAMW.name}_{part}_effective_without", math.nan)
        for part in ("early", "late")
    )
    if within >= NOTICEABLE and early > late:
        verdict, condition = SUPPORTED, ""
    elif within >= NOTICEABLE:
        verdict = SUPPORTED_IF
        condition = "runs are compared with each other: within a run the early updates are better "
        condition += "conditioned than the later ones, which need no warmup"
    elif across >= NOTICEABLE:
        verdict = SUPPORTED_IF
        condition = "rules are compared with each other: AdamW's early updates are the worst "
        condition += "conditioned, but among its runs κ does not tell which need warmup"
    else:
        verdict, condition = NOT_SUPPORTED, ""
    made = Verdict(
        name="warmup-because-of-early-condition",
        phenomenon=WARMUP,
        claim="The need for warmup comes from ill-conditioned early updates",
        criterion="AdamW's early updates are worse conditioned than its later ones, and over its "
        "runs σ₁/median of the early updates has a rank correlation of at least 0.3 with the harm",
        numbers=numbers,
        evidence=_early_evidence(numbers, results.families()),
        verdict=verdict,
        condition=condition,
    )
    return untested(made, within, across, early, late)


def _early_and_late(results: InsightsResults) -> dict[str, float]:
    """Measures of the updates of the first 20 steps and of the second half, by family."""
    half = results.protocol.steps / 2
    numbers = {}
    for family in results.families():
        for warmup, word in ((False, "without"), (True, "with")):
            traces = results.chosen([family], warmup=warmup)
            for field in FIELDS:
                numbers[f"{family}_early_{field}_{word}"] = median_over(
                    traces, "update", field, 0, WARMUP_STEPS
                )
            numbers[f"{family}_late_effective_{word}"] = median_over(
                traces, "update", "effective", half, math.inf
            )
    return numbers


def _early_with_harm(results: InsightsResults) -> dict[str, float]:
    """Rank correlations of early measures without warmup with what leaving it out cost."""
    numbers = {}
    for name, families in (("adam", ADAM_FAMILIES), ("all", tuple(results.families()))):
        pairs = _early_and_harm(results.chosen(families, warmup=False), results)
        harms = [harm for _, harm in pairs]
        for field in FIELDS:
            early = [t.middle("update", field, 0, WARMUP_STEPS) for t, _ in pairs]
            numbers[f"{name}_{field}"] = rank_correlation(early, harms)
    return numbers


def _early_evidence(numbers: dict[str, float], families: Sequence[str]) -> str:
    known = {name: signed(value) for name, value in numbers.items()}
    parts = [
        f"{FAMILIES[family].label} {numbers[f'{family}_early_effective_without']:.3g} "
        f"({numbers[f'{family}_early_effective_with']:.3g} with warmup, "
        f"{numbers[f'{family}_late_effective_without']:.3g} later)"
        for family in families
    ]
    return (
        "σ₁/median of the updates of the first 20 steps without warmup: "
        + "; ".join(parts)
        + ". Its rank correlation with the harm of leaving warmup out is "
        f"{known['all_effective']} over all runs and {known['adam_effective']} over AdamW's (κ₂: "
        f"{known['all_condition']} and {known['adam_condition']}); that of the updates' size σ₁ "
        f"is {known['adam_largest']} over AdamW's"
    )


def _early_and_harm(
    traces: Sequence[InsightTrace], results: InsightsResults
) -> list[tuple[InsightTrace, float]]:
    """Runs without warmup, each with what that cost on its seed."""
    found = []
    for trace in traces:
        harm = results.harms(trace.run.family, trace.run.lr).get(trace.seed)
        if harm is not None:
            found.append((trace, harm))
    return found
