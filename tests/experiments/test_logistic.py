"""The settings of section 6.2 against the tables of the paper and of its code, in both eras."""

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
from small_experiments import logistic_task

from polargrad.experiments.logistic import build, logistic
from polargrad.problems import MatrixLogisticRegression

FIRST = "momentum-first"


def rows(qdwh, polargrad, polargrad_decay, muon, muon_decay, momentum):
    """Solver, lr, decay, polar factor, momentum and order, of the numbers that changed."""
    return {
        "polargrad": ("polargrad", polargrad, 1.0, PUBLISHED, 0.0, FIRST),
        "polargrad-decay": ("polargrad", polargrad_decay, 0.95, PUBLISHED, 0.0, FIRST),
        "muon-ns": ("muon", muon, 1.0, QUINTIC, 0.95, None),
        "muon-qdwh": ("muon", muon, 1.0, qdwh, 0.95, None),
        "muon-qdwh-decay": ("muon", muon_decay, 0.95, qdwh, 0.95, None),
        "adam": ("adam", 5e-3, 1.0, None, None, None),
        "adam-decay": ("adam", 1e-2, 0.95, None, None, None),
        "polargrad-polar-first": ("polargrad", momentum, 1.0, PUBLISHED, 0.95, "polar-first"),
        "polargrad-polar-first-decay": (
            "polargrad",
            momentum,
            0.95,
            PUBLISHED,
            0.95,
            "polar-first",
        ),
        "polargrad-momentum-first": ("polargrad", momentum, 1.0, PUBLISHED, 0.9, FIRST),
        "polargrad-momentum-first-decay": ("polargrad", momentum, 0.95, PUBLISHED, 0.9, FIRST),
    }


def test_published_learning_rates():
    assert published_runs("logistic", "reference") == rows(
        PUBLISHED,
        polargrad=1.5e-7,
        polargrad_decay=2.5e-7,
        muon=1e-1,
        muon_decay=2e-1,
        momentum=2.5e-7,
    )
    assert published_runs("logistic", "paper") == rows(
        FIVE,
        polargrad=2.5e-7,
        polargrad_decay=5e-7,
        muon=7.5e-2,
        muon_decay=1.5e-1,
        momentum=5e-7,
    )


def test_lengths_and_baselines():
    """A baseline sees all 10,000 rows a step: as many as 1500 batches of 1000 in 150 steps."""
    experiment = logistic()
    assert experiment.steps == 1500
    assert (experiment.section, experiment.metric) == ("6.2", "loss_per_entry")
    for run in experiment.runs:
        baseline = run.group == "baseline"
        assert run.full_batch is baseline
        assert experiment.steps_of(run) == (150 if baseline else 1500)
    names = {run.name for run in experiment.runs if run.group == "baseline"}
    assert names == {"gradient-descent", "nesterov", "l-bfgs"}


def test_published_panels():
    """The paper draws the loss of the batch; the full loss is drawn beside the baselines."""
    figures = {f.name: [p.quantity for p in f.panels] for f in logistic().figures}
    three = ["batch_loss", "gradient_condition", "nuclear_norm"]
    assert figures == {"loss": three, "momentum": three, "full-loss": ["loss_per_entry"]}


@pytest.mark.parametrize(
    ("era", "labels", "kind"), [("reference", [-1, 1], "signs"), ("paper", [0, 1], "zero-one")]
)
def test_the_task_is_the_published_problem(era, labels, kind):
    """Data and start of the seed, batches from the generator that drew the start."""
    task = build(242, era)
    problem, start = MatrixLogisticRegression.published(242, labels=kind)
    stream = MatrixLogisticRegression.published_batches(242)
    assert task.problem.C.unique().tolist() == labels
    assert torch.equal(task.problem.C, problem.C)
    assert torch.equal(task.start[0], start)
    for _ in range(2):
        task.advance()
        assert torch.equal(task.seen.A, problem.A[next(stream)])


def test_every_published_run_can_be_taken():
    check_all_runs_can_be_taken("logistic", logistic_task)


def test_versions():
    check_the_quick_version_changes_nothing_but_length("logistic")
    check_the_oracle_changes_the_runs_with_qdwh_alone("logistic")
