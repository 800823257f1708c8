"""Traces of the published code: ours agree with them, and what agreement means."""

import math
from dataclasses import replace

import pytest
from small_experiments import traced

from polargrad.experiments.published import CHAOTIC, RESOLUTION, comparisons, published_traces
from polargrad.experiments.reproduce import EXPERIMENTS, choose
from polargrad.experiments.results import Results

TRACES = published_traces()["traces"]
GOLDEN = [(name, run) for name, runs in TRACES.items() for run in runs]
# One of each optimizer, order and decay, and of each problem.
FAST = [
    ("quadratic", "polargrad"),
    ("quadratic", "polargrad-decay"),
    ("quadratic", "polargrad-momentum-first"),
    ("quadratic", "muon-qdwh"),
    ("quadratic", "adam"),
    ("logistic", "polargrad-polar-first"),
    ("logistic", "adam-decay"),
    ("completion", "polargrad"),
    ("completion", "polargrad-polar-first"),
    ("completion", "muon-qdwh-decay"),
    ("completion", "adam"),
]


def full(name):
    (experiment,) = choose([name])
    return experiment


def results_of(experiment, curves, seed=42):
    """Results without a folder."""
    runs = tuple(run for run in experiment.runs if run.name in curves)
    return Results(replace(experiment, runs=runs).as_data(), [], {seed: curves}, {}, {})


def constant(name, values, seed=42, **changes):
    """Results whose runs have these values of the metric."""
    experiment = replace(full(name), **changes)
    curves = {
        run: [{"step": int(step), experiment.metric: v} for step, v in by_step.items()]
        for run, by_step in values.items()
    }
    return results_of(experiment, curves, seed)


def run_and_compare(name, run, until):
    """Take the steps, looking at those alone of which there is a published value."""
    steps = [int(step) for step in TRACES[name][run] if int(step) <= until]
    experiment = full(name)
    (found,) = (r for r in experiment.runs if r.name == run)
    short = replace(
        experiment, runs=(replace(found, steps=max(steps)),), every=10**9, also=tuple(steps)
    )
    compared = comparisons(results_of(short, {run: traced(short, run)}))
    assert [c.step for c in compared] == steps
    for comparison in compared:
        assert comparison.agrees, comparison


@pytest.mark.parametrize(("name", "run"), FAST)
def test_the_first_hundred_steps_agree(name, run):
    """Within 2 %: seed 42, the two-step oracle, today's settings."""
    run_and_compare(name, run, until=100)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "run"), GOLDEN)
def test_all_published_traces_agree_to_their_last_step(name, run):
    run_and_compare(name, run, until=math.inf)


def test_the_traces_hold_what_was_measured():
    """Numbers that were written down when the published code was run."""
    for name, run, step, value in (
        ("quadratic", "polargrad", 0, 2.142e9),
        ("quadratic", "polargrad", 10, 1.80e6),
        ("quadratic", "polargrad", 50, 34.5e3),
        ("quadratic", "polargrad", 100, 7.67e3),
        ("quadratic", "polargrad", 250, 1.18e3),
        ("quadratic", "polargrad", 1000, 24.5),
        ("quadratic", "polargrad", 2000, 1.15),
        ("quadratic", "polargrad", 4000, 5.5e-3),
        ("quadratic", "polargrad-momentum-first", 250, 6.7e-3),
        ("logistic", "adam-decay", 500, 0.74714),
        ("logistic", "adam-decay", 1500, 0.68772),
        ("logistic", "polargrad-decay", 1500, 0.6865),
        ("logistic", "muon-qdwh-decay", 1500, 0.7071),
        ("completion", "polargrad", 50, 3e-14),
        ("completion", "adam-decay", 500, 2e-13),
        ("completion", "muon-qdwh-decay", 1000, 1e-5),
    ):
        assert TRACES[name][run][str(step)] == pytest.approx(
            value, rel=0.5 if value < 1e-4 else 5e-3
        )


def test_every_published_value_is_sampled_in_full():
    """So that a whole reproduction is compared at every step that is known."""
    assert len(GOLDEN) == 24
    assert TRACES.keys() == EXPERIMENTS.keys()
    for name, run in GOLDEN:
        experiment = full(name)
        (found,) = (r for r in experiment.runs if r.name == run)
        last = experiment.steps_of(found)
        for step in map(int, TRACES[name][run]):
            assert step <= last
            assert experiment.samples(step) or step == last, (name, run, step)


def test_a_quick_version_is_compared_as_far_as_it_goes():
    for experiment in choose(list(EXPERIMENTS), quick=True):
        known = {run.name: TRACES[experiment.name].get(run.name, {}) for run in experiment.runs}
        steps = [
            int(step)
            for run in experiment.runs
            for step in known[run.name]
            if int(step) <= experiment.steps_of(run) and experiment.samples(int(step))
        ]
        assert {10, 100} <= set(steps)


def test_the_allowed_ratio_depends_on_the_step():
    """2 % to step 100, 5 % to 1000, a factor of 2 after that, at any sign of the deviation."""
    published = TRACES["quadratic"]["polargrad"]
    for factor, agreeing in (
        (1.0, {0, 10, 50, 100, 250, 500, 1000, 2000, 4000}),
        (1.019, {0, 10, 50, 100, 250, 500, 1000, 2000, 4000}),
        (1.021, {250, 500, 1000, 2000, 4000}),
        (1 / 1.021, {250, 500, 1000, 2000, 4000}),
        (1.049, {250, 500, 1000, 2000, 4000}),
        (1 / 1.051, {2000, 4000}),
        (1.99, {2000, 4000}),
        (0.49, set()),
        (2.01, set()),
    ):
        values = {step: factor * value for step, value in published.items()}
        compared = comparisons(constant("quadratic", {"polargrad": values}))
        assert {c.step for c in compared if c.agrees} == agreeing, factor
        assert all(c.deviation == pytest.approx(factor - 1) for c in compared)
        assert {c.label for c in compared} == {"PolarGrad"}


def test_what_is_not_finite_does_not_agree():
    for value in (float("nan"), float("inf"), 0.0):
        (compared,) = comparisons(constant("quadratic", {"polargrad": {"10": value}}))
        assert not compared.agrees


def test_chaotic_runs_are_compared_as_far_as_rounding_leaves_them():
    for name, runs in CHAOTIC.items():
        for run, (first, ratio) in runs.items():
            published = TRACES[name][run]
            assert str(first) in published  # no earlier than needed
            for factor in (0.99 * ratio, 1.01 / ratio, 1.01 * ratio):
                values = {step: factor * value for step, value in published.items()}
                for c in comparisons(constant(name, {run: values})):
                    near = 1.02 if c.step <= 100 else 1.05
                    assert c.allowed == (ratio if c.step >= first else near)
                    within = c.step >= first and factor < ratio
                    assert c.agrees is (within or not c.resolved)


def test_below_the_resolution_nothing_but_being_there_is_compared():
    published = TRACES["completion"]["polargrad"]
    for value, agrees in ((1e-20, True), (0.9 * RESOLUTION["completion"], True), (1e-11, False)):
        values = {step: value for step, known in published.items() if known < 1e-13}
        compared = comparisons(constant("completion", {"polargrad": values}))
        assert len(compared) == 5
        assert [c.agrees for c in compared] == [agrees] * 5


@pytest.mark.parametrize(
    ("seed", "changes"), [(43, {}), (42, {"era": "paper"}), (42, {"oracle": "exact"})]
)
def test_only_the_settings_of_the_traces_are_compared(seed, changes):
    values = {"polargrad": TRACES["quadratic"]["polargrad"]}
    assert len(comparisons(constant("quadratic", values))) == 9
    assert comparisons(constant("quadratic", values, seed, **changes)) == []
