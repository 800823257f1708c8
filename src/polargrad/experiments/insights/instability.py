"""Adam's instabilities: is its update ill-conditioned, and does that go with a rising loss?"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from polargrad.experiments.insights.protocol import ADAM_FAMILIES
from polargrad.experiments.insights.results import (
    InsightsResults,
    InsightTrace,
    median_over,
    rise,
)
from polargrad.experiments.insights.statistics import (
    median,
    partial_rank_correlation,
    rank_correlation,
    share,
    signed,
)
from polargrad.experiments.insights.verdict import (
    INSTABILITY,
    NOT_SUPPORTED,
    SUPPORTED,
    SUPPORTED_IF,
    Verdict,
    untested,
)

# A rank correlation below this explains less than a tenth of the ranks' variance.
NOTICEABLE = 0.3
# A batch's loss swings by about 0.1 nats around its mean: a spike is three times that.
SPIKE = 0.3
SPIKE_WINDOW = 10


def instability_verdicts(results: InsightsResults) -> list[Verdict]:
    """Return the verdicts on Adam's instabilities."""
    return [_raises_condition(results), _over_time(results), _over_runs(results)]


def spikes(losses: Sequence[float]) -> int:
    """Return how many losses lie 0.3 nats above the median of the ten before them.

    Example:
        >>> spikes([2.0] * 12 + [2.5] + [2.0] * 3)
        1
    """
    return sum(
        losses[k] > statistics.median(losses[k - SPIKE_WINDOW : k]) + SPIKE
        for k in range(SPIKE_WINDOW, len(losses))
    )


def _raises_condition(results: InsightsResults) -> Verdict:
    traces = results.chosen(ADAM_FAMILIES, warmup=True)
    numbers: dict[str, float] = {}
    for field in ("condition", "effective"):
        for against in ("gradient", "momentum"):
            numbers[f"share_{field}_above_{against}"] = share(
                [
                    update > other
                    for trace in traces
                    for s in trace.samples
                    for update, other in zip(s["update"][field], s[against][field], strict=True)
                ]
            )
    for kind in ("gradient", "momentum", "update"):
        for field in ("condition", "effective", "stable_rank"):
            numbers[f"{kind}_{field}"] = median_over(traces, kind, field)
    raised = [numbers[f"share_{field}_above_gradient"] for field in ("condition", "effective")]
    verdict, condition = _both_or_one(
        [value > 0.5 for value in raised], ("judged by κ₂", "judged by σ₁/median")
    )
    evidence = (
        f"κ₂ of AdamW's update is above that of its gradient in {raised[0]:.0%} of all "
        f"(layer, step) pairs, σ₁/median in {raised[1]:.0%} (against its momentum: "
        f"{numbers['share_condition_above_momentum']:.0%} and "
        f"{numbers['share_effective_above_momentum']:.0%}); medians: κ₂ "
        f"{numbers['gradient_condition']:.3g} → {numbers['update_condition']:.3g}, σ₁/median "
        f"{numbers['gradient_effective']:.3g} → {numbers['update_effective']:.3g}, stable rank "
        f"{numbers['gradient_stable_rank']:.3g} → {numbers['update_stable_rank']:.3g}"
    )
    made = Verdict(
        name="adam-raises-the-condition-number",
        phenomenon=INSTABILITY,
        claim="Adam, coordinate by coordinate, raises the condition number: its update is worse "
        "conditioned than its gradient",
        criterion="more than half of all pairs of a layer and a step, by κ₂ and by σ₁/median",
        numbers=numbers,
        evidence=evidence,
        verdict=verdict,
        condition=condition,
    )
    return untested(made, *raised)


def _over_time(results: InsightsResults) -> Verdict:
    """Within a run, at its full learning rate: does κ of the update go with a rising loss?"""
    traces = results.chosen(ADAM_FAMILIES)
    constant = results.constant
    windows = [(t, t.between(constant[0] if t.run.warmup else 0.0, constant[1])) for t in traces]
    numbers: dict[str, float] = {"runs": len(traces)}
    for kind in ("update", "gradient"):
        for field in ("condition", "effective"):
            plain, partial = [], []
            for _, samples in windows:
                x = [median(s[kind][field]) for s in samples]
                y, steps = [rise(s) for s in samples], [float(s["step"]) for s in samples]
                plain.append(rank_correlation(x, y))
                partial.append(partial_rank_correlation(x, y, steps))
            known = [value for value in partial if value == value]
            numbers[f"{kind}_{field}"] = median(plain)
            numbers[f"{kind}_{field}_given_step"] = median(partial)
            numbers[f"{kind}_{field}_share_positive"] = share([value > 0 for value in known])
    layers = _by_layer(windows)
    numbers |= {"layer_least": min(layers), "layer_median": median(layers)}
    numbers["layer_largest"] = max(layers)
    found = [numbers[f"update_{field}_given_step"] for field in ("condition", "effective")]
    verdict, condition = _both_or_one(
        [value >= NOTICEABLE for value in found], ("judged by κ₂", "judged by σ₁/median")
    )
    made = Verdict(
        name="adam-unstable-when-ill-conditioned",
        phenomenon=INSTABILITY,
        claim="Within a run of Adam, updates with a high condition number are the unstable ones",
        criterion="median rank correlation over the runs at least 0.3 with the drift over the "
        "steps taken out, by κ₂ and by σ₁/median",
        numbers=numbers,
        evidence=_evidence_over_time(numbers),
        verdict=verdict,
        condition=condition,
    )
    return untested(made, *found)


def _evidence_over_time(numbers: dict[str, float]) -> str:
    known = {name: signed(value) for name, value in numbers.items()}
    return (
        f"{numbers['runs']:g} runs of AdamW, updates at the full learning rate: the median rank "
        "correlation over time of the update's κ₂ (median layer) with the rise of the loss on its "
        f"own batch is {known['update_condition']}, with the drift over the steps taken out "
        f"{known['update_condition_given_step']} (positive in "
        f"{numbers['update_condition_share_positive']:.0%} of the runs); of σ₁/median "
        f"{known['update_effective']} and {known['update_effective_given_step']}; layer by layer "
        f"from {known['layer_least']} to {known['layer_largest']}; of the gradient's κ₂ "
        f"{known['gradient_condition_given_step']}"
    )


def _by_layer(windows: Sequence[tuple[InsightTrace, list[dict[str, Any]]]]) -> list[float]:
    """For each layer the median over runs of its κ₂'s partial correlation with the rise."""
    layers = len(windows[0][0].layers) if windows else 0
    found = []
    for layer in range(layers):
        values = [
            partial_rank_correlation(
                [s["update"]["condition"][layer] for s in samples],
                [rise(s) for s in samples],
                [float(s["step"]) for s in samples],
            )
            for _, samples in windows
        ]
        found.append(median(values))
    return found or [float("nan")]


def _over_runs(results: InsightsResults) -> Verdict:
    """Between runs: do those with ill-conditioned updates rise more and end higher?"""
    traces = results.chosen(ADAM_FAMILIES)
    outcomes: dict[str, Callable[[InsightTrace], float]] = {
        "final_loss": lambda t: t.validation,
        "rising": lambda t: t.rising(),
        "spikes": lambda t: float(spikes(t.losses)),
    }
    rates = [t.run.lr for t in traces]
    numbers: dict[str, float] = {"runs": len(traces)}
    for field in ("condition", "effective"):
        for name, outcome in outcomes.items():
            plain_and_given = [
                _with_outcome(results.chosen([family]), field, outcome) for family in ADAM_FAMILIES
            ]
            plain, given = (median(values) for values in zip(*plain_and_given, strict=True))
            numbers[f"{field}_{name}"], numbers[f"{field}_{name}_given_lr"] = plain, given
    for name, lr in (("lowest", min(rates, default=0)), ("highest", max(rates, default=0))):
        for outcome_name, outcome in outcomes.items():
            numbers[f"{outcome_name}_{name}_lr"] = median(
                [outcome(t) for t in traces if t.run.lr == lr]
            )
    verdict, condition = _judge_runs(numbers)
    made = Verdict(
        name="adam-runs-ill-conditioned-run-worse",
        phenomenon=INSTABILITY,
        claim="Runs of Adam whose updates are ill-conditioned are less stable and end higher",
        criterion="rank correlation of σ₁/median at least 0.3 with final loss and with the share "
        "of rising updates, also at a given learning rate",
        numbers=numbers,
        evidence=_evidence_over_runs(numbers),
        verdict=verdict,
        condition=condition,
    )
    return untested(made, numbers["effective_final_loss"], numbers["effective_rising"])


def _judge_runs(numbers: dict[str, float]) -> tuple[str, str]:
    plain, given = numbers["effective_final_loss"], numbers["effective_final_loss_given_lr"]
    rising, rising_given = numbers["effective_rising"], numbers["effective_rising_given_lr"]
    if min(plain, given, rising, rising_given) >= NOTICEABLE:
        return SUPPORTED, ""
    if min(plain, rising) >= NOTICEABLE:
        return SUPPORTED_IF, ("the learning rate is left free: at a given one little is left of it")
    if min(plain, given) >= NOTICEABLE:
        return SUPPORTED_IF, "a high final loss counts, not updates that raise it"
    return NOT_SUPPORTED, ""


def _evidence_over_runs(numbers: dict[str, float]) -> str:
    known = {name: signed(value) for name, value in numbers.items()}
    return (
        f"{numbers['runs']:g} runs of AdamW: rank correlation of the update's σ₁/median with the "
        f"final validation loss {known['effective_final_loss']}, at a given learning rate "
        f"{known['effective_final_loss_given_lr']}; with the share of updates that raise the loss "
        f"on their own batch {known['effective_rising']} and "
        f"{known['effective_rising_given_lr']}; of κ₂ with the final loss "
        f"{known['condition_final_loss']} and {known['condition_final_loss_given_lr']}. At the "
        f"lowest and the highest rate: spikes {numbers['spikes_lowest_lr']:g} and "
        f"{numbers['spikes_highest_lr']:g}, rising updates {numbers['rising_lowest_lr']:.0%} and "
        f"{numbers['rising_highest_lr']:.0%}, final loss {numbers['final_loss_lowest_lr']:.3f} and "
        f"{numbers['final_loss_highest_lr']:.3f}"
    )


def _with_outcome(
    traces: Sequence[InsightTrace], field: str, outcome: Callable[[InsightTrace], float]
) -> tuple[float, float]:
    """Rank correlation of a measure of the updates with an outcome: plain, and at a given rate."""
    measure = [trace.middle("update", field) for trace in traces]
    values, rates = [outcome(trace) for trace in traces], [trace.run.lr for trace in traces]
    return rank_correlation(measure, values), partial_rank_correlation(measure, values, rates)


def _both_or_one(passed: Sequence[bool], conditions: Sequence[str]) -> tuple[str, str]:
    """The verdict if all, some or none of the measures agree with the claim."""
    if all(passed):
        return SUPPORTED, ""
    if any(passed):
        return SUPPORTED_IF, conditions[list(passed).index(True)]
    return NOT_SUPPORTED, ""
