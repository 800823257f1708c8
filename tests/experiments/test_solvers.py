"""Optimizers and convex baselines against their formulas and the rates of their theory."""

import itertools
import math

import pytest
import torch
from matrices import conditioned, polar_oracle
from small_experiments import DOUBLE, completion_task, iterates, logistic_task, quadratic_task

from polargrad.experiments.experiment import Run
from polargrad.experiments.oracles import muon_options, oracle_options, polargrad_options
from polargrad.experiments.quadratic import QuadraticTask
from polargrad.experiments.solvers import SOLVERS, make_solver
from polargrad.experiments.solvers.optimizers import DECAY_EVERY
from polargrad.problems import MatrixQuadraticRegression


def run(solver, lr=None, **settings):
    return Run(name=solver, label=solver, solver=solver, lr=lr, **settings)


def close(ours, expected, tolerance=1e-10):
    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)


def nuclear(matrix):
    return torch.linalg.svdvals(matrix).sum()


@pytest.mark.parametrize("order", ["none", "momentum-first", "polar-first"])
def test_polargrad_by_hand(order):
    """X ← X − γ ‖·‖* U, of the gradient or of its average; or an average of U."""
    task = quadratic_task(dtype=DOUBLE)
    beta, lr = (0.0 if order == "none" else 0.9), 1e-3
    options = polargrad_options("exact", beta, "polar-first" if "polar" in order else order)
    if order == "none":
        options = polargrad_options("exact")
    points, _ = iterates(task, run("polargrad", lr, options=options), 6)
    (X,), M = task.start, torch.zeros_like(task.start[0])
    for (ours,) in points:
        close(ours, X)
        G = task.problem.gradient(X)
        if order == "polar-first":
            M = beta * M + (1 - beta) * polar_oracle(G)
            X = X - lr * nuclear(G) * M
        else:
            M = beta * M + (1 - beta) * G
            X = X - lr * nuclear(M) * polar_oracle(M)


def test_muon_of_the_published_experiments_by_hand():
    """M ← 0.95 M + 0.05 G, X ← X − γ polar(0.95 M + 0.05 G): no factor of the shape."""
    task = quadratic_task(dtype=DOUBLE)
    points, _ = iterates(task, run("muon", 0.1, options=muon_options("exact")), 6)
    (X,), M = task.start, torch.zeros_like(task.start[0])
    for (ours,) in points:
        close(ours, X)
        G = task.problem.gradient(X)
        M = 0.95 * M + 0.05 * G
        X = X - 0.1 * polar_oracle(0.95 * M + 0.05 * G)


def test_adam_by_hand():
    task = quadratic_task(dtype=DOUBLE)
    points, _ = iterates(task, run("adam", 0.05), 6)
    (X,), m, v = task.start, 0.0, 0.0
    for k, (ours,) in enumerate(points, start=1):
        close(ours, X)
        G = task.problem.gradient(X)
        m, v = 0.9 * m + 0.1 * G, 0.999 * v + 0.001 * G * G
        X = X - 0.05 * (m / (1 - 0.9**k)) / ((v / (1 - 0.999**k)).sqrt() + 1e-8)


def test_unknowns_are_matrices_of_their_own():
    """Each factor has its own polar step and its own nuclear norm."""
    task = completion_task(dtype=DOUBLE)
    points, _ = iterates(task, run("polargrad", 0.1, options=polargrad_options("exact")), 1)
    for ours, start, G in zip(points[1], task.start, task.gradients(task.start), strict=True):
        close(ours, start - 0.1 * nuclear(G) * polar_oracle(G))


@pytest.mark.parametrize("lr", [1.0, 0.25])
def test_newton_shrinks_the_gap_by_its_step(lr):
    """X − γ H⁻¹ G leaves 1 − γ of the way, and so (1 − γ)² of the gap."""
    task = quadratic_task(dtype=DOUBLE)
    points, _ = iterates(task, run("newton", lr), 3)
    gaps = [task.problem.gap(X) for (X,) in points]
    for k, gap in enumerate(gaps):
        assert gap == pytest.approx((1 - lr) ** (2 * k) * gaps[0], rel=1e-9, abs=1e-20 * gaps[0])


def test_learning_rates_fall_every_25_steps():
    """X − γG with G constant: steps of lengths γ, and γ/2 from the 26th on."""
    task = quadratic_task(dtype=DOUBLE)
    _, solver = iterates(task, run("adam", 1.0, decay=0.5), 0)
    rates = []
    for _ in range(2 * DECAY_EVERY + 1):
        rates.append(solver.optimizer.param_groups[0]["lr"])
        solver.gradients = (torch.ones(6, 4, dtype=DOUBLE),)
        solver.update()
    assert rates == [1.0] * 25 + [0.5] * 25 + [0.25]


def test_gradient_descent_contracts_as_theory_says():
    """‖X − X*‖ falls by (κ − 1)/(κ + 1) a step, and by no less along the extreme directions."""
    A, B = torch.diag(torch.tensor([3.0, 1.0], dtype=DOUBLE)), torch.eye(2, dtype=DOUBLE)
    problem = MatrixQuadraticRegression(A, B, torch.zeros(2, 2, dtype=DOUBLE))
    task = QuadraticTask(problem, (torch.ones(2, 2, dtype=DOUBLE),))
    points, _ = iterates(task, run("gradient-descent"), 20)
    for k, (X,) in enumerate(points):  # κ = 9, and all of X is along extreme directions
        close(X.abs(), torch.full((2, 2), 0.8**k, dtype=DOUBLE), 1e-12)


def test_nesterov_by_hand_and_its_rate():
    r"""β = (√κ−1)/(√κ+1); f(X_k) − f* ≤ (1 − 1/√κ)^k (f(X₀) − f* + ½ μ ‖X₀ − X*‖²)."""
    task = quadratic_task(dtype=DOUBLE, size=(6, 4, 40, 20))
    problem = task.problem
    root = math.sqrt(problem.condition_number)
    beta = (root - 1) / (root + 1)
    X = Y = task.start[0]
    distance = float((X - problem.solution()).square().sum())
    bound = problem.gap(X) + 0.5 * problem.strong_convexity * distance
    points, solver = iterates(task, run("nesterov"), 30)
    for k, (ours,) in enumerate(points):
        close(ours, Y)
        assert problem.gap(X) <= (1 - 1 / root) ** k * bound
        last, X = X, Y - problem.gradient(Y) / problem.smoothness
        Y = X + beta * (X - last)
    close(solver.last, last)


def test_nesterov_without_strong_convexity():
    """β_k = k/(k + 3); f(X_k) − f* ≤ 2 L ‖X₀ − X*‖² / (k + 1)²."""
    task = logistic_task(dtype=DOUBLE).without_batches()
    problem = task.problem
    X = Y = task.start[0]
    bound = 2 * problem.smoothness * float((X - problem.solution()).square().sum())
    points, _ = iterates(task, run("nesterov"), 40)
    for k, (ours,) in enumerate(points):
        close(ours, Y)
        assert problem.gap(X) <= bound / (k + 1) ** 2
        last, X = X, Y - problem.gradient(Y) / problem.smoothness
        Y = X + k / (k + 3) * (X - last)


def test_conjugate_gradients_end_after_as_many_steps_as_eigenvalues():
    """A Hessian of four distinct eigenvalues, 1, 4, 9 and 36: not three steps, but four."""
    A = torch.diag(torch.tensor([1.0, 1.0, 2.0, 2.0], dtype=DOUBLE))
    B = torch.diag(torch.tensor([1.0, 3.0], dtype=DOUBLE))
    C = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    problem = MatrixQuadraticRegression(A, B, C)
    task = QuadraticTask(problem, (torch.ones(4, 2, dtype=DOUBLE),))
    points, _ = iterates(task, run("conjugate-gradients"), 6)
    gaps = [problem.gap(X) for (X,) in points]
    assert gaps[3] > 1e-6 * gaps[0]
    assert max(gaps[4:]) < 1e-26 * gaps[0]


def test_conjugate_gradients_have_orthogonal_gradients_and_conjugate_steps():
    task = quadratic_task(dtype=DOUBLE)
    points, _ = iterates(task, run("conjugate-gradients"), 8)
    gradients = torch.stack([task.problem.gradient(X).flatten() for (X,) in points[:-1]])
    moves = [new - old for (old,), (new,) in itertools.pairwise(points)]
    images = torch.stack([(task.problem.A @ D @ task.problem.B).flatten() for D in moves])
    for vectors in (gradients, images):
        unit = vectors / vectors.norm(dim=1, keepdim=True)
        close(unit @ unit.mT, torch.eye(8, dtype=DOUBLE), 1e-9)


def test_conjugate_gradients_rest_at_the_optimum():
    problem = MatrixQuadraticRegression(*(torch.eye(2, dtype=DOUBLE) for _ in range(3)))
    task = QuadraticTask(problem, (torch.eye(2, dtype=DOUBLE),))
    points, _ = iterates(task, run("conjugate-gradients"), 2)
    assert all(torch.equal(X, torch.eye(2, dtype=DOUBLE)) for (X,) in points)


def test_the_direct_solution_solves_the_normal_equations():
    """(B Bᵀ ⊗ Aᵀ A) vec X = vec(Aᵀ C Bᵀ), solved as one large system."""
    task = quadratic_task(dtype=DOUBLE)
    A, B, C = task.problem.A, task.problem.B, task.problem.C
    hessian = torch.kron(A.mT @ A, B @ B.mT)  # of the rows of X, one after another
    expected = torch.linalg.solve(hessian, (A.mT @ C @ B.mT).flatten()).reshape(6, 4)
    points, _ = iterates(task, run("direct"), 1)
    close(points[1][0], expected)


def test_l_bfgs_descends_to_the_optimum_and_rests():
    task = quadratic_task(dtype=DOUBLE)
    points, solver = iterates(task, run("l-bfgs"), 80)
    gaps = [task.problem.gap(X) for (X,) in points]
    assert all(new <= old * (1 + 1e-12) for old, new in itertools.pairwise(gaps))
    # As far as differences of f can be seen, in its own rounding.
    assert gaps[-1] < 10 * torch.finfo(DOUBLE).eps * task.problem.optimum
    first = points[1][0] - points[0][0]  # along the negative gradient
    G = task.problem.gradient(points[0][0])
    assert float(-(first * G).sum() / (first.norm() * G.norm())) == pytest.approx(1.0)
    assert solver.at_rest
    assert torch.equal(points[-1][0], points[-2][0])


def test_the_start_is_left_alone():
    for solver, (kind, settings) in SUITED.items():
        task = TASKS[kind]()
        before = [X.clone() for X in task.start]
        points, _ = iterates(task, run(solver, **settings), 2)
        assert all(map(torch.equal, before, task.start)), solver
        assert not torch.equal(points[0][0], points[-1][0]), solver


TASKS = {"quadratic": quadratic_task, "logistic": logistic_task, "completion": completion_task}
# A task for each solver.
SUITED = {
    "polargrad": ("quadratic", {"lr": 1e-3, "options": oracle_options("exact")}),
    "muon": ("quadratic", {"lr": 0.1, "options": muon_options("published")}),
    "adam": ("completion", {"lr": 0.1}),
    "newton": ("quadratic", {"lr": 0.25}),
    "gradient-descent": ("quadratic", {}),
    "nesterov": ("quadratic", {}),
    "conjugate-gradients": ("quadratic", {}),
    "l-bfgs": ("completion", {}),
    "direct": ("quadratic", {}),
    "alternating-gradient": ("completion", {"lr": 1.0}),
    "scaled-gradient": ("completion", {"lr": 0.5}),
    "alternating-least-squares": ("completion", {}),
    "soft-impute": ("completion", {"options": {"factor": 0.9}}),
}


def test_each_solver_has_a_task_here():
    assert SUITED.keys() == SOLVERS.keys()


@pytest.mark.parametrize(
    ("solver", "kind", "message"),
    [
        ("gradient-descent", "completion", "needs a convex problem, got LowRankC"),
        ("nesterov", "completion", "needs a convex problem, got LowRankCompletion"),
        ("conjugate-gradients", "logistic", "needs a quadratic, got MatrixLogisticRegression"),
        ("newton", "logistic", "needs a quadratic, got MatrixLogisticRegression"),
        ("direct", "completion", "needs a quadratic, got LowRankCompletion"),
        ("alternating-gradient", "quadratic", "needs a problem in two factors, got MatrixQ"),
        ("scaled-gradient", "quadratic", "needs low-rank completion, got MatrixQ"),
        ("alternating-least-squares", "logistic", "needs low-rank completion, got MatrixL"),
        ("soft-impute", "quadratic", "needs low-rank completion, got MatrixQ"),
    ],
)
def test_problems_of_another_kind_are_refused(solver, kind, message):
    with pytest.raises(ValueError, match=f"solver '{solver}' {message}"):
        make_solver(TASKS[kind](), run(solver, **SUITED[solver][1]))


def test_unknown_solvers_are_refused():
    with pytest.raises(ValueError, match=r"solver must be one of polargrad, .*got 'sgdd'"):
        make_solver(quadratic_task(), run("sgdd", lr=1.0))


@pytest.mark.parametrize(
    ("oracle", "least", "most"),
    [("exact", 1.0, 1 + 1e-9), ("tolerance", 1.0, 1.11 / 0.89), ("published", 1.02, 2.0)],
)
def test_oracles_differ_by_their_error(oracle, least, most):
    """The ratio of the singular values of U, which is 1 for a polar factor."""
    gradient = conditioned((40, 30), 100)
    A, B = torch.eye(40, dtype=DOUBLE), torch.eye(30, dtype=DOUBLE)
    problem = MatrixQuadraticRegression(A, B, -gradient)
    task = QuadraticTask(problem, (torch.zeros(40, 30, dtype=DOUBLE),))
    points, _ = iterates(task, run("polargrad", 1e-3, options=polargrad_options(oracle)), 1)
    values = torch.linalg.svdvals(points[1][0])
    assert least <= float(values[0] / values[-1]) <= most


def test_unknown_oracles_are_refused():
    with pytest.raises(ValueError, match="one of published, exact, tolerance, got 'svd'"):
        oracle_options("svd")
