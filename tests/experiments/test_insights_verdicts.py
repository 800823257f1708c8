"""Planted effects are found, and what is not planted is not supported."""

import math
from dataclasses import replace

import pytest
from insight_runs import look, made_up, plain, sample

from polargrad.errors import RunFolderError
from polargrad.experiments.claims import HOLDS_IF
from polargrad.experiments.insights.curvature import START, curvature_verdicts, layers_looked_at
from polargrad.experiments.insights.instability import instability_verdicts, spikes
from polargrad.experiments.insights.protocol import ADAM_FAMILIES, FAMILIES
from polargrad.experiments.insights.results import rise
from polargrad.experiments.insights.run import judge_insights
from polargrad.experiments.insights.speed import speed_verdicts
from polargrad.experiments.insights.verdict import (
    NOT_SUPPORTED,
    NOT_TESTED,
    SUPPORTED,
    SUPPORTED_IF,
    Verdict,
    read_insights,
    write_verdicts,
)
from polargrad.experiments.insights.warmup import Harm, warmup_verdicts

STEPS = range(0, 100, 2)
SPECTRAL = {"muon", "polargrad"}


def is_adam(run):
    return run.family in ADAM_FAMILIES


def place(run):
    """0, 1 or 2: which learning rate of its family a run has."""
    return FAMILIES[run.family].lrs.index(run.lr)


def verdicts_of(judge, make, **settings):
    return {v.name: v for v in judge(made_up(make, **settings))}


def test_adam_that_raises_the_condition_number_is_found():
    def raising(run, seed, noise):
        return [sample(s, gradient=10.0, update=50.0) for s in STEPS], 2.0, []

    def lowering(run, seed, noise):
        return [sample(s, gradient=50.0, update=10.0) for s in STEPS], 2.0, []

    name = "adam-raises-the-condition-number"
    found = verdicts_of(instability_verdicts, raising)[name]
    assert found.verdict == SUPPORTED
    assert found.numbers["share_condition_above_gradient"] == 1.0
    found = verdicts_of(instability_verdicts, lowering)[name]
    assert found.verdict == NOT_SUPPORTED
    assert found.numbers["update_condition"] == 10.0


def test_unstable_ill_conditioned_updates_are_found():
    def planted(run, seed, noise):
        samples = []
        for step in STEPS:
            update = 10 * math.exp(noise.gauss(0, 1))
            samples.append(sample(step, update=update, change=-0.5 + 0.1 * math.log(update)))
        return samples, 2.0, []

    name = "adam-unstable-when-ill-conditioned"
    found = verdicts_of(instability_verdicts, planted)[name]
    assert found.verdict == SUPPORTED
    assert found.numbers["update_condition"] == pytest.approx(1.0)
    assert found.numbers["layer_median"] == pytest.approx(1.0, abs=0.01)
    assert verdicts_of(instability_verdicts, plain)[name].verdict == NOT_SUPPORTED


def test_a_common_drift_is_not_taken_for_an_effect():
    """κ and the rise both grow with the step, each with noise of its own."""

    def drifting(run, seed, noise):
        samples = [
            sample(
                step,
                update=10 * math.exp(step / 20 + noise.gauss(0, 0.2)),
                change=-0.9 + step / 200 + noise.gauss(0, 0.02),
            )
            for step in STEPS
        ]
        return samples, 2.0, []

    found = verdicts_of(instability_verdicts, drifting)["adam-unstable-when-ill-conditioned"]
    assert found.numbers["update_condition"] > 0.8
    assert found.verdict == NOT_SUPPORTED


def test_runs_that_are_worse_because_of_the_rate_alone_are_told_apart():
    """κ, rising updates and the final loss grow with the rate, with independent noise."""

    def by_rate(run, seed, noise):
        level = place(run)
        update = 10.0 ** (1 + level + noise.gauss(0, 0.1))
        rising = 0.1 * level + abs(noise.gauss(0, 0.02))
        samples = [
            sample(s, update=update, change=1.0 if k < rising * len(STEPS) else -1.0)
            for k, s in enumerate(STEPS)
        ]
        return samples, 2.0 + 0.3 * level + noise.gauss(0, 0.05), []

    found = verdicts_of(instability_verdicts, by_rate)["adam-runs-ill-conditioned-run-worse"]
    assert found.verdict == SUPPORTED_IF
    assert "learning rate is left free" in found.condition
    assert found.numbers["final_loss_highest_lr"] > found.numbers["final_loss_lowest_lr"]


def test_a_condition_number_near_one_is_asked_of_updates():
    def perfect(run, seed, noise):
        return [sample(s, update=1.5 if run.family in SPECTRAL else 99.0) for s in STEPS], 2.0, []

    name = "spectral-updates-are-well-conditioned"
    assert verdicts_of(speed_verdicts, perfect)[name].verdict == SUPPORTED
    assert verdicts_of(speed_verdicts, plain)[name].verdict == NOT_SUPPORTED


def test_gradients_under_the_rules_are_compared_seed_by_seed():
    def better(run, seed, noise):
        gradient = {"muon": 10.0, "polargrad": 20.0 if seed else 200.0}.get(run.family, 100.0)
        return [sample(s, gradient=gradient) for s in STEPS], 2.0, []

    name = "gradients-better-conditioned-under-spectral-rules"
    found = verdicts_of(speed_verdicts, better)[name]
    assert found.verdict == SUPPORTED_IF
    assert found.condition == "the rule is Muon"
    assert found.numbers["muon_seeds_lower"] == 3
    assert found.numbers["polargrad_seeds_lower"] == 2


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [
        ({"polargrad": 1.8, "muon": 1.9, "adamw": 2.0}, SUPPORTED),
        ({"polargrad": 1.9, "muon": 1.8, "adamw": 2.0}, SUPPORTED_IF),
        ({"polargrad": 1.9, "muon": 2.0, "adamw": 1.8}, NOT_SUPPORTED),
    ],
)
def test_speed_is_ordered_as_the_condition_numbers(losses, verdict):
    conditions = {"polargrad": 1.0, "muon": 1.5}

    def ordered(run, seed, noise):
        final = losses.get(run.family, 2.5) + 0.001 * place(run) + 0.0001 * seed
        update = conditions.get(run.family, 50.0)
        return [sample(s, update=update) for s in STEPS], final, []

    found = verdicts_of(speed_verdicts, ordered)["better-conditioned-updates-are-faster"]
    assert found.verdict == verdict
    if verdict == SUPPORTED_IF:
        assert "PolarGrad" in found.condition
        assert "slower than Muon" in found.condition


def with_harm(harm):
    """Runs whose final loss without warmup is higher by ``harm(run, noise)``."""

    def make(run, seed, noise):
        samples, _, looks = plain(run, seed, noise)
        final = 2.0 + 0.1 * abs(place(run) - 1) + 0.01 * seed
        return samples, final + (0.0 if run.warmup else harm(run, noise)), looks

    return make


def test_the_need_for_warmup_is_found():
    make = with_harm(lambda run, noise: (0.2 if is_adam(run) else 0.0) + noise.gauss(0, 0.002))
    found = verdicts_of(warmup_verdicts, make)
    assert found["adam-needs-warmup"].verdict == SUPPORTED
    assert found["adam-needs-warmup"].numbers["adamw_best_lr"] == 3e-3
    assert found["adam-needs-warmup"].numbers["adamw_harm_0.003"] == pytest.approx(0.2, abs=0.01)
    assert found["spectral-rules-need-less-warmup"].verdict == SUPPORTED
    # κ of the early updates was drawn independently of all that.
    assert found["warmup-because-of-early-condition"].verdict == NOT_SUPPORTED


def test_a_need_at_high_rates_alone_is_said_so():
    make = with_harm(lambda run, noise: 0.5 if is_adam(run) and place(run) == 2 else 0.0)
    found = verdicts_of(warmup_verdicts, make)
    assert found["adam-needs-warmup"].verdict == SUPPORTED_IF
    assert "0.01 (AdamW), 0.01 (AdamW, one rate)" in found["adam-needs-warmup"].condition
    assert found["spectral-rules-need-less-warmup"].condition == "the learning rate is 3 × best"


def test_no_need_is_not_supported():
    found = verdicts_of(warmup_verdicts, with_harm(lambda run, noise: noise.gauss(0, 0.001)))
    assert found["adam-needs-warmup"].verdict == NOT_SUPPORTED


def test_an_early_condition_number_that_goes_with_the_harm_is_found():
    def make(run, seed, noise):
        early = 10.0 ** (1 + place(run)) * (1 + 0.01 * seed) if is_adam(run) else 1.0
        samples = [sample(s, update=early if s < 20 else 2.0) for s in STEPS]
        return samples, 2.0 + (0.0 if run.warmup else 0.001 * early), []

    found = verdicts_of(warmup_verdicts, make)["warmup-because-of-early-condition"]
    assert found.verdict == SUPPORTED
    assert found.numbers["adam_effective"] > 0.9
    assert found.numbers["adamw_late_effective_without"] == 2.0


def test_a_harm_must_be_two_errors_from_zero():
    assert Harm.of(0.1, [0.1, 0.12, 0.11]).needed
    assert not Harm.of(0.1, [0.5, -0.4, 0.1]).needed
    assert not Harm.of(0.1, [0.01, 0.011, 0.009]).needed
    assert Harm.of(0.1, [0.1, math.inf]).needed
    assert Harm.of(0.1, [0.3]).needed
    assert not Harm.of(0.1, []).needed


@pytest.mark.parametrize(
    ("looked", "verdict", "words"),
    [
        # Spreads √(n/s): 20 against √(4/2); both nearly of rank one only in the first.
        ({"stable_rank": 1.0}, SUPPORTED, ""),
        ({"stable_rank": 1.5, "gradient_stable_rank": 1.3}, SUPPORTED_IF, "counts as infinite"),
        ({"stable_rank": 1.5, "gradient_stable_rank": 1.3, "smallest": 1.0}, NOT_SUPPORTED, ""),
        ({"stable_rank": 1.5, "gradient_stable_rank": 1.3, "dimension": 4000}, SUPPORTED_IF, "dim"),
        ({"stable_rank": 1.5, "dimension": 40}, SUPPORTED_IF, "larger anisotropy is"),
    ],
)
def test_the_anisotropy_of_curvature_and_gradient(looked, verdict, words):
    def make(run, seed, noise):
        return [sample(0)], 2.0, [look(**looked)] if run.curvature else []

    (found,) = curvature_verdicts(made_up(make))
    assert found.verdict == verdict
    assert words in found.condition
    assert found.numbers["share_indefinite"] == float(looked.get("smallest", -1.0) < 0)
    # Three rules, three seeds, one look each.
    assert found.numbers["layers"] == 9


def test_looks_before_the_first_step_count_once_a_seed():
    def make(run, seed, noise):
        looks = [{**look(), "step": 0}, look(), look(stable_rank=0.0)]
        return [sample(0)], 2.0, looks if run.curvature else []

    looked = list(layers_looked_at(made_up(make)))
    # Of the same initial model once for each of three seeds; a Hessian of zero says nothing.
    assert [family for family, step, _ in looked if step == 0] == [START] * 3
    assert sum(step > 0 for _, step, _ in looked) == 9


def test_a_definite_hessian_is_not_called_indefinite():
    def make(run, seed, noise):
        return [sample(0)], 2.0, [look(smallest=1e-9)] if run.curvature else []

    assert curvature_verdicts(made_up(make))[0].numbers["share_indefinite"] == 0.0


def test_too_little_is_not_tested():
    """Two samples a run, one seed, no look at a Hessian."""

    def short(run, seed, noise):
        return [sample(0), sample(50)], 2.0, []

    found = {v.name: v.verdict for v in judge_insights(made_up(short, seeds=(0,)))}
    assert found["adam-unstable-when-ill-conditioned"] == NOT_TESTED
    assert found["gradient-less-anisotropic-than-curvature"] == NOT_TESTED
    only_adam = made_up(short)
    only_adam = replace(only_adam, traces=tuple(only_adam.chosen(ADAM_FAMILIES)))
    found = {v.name: v.verdict for v in judge_insights(only_adam)}
    assert found["better-conditioned-updates-are-faster"] == NOT_TESTED
    assert found["spectral-rules-need-less-warmup"] == NOT_TESTED


def test_diverged_runs_are_judged_too():
    def diverging(run, seed, noise):
        samples, final, looks = plain(run, seed, noise)
        lost = place(run) == 2 or not run.warmup
        return (samples[:5], math.inf, looks) if lost else (samples, final, looks)

    found = {v.name: v for v in judge_insights(made_up(diverging))}
    assert found["adam-needs-warmup"].verdict == SUPPORTED
    assert found["adam-needs-warmup"].numbers["adamw_harm_0.001"] == math.inf


def test_rise_and_spikes():
    assert rise({"change": -0.3, "predicted": -0.3}) == -1.0
    assert rise({"change": 0.1, "predicted": -0.2}) == 0.5
    assert math.isnan(rise({"change": 0.1, "predicted": 0.0}))
    assert spikes([3.0 - 0.1 * k for k in range(30)]) == 0
    assert spikes([2.0] * 10 + [2.2, 2.4, 2.0, 2.31]) == 2


def test_verdicts_are_read_back(tmp_path):
    verdicts = judge_insights(made_up(plain))
    write_verdicts(tmp_path, verdicts, version="full")
    assert repr(read_insights(tmp_path)) == repr(tuple(verdicts))
    assert {v.phenomenon for v in verdicts} == {"instability", "speed", "warmup", "curvature"}
    assert all(v.command == "polargrad insights --seeds 0 1 2" for v in verdicts)
    (tmp_path / "verdicts.json").write_text('{"verdicts": [{"name": "x"}]}')
    with pytest.raises(RunFolderError, match="does not hold verdicts"):
        read_insights(tmp_path)


def test_a_verdict_is_a_row_of_the_claims():
    verdict = Verdict(
        name="n", phenomenon="speed", claim="c", criterion="r", numbers={}, evidence="e",
        verdict=SUPPORTED_IF, condition="it rains", command="polargrad insights",
    )  # fmt: skip
    claim = verdict.as_claim()
    assert (claim.claim, claim.verdict, claim.condition) == ("c", HOLDS_IF, "it rains")
    assert verdict.judgement == "supported if it rains"
    with pytest.raises(ValueError, match="condition must be given exactly for 'supported if'"):
        replace(verdict, verdict=SUPPORTED)
    with pytest.raises(ValueError, match="got 'perhaps'"):
        replace(verdict, verdict="perhaps")
