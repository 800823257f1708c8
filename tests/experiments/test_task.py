"""What a run works on: batches, measurements by hand, and the spectrum of a gradient."""

import math

import pytest
import torch
from matrices import conditioned, with_singular_values
from small_experiments import (
    DOUBLE,
    completion_task,
    generator,
    logistic_task,
    quadratic_task,
)

from polargrad.experiments.quadratic import QuadraticTask
from polargrad.experiments.task import spectrum
from polargrad.problems import MatrixQuadraticRegression, RowBatches


@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (7, 7), (5, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize("condition", [1.0, 1e3, 1e6])
def test_the_spectrum_is_that_of_an_svd(shape, dtype, condition):
    """Eigenvalues of the Gram matrix are off by n eps σ₁²: κ₂ by κ₂² n eps, to first order."""
    matrix = conditioned(shape, condition, dtype)
    values = torch.linalg.svdvals(matrix.double())
    expected = float(values[0] / values[-1])
    found, nuclear_norm = spectrum(matrix)
    assert found == pytest.approx(expected, rel=10 * 9 * torch.finfo(DOUBLE).eps * expected**2)
    assert nuclear_norm == pytest.approx(float(values.sum()), rel=1e-7)


def test_the_spectrum_of_special_matrices():
    assert all(map(math.isnan, spectrum(torch.tensor([[1.0, float("nan")]]))))
    assert all(map(math.isnan, spectrum(torch.full((3, 2), float("inf")))))
    condition, nuclear_norm = spectrum(torch.zeros(4, 3))
    assert math.isnan(condition)
    assert nuclear_norm == 0.0
    rank_one = with_singular_values((5, 3), torch.tensor([2.0, 0.0, 0.0]))
    condition, nuclear_norm = spectrum(rank_one)
    assert condition == math.inf
    assert nuclear_norm == pytest.approx(2.0, rel=1e-6)


def test_the_spectrum_does_not_depend_on_the_unit():
    """Gradients of 6.3 are as small as 1e-12, those of 6.1 as large as 1e9."""
    matrix = conditioned((8, 5), 50.0)
    condition, nuclear_norm = spectrum(matrix)
    for unit in (2.0**-100, 2.0**100):
        assert spectrum(unit * matrix) == pytest.approx((condition, unit * nuclear_norm))


def test_quadratic_measurements_by_hand():
    """Residual and gradient of f on a diagonal problem."""
    A = torch.diag(torch.tensor([2.0, 1.0]))
    problem = MatrixQuadraticRegression(A, torch.eye(2), torch.zeros(2, 2))
    task = QuadraticTask(problem, (torch.eye(2),))
    # A X = diag(2, 1); gradient Aᵀ A X = diag(4, 1); gap ½(4 + 1).
    assert task.measure(task.start) == pytest.approx(
        {"gap": 2.5, "residual_condition": 2.0, "gradient_condition": 4.0, "nuclear_norm": 5.0}
    )
    assert task.constants() == {
        "smoothness": 4.0,
        "strong_convexity": 1.0,
        "condition_number": 4.0,
        "optimum": 0.0,
    }


@pytest.mark.parametrize("labels", ["signs", "zero-one"])
def test_logistic_measurements_by_hand(labels):
    """The full loss per entry, but loss and gradient of the batch."""
    task = logistic_task(dtype=DOUBLE, labels=labels)
    rows = next(RowBatches(generator(1), 40, 8))
    task.advance()
    (X,), (A, B, C) = task.start, (task.problem.A, task.problem.B, task.problem.C)
    losses = torch.log1p(torch.exp(-C * (A @ X @ B)))
    gradient = -A[rows].T @ (C[rows] / (1 + torch.exp(C * (A @ X @ B)))[rows]) @ B.T
    values = torch.linalg.svdvals(gradient)
    assert task.measure((X,)) == pytest.approx(
        {
            "loss_per_entry": float(losses.mean()),
            "batch_loss": float(losses[rows].sum()),
            "gradient_condition": float(values[0] / values[-1]),
            "nuclear_norm": float(values.sum()),
        }
    )
    torch.testing.assert_close(task.gradients((X,))[0], gradient)
    assert float(task.objective((X,))) == pytest.approx(float(losses[rows].sum()))


def test_the_least_loss_is_below_all_others():
    task = logistic_task(dtype=DOUBLE)
    least = task.constants()["optimum_per_entry"]
    best = task.problem.solution()
    assert task.problem.loss_per_entry(best) == pytest.approx(least)
    for seed in range(5):
        shift = 1e-2 * torch.randn(5, 3, generator=generator(seed), dtype=DOUBLE)
        assert task.problem.loss_per_entry(best + shift) > least


def test_completion_measurements_by_hand():
    task = completion_task(dtype=DOUBLE)
    problem, (X, Y) = task.problem, task.start
    squares = (X @ Y.mT - problem.M).square()
    seen = problem.observed
    gradient = 2 / int(seen.sum()) * torch.where(seen, X @ Y.mT - problem.M, 0.0)
    by_x, by_y = (torch.linalg.svdvals(G) for G in (gradient @ Y, gradient.mT @ X))
    assert task.measure((X, Y)) == pytest.approx(
        {
            "observed_error": float(squares[seen].mean()),
            "unobserved_error": float(squares[~seen].mean()),
            "objective": float(squares[seen].mean()),
            "x_condition": float(by_x[0] / by_x[-1]),
            "y_condition": float(by_y[0] / by_y[-1]),
            "x_nuclear_norm": float(by_x.sum()),
            "y_nuclear_norm": float(by_y.sum()),
        }
    )


@pytest.mark.parametrize("task", [quadratic_task(), logistic_task(), completion_task()])
def test_what_is_lost_is_measured_as_nan(task):
    """A record of a run that has diverged is a record too."""
    task.advance()
    measured = task.measure([torch.full_like(X, float("nan")) for X in task.start])
    assert all(not math.isfinite(value) for value in measured.values())


def test_batches_are_drawn_one_a_step_and_can_be_drawn_again():
    task = logistic_task()
    stream = RowBatches(generator(1), 40, 8)
    states = []
    for _ in range(3):
        task.advance()
        assert torch.equal(task.seen.A, task.problem.A[next(stream)])
        states.append((task.state_dict(), task.seen.A))
    for state, rows in reversed(states):  # a state is that before its step's batch
        task.load_state_dict(state)
        task.advance()
        assert torch.equal(task.seen.A, rows)


def test_without_batches_all_rows_are_seen():
    task = logistic_task().without_batches()
    for _ in range(2):
        task.advance()
        assert task.seen is task.problem
    assert task.state_dict() == {}
    deterministic = quadratic_task()
    assert deterministic.without_batches() is deterministic


def test_a_deterministic_task_has_no_state():
    task = quadratic_task()
    assert task.state_dict() == {}
    task.load_state_dict({})
    with pytest.raises(ValueError, match=r"state must be empty for this task, got \['rows'\]"):
        task.load_state_dict({"rows": 1})
