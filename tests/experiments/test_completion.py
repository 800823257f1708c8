"""The settings of section 6.3 against the tables of the paper and of its code, in both eras."""

import pytest
import torch
from published_settings import (
    FIVE,
    PUBLISHED,
    QUINTIC,
    check_all_runs_can_be_taken,
    check_the_oracle_changes_the_runs_with_qdwh_alone,
    check_the_quick_version_changes_nothing_but_length,
    published_runs,
)
from small_experiments import completion_task

from polargrad.experiments.completion import build, completion
from polargrad.problems import LowRankCompletion

FIRST = "momentum-first"


def rows(qdwh, polargrad, polar_first, momentum_first):
    """Solver, lr, decay, polar factor, momentum and order, of the numbers that changed."""
    table = {
        "polargrad": ("polargrad", polargrad, PUBLISHED, 0.0, FIRST),
        "muon-qdwh": ("muon", 0.25, qdwh, 0.95, None),
        "adam": ("adam", 0.05, None, None, None),
        "polargrad-polar-first": ("polargrad", polar_first, PUBLISHED, 0.5, "polar-first"),
        "polargrad-momentum-first": ("polargrad", momentum_first, PUBLISHED, 0.5, FIRST),
    }
    found = {
        name + suffix: (solver, lr, decay, *rest)
        for name, (solver, lr, *rest) in table.items()
        for suffix, decay in (("", 1.0), ("-decay", 0.95))
    }
    found["muon-ns"] = ("muon", 0.25, 1.0, QUINTIC, 0.95, None)
    found["alternating-gradient"] = ("alternating-gradient", 50.0, 1.0, None, None, None)
    return found


def test_published_learning_rates():
    reference = rows(PUBLISHED, polargrad=50.0, polar_first=100.0, momentum_first=50.0)
    assert published_runs("completion", "reference") == reference
    paper = rows(FIVE, polargrad=15.0, polar_first=15.0, momentum_first=7.5)
    assert published_runs("completion", "paper") == paper


def test_lengths_and_baselines():
    experiment = completion()
    assert experiment.steps == 1000
    assert (experiment.section, experiment.smoothing) == ("6.3", 0.9)
    for run in experiment.runs:
        if run.group != "baseline":
            assert experiment.steps_of(run) == (200 if run.group == "momentum" else 1000)
    names = {run.name for run in experiment.runs if run.group == "baseline"}
    assert names == {"alternating-least-squares", "scaled-gradient", "soft-impute", "l-bfgs"}


def test_published_panels():
    """f and the condition numbers of both gradients; nuclear norms of the first 200 steps."""
    figures = {f.name: f for f in completion().figures}
    three = ["objective", "x_condition", "y_condition"]
    for name in ("objective", "objective-2", "momentum"):
        assert [panel.quantity for panel in figures[name].panels] == three
    left_out = set(figures["objective"].runs) - set(figures["objective-2"].runs)
    assert left_out == {"alternating-gradient", "adam"}
    for panel in figures["nuclear-norms"].panels:
        assert (panel.until, panel.logarithmic) == (200, False)


@pytest.mark.parametrize("era", ["reference", "paper"])
def test_the_task_is_the_published_problem(era):
    """In the paper's time all entries were fitted, and only the denominator knew the mask."""
    task = build(142, era)
    problem, start = LowRankCompletion.published(142, era)
    assert task.problem.mask_residual is (era == "reference")
    assert torch.equal(task.problem.M, problem.M)
    assert all(map(torch.equal, task.start, start))
    X, Y = task.start
    squares = (X.double() @ Y.double().mT - problem.M.double()).square()
    read = squares[problem.observed] if era == "reference" else squares
    value = float(task.problem.objective(X, Y))
    assert value == pytest.approx(float(read.sum()) / int(problem.observed.sum()), rel=1e-5)


def test_every_published_run_can_be_taken():
    check_all_runs_can_be_taken("completion", completion_task)


def test_versions():
    check_the_quick_version_changes_nothing_but_length("completion")
    check_the_oracle_changes_the_runs_with_qdwh_alone("completion")
