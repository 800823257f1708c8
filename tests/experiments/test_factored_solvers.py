"""What people use for low-rank completion, against loops by hand and what is known of each."""

import dataclasses

import pytest
import torch
from small_experiments import DOUBLE, completion_task, generator, iterates

from polargrad.experiments.completion import CompletionTask
from polargrad.experiments.experiment import Run
from polargrad.experiments.solvers import make_solver
from polargrad.problems import LowRankCompletion, MatrixSensing


def run(solver, lr=None, **settings):
    return Run(name=solver, label=solver, solver=solver, lr=lr, **settings)


def close(ours, expected, tolerance=1e-10):
    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)


def changed(task, **changes):
    """The task with other data of its problem."""
    return CompletionTask(dataclasses.replace(task.problem, **changes), task.start)


def autograd(problem, X, Y):
    X, Y = X.clone().requires_grad_(), Y.clone().requires_grad_()
    return torch.autograd.grad(problem.objective(X, Y), (X, Y))


@pytest.mark.parametrize("problem", ["completion", "sensing"])
def test_partial_gradients_are_those_of_both(problem):
    draw = generator(5)
    if problem == "completion":
        problem = completion_task(dtype=DOUBLE).problem
    else:
        problem = MatrixSensing.random(6, 5, 2, 40, draw, dtype=DOUBLE)
    X, Y = (torch.randn(shape, generator=draw, dtype=DOUBLE) for shape in problem.shapes)
    for index, expected in enumerate(autograd(problem, X, Y)):
        close(problem.partial_gradient(index, X, Y), expected)
    with pytest.raises(ValueError, match=r"index must be 0 \(X\) or 1 \(Y\), got 2"):
        problem.partial_gradient(2, X, Y)
    with pytest.raises(ValueError, match="Y has shape"):
        problem.partial_gradient(0, X, X)


def test_alternating_gradient_by_hand():
    """Y moves along its gradient at the X that has moved already."""
    task = completion_task(dtype=DOUBLE)
    points, _ = iterates(task, run("alternating-gradient", 1.5), 5)
    X, Y = task.start
    for ours in points:
        close(ours[0], X)
        close(ours[1], Y)
        X = X - 1.5 * autograd(task.problem, X, Y)[0]
        Y = Y - 1.5 * autograd(task.problem, X, Y)[1]


def test_scaled_gradient_by_hand():
    """Preconditioned gradients of ½‖·‖² over Ω, divided by the share of Ω."""
    task = completion_task(dtype=DOUBLE)
    M, mask = task.problem.M, task.problem.observed
    share = mask.double().mean()
    points, _ = iterates(task, run("scaled-gradient", 0.5), 5)
    X, Y = task.start
    for ours in points:
        close(ours[0], X)
        close(ours[1], Y)
        R = torch.where(mask, X @ Y.mT - M, 0.0) / share
        moves = R @ Y @ torch.linalg.inv(Y.mT @ Y), R.mT @ X @ torch.linalg.inv(X.mT @ X)
        X, Y = X - 0.5 * moves[0], Y - 0.5 * moves[1]


def test_scaled_gradient_does_not_depend_on_the_factors_of_the_product():
    """From (X Q, Y Q⁻ᵀ) the same products follow, however ill-conditioned Q is."""
    task = completion_task(dtype=DOUBLE)
    Q = torch.tensor([[1.0, 0.3], [0.0, 1e-3]], dtype=DOUBLE)
    X, Y = task.start
    other = CompletionTask(task.problem, (X @ Q, Y @ torch.linalg.inv(Q).mT))
    ours, theirs = (iterates(t, run("scaled-gradient", 0.5), 10)[0] for t in (task, other))
    for (X, Y), (XQ, YQ) in zip(ours, theirs, strict=True):
        close(XQ @ YQ.mT, X @ Y.mT, 1e-8)


def test_scaled_gradient_of_the_papers_time_is_that_of_all_entries():
    """Without a masked residual f is that of a full mask, up to a factor that s takes out."""
    task = completion_task(dtype=DOUBLE)
    full = changed(task, mask=torch.ones(12, 9, dtype=torch.bool))
    then = changed(task, mask_residual=False, known_optimum=None)
    ours, expected = (iterates(t, run("scaled-gradient", 0.5), 5)[0] for t in (then, full))
    for point, reference in zip(ours, expected, strict=True):
        for factor, other in zip(point, reference, strict=True):
            close(factor, other)


def least_squares_rows(M, weights, other):
    """Each row by a weighted least-squares problem of its own, of least norm."""
    rows = []
    for data, w in zip(M, weights, strict=True):
        seen = w > 0
        root = w[seen].sqrt()
        rows.append(torch.linalg.pinv(root[:, None] * other[seen]) @ (root * data[seen]))
    return torch.stack(rows)


@pytest.mark.parametrize("weighted", [False, True])
def test_alternating_least_squares_by_hand(weighted):
    """With weights, and with a row that has no observation, and one that has too few."""
    task = completion_task(dtype=DOUBLE)
    mask = task.problem.observed.clone()
    mask[3] = False
    mask[4] = torch.arange(9) == 2
    weights = torch.rand(12, 9, generator=generator(3), dtype=DOUBLE) if weighted else None
    task = changed(task, mask=mask, weights=weights)
    W = mask.double() * (1.0 if weights is None else weights)
    points, _ = iterates(task, run("alternating-least-squares"), 3)
    _, Y = task.start
    for ours in points[1:]:
        X = least_squares_rows(task.problem.M, W, Y)
        Y = least_squares_rows(task.problem.M.mT, W.mT, X)
        close(ours[0], X, 1e-7)
        close(ours[1], Y, 1e-7)
        assert float(ours[0][3].abs().max()) == 0.0
    values = [float(task.problem.objective(*point)) for point in points]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize(
    ("solver", "settings", "steps"),
    [("alternating-least-squares", {}, 60), ("scaled-gradient", {"lr": 0.5}, 200)],
)
def test_small_low_rank_matrices_are_recovered(solver, settings, steps):
    """The entries that were not seen, to rounding."""
    task = completion_task(dtype=DOUBLE, size=(30, 24, 2), fraction=0.7)
    points, _ = iterates(task, run(solver, **settings), steps)
    assert task.problem.unobserved_error(*task.start) > 0.5
    assert task.problem.unobserved_error(*points[-1]) < 1e-20


def test_soft_impute_by_hand():
    """Fill what is not seen, subtract λ from the singular values, keep two; λ falls by a tenth."""
    task = completion_task(dtype=DOUBLE)
    M, mask = task.problem.M, task.problem.observed
    points, _ = iterates(task, run("soft-impute", options={"factor": 0.9}), 12)
    Z = task.start[0] @ task.start[1].mT
    threshold = float(torch.linalg.svdvals(torch.where(mask, M, 0.0))[0])
    for X, Y in points[1:]:
        threshold *= 0.9
        U, values, Vh = torch.linalg.svd(torch.where(mask, M, Z))
        Z = sum(
            max(float(values[i]) - threshold, 0.0) * torch.outer(U[:, i], Vh[i]) for i in range(2)
        )
        close(X @ Y.mT, Z)
        close(X.mT @ X, Y.mT @ Y)  # balanced factors


@pytest.mark.parametrize(
    ("solver", "settings"),
    [("scaled-gradient", {"lr": 0.5}), ("soft-impute", {"options": {"factor": 0.9}})],
)
def test_weights_are_refused_where_the_method_has_none(solver, settings):
    task = completion_task(dtype=DOUBLE)
    weighted = changed(task, weights=torch.ones(12, 9, dtype=DOUBLE))
    with pytest.raises(ValueError, match=f"weights must be None for solver '{solver}'"):
        make_solver(weighted, run(solver, **settings))


@pytest.mark.parametrize("solver", ["alternating-gradient", "scaled-gradient"])
def test_learning_rates_must_be_given(solver):
    with pytest.raises(ValueError, match=f"lr must be given for solver '{solver}', got None"):
        make_solver(completion_task(), run(solver))


def test_missing_entries_are_never_read():
    """NaN where nothing is observed changes nothing."""
    task = completion_task(dtype=DOUBLE)
    M = torch.where(task.problem.observed, task.problem.M, float("nan"))
    hidden = CompletionTask(LowRankCompletion(M, None, 2), task.start)
    for solver, settings in (
        ("alternating-gradient", {"lr": 1.0}),
        ("scaled-gradient", {"lr": 0.5}),
        ("alternating-least-squares", {}),
        ("soft-impute", {"options": {"factor": 0.9}}),
        ("l-bfgs", {}),
    ):
        ours, expected = (iterates(t, run(solver, **settings), 3)[0] for t in (hidden, task))
        assert all(map(torch.equal, ours[-1], expected[-1])), solver
