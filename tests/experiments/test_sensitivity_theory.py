"""The limits of a single step, as theorems about f."""

import pytest
import torch

from polargrad.experiments.sensitivity.protocol import ORACLES
from polargrad.experiments.sensitivity.tasks import CompletionError, LogisticGap, QuadraticGap
from polargrad.experiments.sensitivity.theory import (
    Direction,
    balanced_factors,
    direction,
    gain,
    one_step_limit,
)
from polargrad.experiments.theory.form import ErrorForm
from polargrad.problems import (
    LowRankCompletion,
    MatrixLogisticRegression,
    MatrixQuadraticRegression,
)

SEEDS = [0, 1, 2]


def generator(seed):
    return torch.Generator().manual_seed(seed)


def quadratic(seed):
    problem = MatrixQuadraticRegression.random(8, 5, 14, 9, generator(seed), dtype=torch.float64)
    X = torch.randn(8, 5, generator=generator(seed + 100), dtype=torch.float64)
    return QuadraticGap(problem, (X,)), X


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("oracle", [None, "exact", "qdwh-1", "qdwh-2", "newton-schulz"])
def test_f_of_a_quadratic_falls_exactly_below_the_limit(seed, oracle):
    task, X = quadratic(seed)
    along = direction(task.gradients((X,)), oracle)
    limit = one_step_limit(task, (X,), along)
    before = task.problem.gap(X)
    assert task.problem.gap(X - 0.99 * limit * along.parts[0]) < before
    assert task.problem.gap(X - 1.01 * limit * along.parts[0]) > before


@pytest.mark.parametrize("seed", SEEDS)
def test_limit_of_the_exact_factor_is_two_over_the_curvature_along_it(seed):
    task, X = quadratic(seed)
    U, _, Vh = torch.linalg.svd(task.gradients((X,))[0], full_matrices=False)
    expected = 2 / (task.problem.A @ U @ Vh @ task.problem.B).square().sum().item()
    found = one_step_limit(task, (X,), direction(task.gradients((X,)), "exact"))
    assert found == pytest.approx(expected, rel=1e-12)
    assert found >= ErrorForm.of(task.problem, X).stability_limit * (1 - 1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_limit_of_gradient_descent_is_at_least_two_over_the_smoothness(seed):
    task, X = quadratic(seed)
    limit = one_step_limit(task, (X,), direction(task.gradients((X,)), None))
    assert limit >= 2 / task.problem.smoothness
    assert limit <= 2 / task.problem.strong_convexity


@pytest.mark.parametrize("seed", SEEDS)
def test_model_limit_of_the_other_problems_is_that_of_their_second_order_model(seed):
    """φ(γ) = f(X − γD): the limit solves φ'(0) + γ φ''(0)/2 = 0, by differences of f in float64."""
    draws = generator(seed)
    logistic = MatrixLogisticRegression.random(6, 4, 40, 5, draws, dtype=torch.float64)
    completion = LowRankCompletion.random(9, 7, 2, 0.6, draws, dtype=torch.float64)
    starts = [
        [torch.randn(shape, generator=draws, dtype=torch.float64) for shape in p.shapes]
        for p in (logistic, completion)
    ]
    tasks = [LogisticGap(logistic, starts[0], None), CompletionError(completion, starts[1])]
    for task, X in zip(tasks, starts, strict=True):
        along = direction(task.gradients(X), "exact")
        h = 1e-4 / sum(float(part.norm()) for part in along.parts)
        f = [
            float(task.objective([x - k * h * p for x, p in zip(X, along.parts, strict=True)]))
            for k in (-1, 0, 1)
        ]
        slope, curvature = (f[0] - f[2]) / (2 * h), (f[0] - 2 * f[1] + f[2]) / h**2
        assert along.slope == pytest.approx(slope, rel=1e-6)
        if curvature > 0:
            assert one_step_limit(task, X, along) == pytest.approx(2 * slope / curvature, rel=1e-3)
        else:
            assert one_step_limit(task, X, along) == float("inf")


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.2])
def test_a_scaled_factor_has_the_square_of_its_scale_as_gain(factor):
    """The step is ⟨G, cU⟩cU: c once from the estimated norm and once from the direction."""
    task, X = quadratic(0)
    ideal = direction(task.gradients((X,)), "exact")
    scaled = Direction(tuple(factor**2 * p for p in ideal.parts), factor**2 * ideal.slope)
    assert gain(scaled, ideal) == pytest.approx(factor**2, rel=1e-12)
    own = one_step_limit(task, (X,), scaled)
    assert own == pytest.approx(one_step_limit(task, (X,), ideal) / factor**2, rel=1e-12)


def test_gain_of_the_published_oracle_is_that_of_its_measured_accuracy():
    """⟨G, Û⟩/ν = 0.903 and ‖Û‖²/r = 0.839 on Gaussian matrices of the first experiment's shape."""
    G = torch.randn(500, 100, generator=generator(0))
    taken, ideal = direction((G,), "qdwh-2"), direction((G,), "exact")
    assert gain(taken, ideal) == pytest.approx(0.903 * 0.839**0.5, rel=0.01)


def test_converged_oracles_have_gain_one():
    G = torch.randn(50, 10, generator=generator(0))
    ideal = direction((G,), "exact")
    for name in ("qdwh-3", "qdwh-4"):
        assert gain(direction((G,), name), ideal) == pytest.approx(1, abs=1e-4)
    assert set(ORACLES) >= {"qdwh-1", "qdwh-2", "qdwh-3", "qdwh-4", "exact", "training"}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_balanced_solution_is_the_flattest_where_all_is_observed(seed):
    """λ₁ = (2/mn)(σ₁(X)² + σ₁(Y)²) at X Yᵀ = M; X R, Y R⁻ᵀ solve it too, and are no flatter."""
    draws = generator(seed)
    problem = LowRankCompletion.random(8, 6, 2, 1.0, draws, dtype=torch.float64)
    X, Y = balanced_factors(problem)
    assert problem.observed_error(X, Y) < 1e-25
    largest = problem.curvature(X, Y).largest
    squares = [torch.linalg.matrix_norm(factor, 2).item() ** 2 for factor in (X, Y)]
    assert largest == pytest.approx(2 / 48 * sum(squares), rel=1e-8)
    R = torch.randn(2, 2, generator=draws, dtype=torch.float64)
    assert problem.curvature(X @ R, Y @ torch.linalg.inv(R).mT).largest >= largest * (1 - 1e-8)
