"""The settings of section 6.1 against the tables of the paper and of its code."""

from published_settings import (
    FIVE,
    PUBLISHED,
    QUINTIC,
    RATIONAL,
    check_all_runs_can_be_taken,
    check_the_oracle_changes_the_runs_with_qdwh_alone,
    check_the_quick_version_changes_nothing_but_length,
    published_runs,
)
from small_experiments import quadratic_task

from polargrad.experiments.quadratic import QuadraticTask, build, quadratic
from polargrad.problems import MatrixQuadraticRegression


def test_published_learning_rates():
    """Solver, lr, decay every 25 steps, polar factor, momentum and order: the same in both eras.

    In the paper's time Muon (QDWH) ran five steps where it says two; its momentum script still
    does. Adam has torch's defaults.
    """
    first = "momentum-first"
    expected = {
        "polargrad": ("polargrad", 4e-8, 1.0, PUBLISHED, 0.0, first),
        "polargrad-zolotarev": ("polargrad", 3e-8, 1.0, RATIONAL, 0.0, None),
        "polargrad-decay": ("polargrad", 4.75e-8, 0.99, PUBLISHED, 0.0, first),
        "muon-ns": ("muon", 1e-1, 1.0, QUINTIC, 0.95, None),
        "muon-qdwh": ("muon", 1e-1, 1.0, PUBLISHED, 0.95, None),
        "muon-qdwh-decay": ("muon", 5e-2, 0.99, PUBLISHED, 0.95, None),
        "muon-zolotarev": ("muon", 1e-1, 1.0, RATIONAL, 0.95, None),
        "adam": ("adam", 5e-2, 1.0, None, None, None),
        "adam-decay": ("adam", 5e-2, 0.99, None, None, None),
        "newton": ("newton", 0.25, 1.0, None, None, None),
        "polargrad-polar-first": ("polargrad", 4e-7, 1.0, PUBLISHED, 0.95, "polar-first"),
        "polargrad-polar-first-decay": ("polargrad", 5e-7, 0.99, PUBLISHED, 0.95, "polar-first"),
        "polargrad-momentum-first": ("polargrad", 2e-7, 1.0, PUBLISHED, 0.9, first),
        "polargrad-momentum-first-decay": ("polargrad", 2.5e-7, 0.99, PUBLISHED, 0.9, first),
        "muon-five": ("muon", 1e-1, 1.0, FIVE, 0.95, None),
        "muon-five-decay": ("muon", 5e-2, 0.99, FIVE, 0.95, None),
    }
    assert published_runs("quadratic", "reference") == expected
    for name in ("muon-qdwh", "muon-qdwh-decay"):
        expected[name] = (*expected[name][:3], FIVE, *expected[name][4:])
    assert published_runs("quadratic", "paper") == expected


def test_lengths_and_baselines():
    experiment = quadratic()
    assert experiment.steps == 4000
    assert (experiment.section, experiment.metric, experiment.smoothing) == ("6.1", "gap", 0.8)
    baselines = {
        run.name: experiment.steps_of(run) for run in experiment.runs if run.group == "baseline"
    }
    assert baselines == {
        "gradient-descent": 4000,
        "nesterov": 1000,
        "conjugate-gradients": 300,
        "l-bfgs": 300,
        "direct": 1,
    }


def test_published_panels():
    """Gap and condition numbers of residual and gradient; the nuclear norm in a figure apart."""
    figures = {f.name: [p.quantity for p in f.panels] for f in quadratic().figures}
    three = ["gap", "residual_condition", "gradient_condition"]
    assert figures == {
        "gap": three,
        "nuclear-norm": ["nuclear_norm"],
        "momentum": three,
        "momentum-nuclear-norm": ["nuclear_norm"],
        "baselines": ["gap"],
    }


def test_the_task_is_the_published_problem():
    task = build(142, "reference")
    problem, start = MatrixQuadraticRegression.published(142)
    assert isinstance(task, QuadraticTask)
    assert (task.problem.A == problem.A).all()
    assert (task.start[0] == start).all()


def test_every_published_run_can_be_taken():
    check_all_runs_can_be_taken("quadratic", quadratic_task)


def test_versions():
    check_the_quick_version_changes_nothing_but_length("quadratic")
    check_the_oracle_changes_the_runs_with_qdwh_alone("quadratic")
