"""The loop that every run goes through: what it records, when it stops, what it is given."""

import pytest
import torch

from polargrad.experiments.protocol import DECAY_EVERY, Run, descend
from polargrad.experiments.quadratic import FULL, QUICK, measure
from polargrad.problems import MatrixQuadraticRegression


def trace(run, steps, every=1, size=(6, 4, 9, 5)):
    problem = MatrixQuadraticRegression.random(*size, torch.Generator().manual_seed(0))
    start = torch.ones(size[0], size[1])
    records = list(
        descend(
            run,
            start,
            gradient=problem.gradient,
            measure=lambda X: measure(problem, X),
            steps=steps,
            every=every,
        )
    )
    assert torch.equal(start, torch.ones(size[0], size[1]))
    return problem, records


def test_gradient_descent_is_reproduced_step_by_step():
    """The seam itself: X ← X − γ ∇f(X) by hand gives the recorded gaps."""
    problem, records = trace(Run(name="gd", label="GD", optimizer="newton", lr=1e-3), steps=5)
    X = torch.ones(6, 4)
    for record in records:
        assert record["gap"] == pytest.approx(problem.gap(X), rel=1e-5)
        X = X - 1e-3 * problem.gradient(X)
    assert [record["step"] for record in records] == [0, 1, 2, 3, 4, 5]


def test_first_and_last_step_are_always_sampled():
    _, records = trace(Run(name="gd", label="GD", optimizer="newton", lr=1e-3), steps=7, every=3)
    assert [record["step"] for record in records] == [0, 3, 6, 7]


def test_learning_rates_fall_every_25_steps():
    parameter = torch.nn.Parameter(torch.eye(3))
    run = Run(name="a", label="A", optimizer="adam", lr=1.0, decay=0.5)
    optimizer, schedule = run.build(parameter)
    seen = []
    for _ in range(2 * DECAY_EVERY + 1):
        seen.append(optimizer.param_groups[0]["lr"])
        parameter.grad = torch.eye(3)
        optimizer.step()
        schedule.step()
    assert seen == [1.0] * 25 + [0.5] * 25 + [0.25]


def test_a_run_that_diverges_ends_and_says_so():
    _, records = trace(Run(name="gd", label="GD", optimizer="newton", lr=1e6), steps=500, every=10)
    assert records[-1]["diverged"]
    assert records[-1]["step"] < 500
    assert not any(record["diverged"] for record in records[:-1])


@pytest.mark.parametrize("protocol", [FULL, QUICK], ids=lambda p: p.version)
def test_every_published_run_can_be_taken(protocol):
    """Two steps of each, on a small problem: settings and optimizers fit together."""
    for run in protocol.runs:
        _, records = trace(run, steps=2)
        assert [record["step"] for record in records] == [0, 1, 2]
        assert records[-1]["gap"] != records[0]["gap"]


def test_the_quick_version_changes_nothing_but_length():
    full = {run.name: run for run in FULL.runs}
    assert all(full[run.name] == run for run in QUICK.runs)
    assert QUICK.steps < FULL.steps == 4000


def test_published_learning_rates():
    """paper.md 5.1, the runs without ZOLO-PD."""
    rates = {run.name: (run.lr, run.decay) for run in FULL.runs}
    assert rates == {
        "polargrad": (4e-8, 1.0),
        "polargrad-decay": (4.75e-8, 0.99),
        "muon-ns": (0.1, 1.0),
        "muon-qdwh": (0.1, 1.0),
        "muon-qdwh-decay": (0.05, 0.99),
        "adam": (0.05, 1.0),
        "adam-decay": (0.05, 0.99),
        "newton": (0.25, 1.0),
    }


def test_unknown_optimizers_are_refused():
    with pytest.raises(ValueError, match=r"one of polargrad, .*got 'sgdd'"):
        Run(name="a", label="A", optimizer="sgdd", lr=1.0)


def test_measure_counts_singular_values():
    """Residual −2I and gradient of f on a diagonal problem, by hand."""
    A = torch.diag(torch.tensor([2.0, 1.0]))
    problem = MatrixQuadraticRegression(A, torch.eye(2), torch.zeros(2, 2))
    found = measure(problem, torch.eye(2))
    # A X = diag(2, 1); gradient Aᵀ A X = diag(4, 1); gap ½(4 + 1).
    assert found == pytest.approx(
        {"gap": 2.5, "residual_condition": 2.0, "gradient_condition": 4.0, "nuclear_norm": 5.0}
    )
