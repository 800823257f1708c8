"""Verdicts follow from numbers: each judge with numbers that make it say each thing it can say."""

import math
import re
from dataclasses import replace

import pytest

from polargrad.experiments.claims import (
    FAILS,
    HOLDS,
    HOLDS_IF,
    NOT_TESTED,
    VERDICTS,
    Claim,
    Evidence,
    judge,
)
from polargrad.experiments.reproduce import choose
from polargrad.experiments.results import Results

SEEDS = (42, 142, 242)


def results(name, *curves_by_seed, timing=None, diverged=(), **options):
    """Results with these values of the metric, ``{run: {step: value}}`` for each seed."""
    (experiment,) = choose([name], **options)
    curves = {}
    for seed, values in zip(SEEDS, curves_by_seed, strict=False):
        curves[seed] = {
            run: [{"step": step, experiment.metric: value} for step, value in by_step.items()]
            for run, by_step in values.items()
        }
        for run, curve in curves[seed].items():
            curve[-1]["ended"] = "diverged" if run in diverged else "budget"
    runs = tuple(run for run in experiment.runs if run.name in curves_by_seed[0])
    settings = replace(experiment, runs=runs).as_data()
    return Results(settings, [], curves, {"runs": timing or {}}, {})


def claim_about(words, found):
    (claim,) = (
        c
        for c in judge(Evidence({found.settings["experiment"]: found}))
        if words in c.claim and c.verdict != NOT_TESTED
    )
    return claim


def check(claim, verdict, *evidence, condition=()):
    assert claim.verdict == verdict, claim
    for text in evidence:
        assert text in claim.evidence
    for text in condition:
        assert text in claim.condition
    assert claim.judgement.startswith(verdict)


# PolarGrad outperforms Adam and Muon: best final value, and fewest steps to 1 in 6.1.


def three(polargrad, muon, adam, **more):
    return {"polargrad": polargrad, "muon-qdwh": muon, "adam": adam, **more}


FAST, MIDDLING, SLOW = {0: 9.0, 10: 0.5, 40: 0.01}, {0: 9.0, 20: 0.5, 40: 0.1}, {0: 9.0, 40: 5.0}


def test_better_in_both_on_all_seeds_holds_at_the_published_rates():
    found = results("quadratic", *[three(FAST, SLOW, MIDDLING)] * 3)
    claim = claim_about("outperforms", found)
    check(
        claim,
        HOLDS_IF,
        "PolarGrad 0.01, 10 steps to 1",
        "Muon 5, never to 1",
        "Adam 0.1, 20 steps to 1",
        condition=["the learning rates are the published ones"],
    )
    assert "left out" not in claim.condition


def test_worse_in_both_does_not_hold():
    check(claim_about("outperforms", results("quadratic", three(SLOW, MIDDLING, FAST))), FAILS)


def test_a_tie_is_no_win():
    """Also where none comes to the bound."""
    check(claim_about("outperforms", results("quadratic", three(FAST, FAST, SLOW))), FAILS)
    check(claim_about("outperforms", results("quadratic", three(SLOW, SLOW, SLOW))), FAILS)


def test_the_better_end_alone_is_said():
    quick_but_coarse = {0: 9.0, 10: 0.5, 40: 0.2}
    late_but_fine = {0: 9.0, 30: 0.9, 40: 1e-6}
    found = results("quadratic", three(late_but_fine, SLOW, quick_but_coarse))
    condition = [
        "judged by the final value (better on 1 of 1 seeds)",
        "not judged by the steps to 1 (fewer on 0 of 1 seeds)",
    ]
    check(claim_about("outperforms", found), HOLDS_IF, condition=condition)
    found = results("quadratic", three(quick_but_coarse, SLOW, late_but_fine))
    condition = ["judged by the steps to 1 (fewer on 1 of 1 seeds), not judged by the final value"]
    check(claim_about("outperforms", found), HOLDS_IF, condition=condition)


def test_seeds_are_counted():
    found = results(
        "quadratic",
        three(FAST, SLOW, MIDDLING),
        three(MIDDLING, SLOW, FAST),
        three(FAST, MIDDLING, SLOW),
    )
    check(
        claim_about("outperforms", found),
        HOLDS_IF,
        "PolarGrad 0.01 [0.01 … 0.1], 10",
        condition=["(better on 2 of 3 seeds) or judged by the steps to 1 (fewer on 2 of 3"],
    )


def test_a_run_that_diverged_does_not_win():
    found = results(
        "quadratic", three({0: 9.0, 10: math.nan}, SLOW, MIDDLING), diverged=["polargrad"]
    )
    check(claim_about("outperforms", found), FAILS, "PolarGrad inf")


def test_the_best_of_a_family_counts():
    found = results("quadratic", three(SLOW, MIDDLING, SLOW, **{"polargrad-decay": FAST}))
    check(claim_about("outperforms", found), HOLDS_IF, "PolarGrad 0.01, 10 steps")


def test_baselines_that_need_fewer_steps_stand_in_the_condition():
    runs = three(
        FAST,
        SLOW,
        MIDDLING,
        **{
            "conjugate-gradients": {0: 9.0, 5: 0.1},
            "direct": {0: 9.0, 1: 1e-20},
            "gradient-descent": SLOW,
            "l-bfgs": {0: 9.0, 15: 0.2},
        },
    )
    timing = {"conjugate-gradients": {"gradient_ms": 30.0, "update_ms": 10.0}}
    claim = claim_about("outperforms", results("quadratic", runs, timing=timing))
    check(
        claim,
        HOLDS_IF,
        "conjugate gradients in 5 steps (0.2 s)",
        "direct solve in 1 step",
        "gradient descent, 2/(L+μ) not in 40 steps",
        "L-BFGS in 15 steps",
        condition=["and conjugate gradients, direct solve left out: fewer steps"],
    )


# Muon's plateau.


def plateau(constant, decayed, **options):
    found = results("logistic", {"muon-qdwh": constant, "muon-qdwh-decay": decayed}, **options)
    return claim_about("plateau", found)


def test_a_plateau_that_decay_leaves_holds():
    claim = plateau({0: 9.0, 50: 1.0, 100: 0.95}, {0: 9.0, 50: 1.0, 100: 0.3})
    check(claim, HOLDS, "keeps 0.95 of its loss per entry", "ends at 0.95", "decay at 0.3")


def test_a_falling_rate_is_no_plateau():
    claim = plateau({0: 9.0, 50: 1.0, 100: 0.4}, {0: 9.0, 50: 1.0, 100: 0.3})
    check(claim, HOLDS_IF, "keeps 0.4", condition=["decay alone is meant", "goes on falling"])
    claim = plateau({0: 9.0, 50: 1.0, 100: 0.4}, {0: 9.0, 50: 1.0, 100: 0.41})
    check(claim, FAILS)


def test_a_plateau_that_decay_does_not_leave():
    claim = plateau({0: 9.0, 50: 1.0, 100: 0.95}, {0: 9.0, 50: 1.0, 100: 0.96})
    check(claim, HOLDS_IF, condition=["the plateau alone is meant: decay does not end lower"])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_rate_that_diverges_has_no_plateau(value):
    claim = plateau({0: 9.0, 50: 1.0, 100: value}, {0: 9.0, 100: 0.3}, diverged=["muon-qdwh"])
    check(claim, FAILS)


# Oracles, and the nuclear norm.


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ((70.0, 75.0, 72.0), HOLDS),
        ((70.0, 700.0, 72.0), HOLDS),
        ((70.0, 75.0, 20.0), FAILS),
        ((70.0, 0.1, 72.0), FAILS),
    ],
)
def test_a_better_polar_factor_removes_the_plateau_or_not(ends, verdict):
    names = ("muon-ns", "muon-qdwh", "muon-zolotarev")
    runs = {name: {0: 1e3, 10: end} for name, end in zip(names, ends, strict=True)}
    claim = claim_about("A better polar factor", results("quadratic", runs))
    check(claim, verdict, f"Muon (QDWH) {ends[1]:.3g}", f"at 1/{70 / min(ends[1:]):.2g} of")


@pytest.mark.parametrize(("end", "verdict"), [(1e-3, HOLDS), (0.5, HOLDS), (2.0, FAILS)])
def test_the_nuclear_norm_is_needed_or_not(end, verdict):
    runs = {"polargrad": {0: 1e3, 10: end}, "muon-qdwh": {0: 1e3, 10: 70.0}}
    claim = claim_about("The nuclear norm is needed", results("quadratic", runs))
    check(claim, verdict, f"PolarGrad ends at {end:.3g}", "at 70")


# Momentum: steps to 1 in 6.1.


def momentum(constant, falling):
    """Runs that come to the bound at these steps; None is not run, infinity never.

    Without momentum, polar-first and momentum-first, at a constant rate and at a falling one.
    """
    names = ("polargrad", "polargrad-polar-first", "polargrad-momentum-first")
    steps = dict(zip(names, constant, strict=True))
    steps |= {f"{name}-decay": at for name, at in zip(names, falling, strict=True)}
    runs = {
        name: {0: 9.0, (99 if math.isinf(at) else at): 9.0 if math.isinf(at) else 0.5}
        for name, at in steps.items()
        if at is not None
    }
    return claim_about("Momentum, in either order", results("quadratic", runs))


def test_momentum_that_is_faster_in_both_orders_at_both_schedules_holds():
    check(
        momentum((50, 20, 30), (40, 10, 15)),
        HOLDS,
        "a constant rate: none 50 steps (0.5), polar-first 20 steps (0.5), momentum-first 30",
        "a falling rate: none 40 steps (0.5), polar-first 10 steps (0.5), momentum-first 15",
    )


def test_momentum_is_compared_at_equal_schedules():
    """A falling rate without momentum does not speak against momentum at a constant one."""
    claim = momentum((50, 20, 30), (10, 5, 6))
    check(claim, HOLDS)
    claim = momentum((50, 20, 30), (10, 15, 16))
    check(claim, HOLDS_IF)
    assert claim.condition == (
        "it is polar-first at a constant rate or momentum-first at a constant rate; "
        "not polar-first at a falling rate, momentum-first at a falling rate"
    )


def test_momentum_in_one_order():
    claim = momentum((50, 60, 30), (40, math.inf, 20))
    check(claim, HOLDS_IF, "polar-first never (9)")
    assert claim.condition == (
        "it is momentum-first at a constant rate or momentum-first at a falling rate; "
        "not polar-first at a constant rate, polar-first at a falling rate"
    )


def test_momentum_that_was_not_run_is_not_judged():
    check(momentum((50, None, 30), (None, None, None)), HOLDS)
    claim = momentum((50, None, 30), (20, None, None))
    check(claim, HOLDS, "a falling rate: none 20 steps")
    check(momentum((50, None, 30), (None, 5, 6)), HOLDS)


@pytest.mark.parametrize(
    "steps",
    [
        ((20, 30, 30), (20, 20, 20)),
        ((math.inf,) * 3, (math.inf,) * 3),
        ((20, math.inf, 20), (None, 5, 5)),
    ],
)
def test_momentum_that_is_not_faster_does_not_hold(steps):
    check(momentum(*steps), FAILS)


# The noise floor of PolarSGD.


@pytest.mark.parametrize(
    ("constant", "decayed", "verdict"),
    [
        ({0: 9.0, 40: 1.0, 100: 0.99}, 0.7, HOLDS),
        ({0: 9.0, 40: 1.0, 100: 0.5}, 0.3, FAILS),
        ({0: 9.0, 40: 1.0, 100: 0.99}, 1.1, FAILS),
        ({0: 9.0, 40: 1.0, 100: math.nan}, 0.3, FAILS),
    ],
)
def test_a_noise_floor_is_flat_and_decay_is_below_it(constant, decayed, verdict):
    runs = {"polargrad": constant, "polargrad-decay": {0: 9.0, 100: decayed}}
    found = replace(results("logistic", runs), constants={"42": {"optimum_per_entry": 0.25}})
    claim = claim_about("noise floor", found)
    check(claim, verdict, f"decay {decayed:.3g}", f"constant rate {constant[100]:.3g}")
    assert "0.25" in claim.evidence


# The whole table.


def everything():
    """Each experiment in full with the same values for each run."""
    return {
        e.name: results(e.name, {run.name: {0: 9.0, 50: 1.0, 100: 0.5} for run in e.runs})
        for e in choose(["quadratic", "logistic", "completion"])
    }


def test_every_claim_has_a_verdict_and_every_verdict_a_command():
    claims = judge(Evidence(everything()))
    assert len({claim.claim for claim in claims}) == len(claims) >= 12
    for claim in claims:
        assert claim.verdict in VERDICTS
        if claim.verdict != NOT_TESTED:
            assert re.fullmatch(
                r"polargrad reproduce (quadratic|logistic|completion) --seeds 42", claim.command
            )
            assert re.search(r"\d", claim.evidence)


def test_the_command_is_that_of_the_results():
    found = results("quadratic", three(FAST, SLOW, MIDDLING), quick=True, oracle="exact")
    claim = claim_about("outperforms", found)
    assert claim.command == "polargrad reproduce quadratic --quick --oracle exact"


def test_what_was_not_run_is_not_tested():
    claims = judge(Evidence({}))
    assert {claim.verdict for claim in claims} == {NOT_TESTED}
    partial = results("quadratic", {"polargrad": FAST})
    (claim,) = (c for c in judge(Evidence({"quadratic": partial})) if "nuclear norm" in c.claim)
    assert claim.verdict == NOT_TESTED
    assert claim.evidence == "this version has no muon-qdwh"


def test_claims_that_other_commands_judge_are_taken_over():
    own = Claim("c", "e", HOLDS, "polargrad theory")
    assert own in judge(Evidence({}, [own]))


@pytest.mark.parametrize(
    ("verdict", "condition", "message"),
    [
        ("maybe", "", "verdict must be one of holds, holds if"),
        (HOLDS, "x", "condition must be given exactly for 'holds if', got 'x' for 'holds'"),
        (HOLDS_IF, "", "condition must be given exactly for 'holds if'"),
    ],
)
def test_verdicts_and_conditions_are_checked(verdict, condition, message):
    with pytest.raises(ValueError, match=message):
        Claim("c", "e", verdict, "polargrad theory", condition)
