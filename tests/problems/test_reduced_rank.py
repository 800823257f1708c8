"""Reduced-rank regression against autograd, alternating solves, and completion of a full matrix."""

import math

import pytest
import torch
from factored_problems import (
    DOUBLE,
    alternating_least_squares,
    check_curvature,
    check_gap_beyond_rounding,
    check_gradients,
    check_hessian_vectors,
    check_invariance,
    check_loss_smoothness,
    close,
    gauss,
    point,
)
from matrices import conditioned, eps

from polargrad.problems.completion import LowRankCompletion
from polargrad.problems.factored import balanced
from polargrad.problems.reduced_rank import ReducedRankRegression

# m, q, rank and p; in the last two A has fewer rows than columns.
SIZES = [
    (5, 4, 2, 9),
    (1, 1, 1, 1),
    (6, 5, 1, 8),
    (3, 8, 2, 7),
    (4, 4, 4, 6),
    (6, 4, 2, 3),
    (6, 5, 4, 2),
]


def problem_of(m, q, rank, p):
    return ReducedRankRegression(gauss(p, m), gauss(p, q, seed=1), rank)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_gradients_are_the_derivatives_of_the_objective(sizes):
    check_gradients(problem_of(*sizes))


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_hessian_vectors_are_those_of_autograd(sizes):
    check_hessian_vectors(problem_of(*sizes))


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_only_the_product_of_the_factors_counts(sizes):
    check_invariance(problem_of(*sizes))


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_smoothness_is_that_of_the_dense_hessian(sizes):
    check_loss_smoothness(problem_of(*sizes))


def test_curvature_is_that_of_the_dense_hessian():
    check_curvature(problem_of(5, 4, 2, 9))


def test_objective_is_half_the_squared_residual():
    problem = problem_of(5, 4, 2, 9)
    X, Y = point(problem)
    expected = 0.5 * float(torch.linalg.matrix_norm(problem.A @ (X @ Y.mT) - problem.C)) ** 2
    assert float(problem.objective(X, Y)) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_optimum_is_that_of_alternating_least_squares(sizes):
    problem = problem_of(*sizes)
    least = alternating_least_squares(problem.A, problem.C, problem.rank)
    scale = float(problem.C.square().sum())
    assert problem.optimum == pytest.approx(least, rel=1e-9, abs=1e-14 * scale)


def test_of_full_rank_it_is_least_squares():
    problem = problem_of(4, 4, 4, 6)
    B = torch.linalg.lstsq(problem.A, problem.C).solution
    X, Y = problem.solution()
    torch.testing.assert_close(X @ Y.mT, B, rtol=1e-11, atol=1e-12)


def test_the_metric_is_that_of_the_regressors():
    """The best coefficients of rank 1 fit the response of 3, whose coefficient 0.3 is smaller."""
    problem = ReducedRankRegression(
        torch.diag(torch.tensor([10.0, 1.0])), torch.diag(torch.tensor([3.0, 2.0])), 1
    )
    X, Y = problem.solution()
    expected = torch.diag(torch.tensor([0.3, 0.0], dtype=DOUBLE))
    torch.testing.assert_close(X @ Y.mT, expected, rtol=0, atol=10 * eps(DOUBLE))
    assert problem.optimum == pytest.approx(2.0, rel=1e-15)


def test_with_regressors_of_identity_it_is_completion_of_a_full_matrix():
    M = gauss(6, 4)
    problem = ReducedRankRegression(torch.eye(6, dtype=DOUBLE), M, 2)
    completion = LowRankCompletion(M, None, 2)
    unknowns = point(problem)
    for name in ("objective", "gap"):
        ours, theirs = (float(getattr(p, name)(*unknowns)) for p in (problem, completion))
        assert ours == pytest.approx(0.5 * 24 * theirs, rel=1e-12)
    assert problem.optimum == pytest.approx(12 * completion.optimum, rel=1e-12)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_solution_attains_the_optimum_is_stationary_and_balanced(sizes):
    problem = problem_of(*sizes)
    X, Y = problem.solution()
    assert (tuple(X.shape), tuple(Y.shape)) == problem.shapes
    scale = 0.5 * float(problem.C.square().sum())
    assert float(problem.objective(X, Y)) == pytest.approx(
        problem.optimum, rel=1e-12, abs=1e-25 * scale
    )
    assert problem.gap(X, Y) <= 1e-25 * scale
    conditioning = float(torch.linalg.cond(problem.A))
    size = problem.A.norm() * problem.C.norm() * (X.norm() + Y.norm())
    for gradient in problem.gradients(X, Y):
        assert gradient.norm() <= 50 * conditioning * eps(DOUBLE) * size
    grams = X.mT @ X, Y.mT @ Y
    close(*grams)
    close(grams[0], torch.diag(grams[0].diagonal()))


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_gap_is_the_objective_above_its_optimum(sizes):
    problem = problem_of(*sizes)
    X, Y = point(problem)
    value = float(problem.objective(X, Y))
    expected = value - problem.optimum
    assert problem.gap(X, Y) == pytest.approx(expected, rel=1e-11, abs=1e-13 * value)


@pytest.mark.parametrize("sizes", [(5, 4, 2, 9), (6, 5, 1, 8), (3, 8, 2, 7), (6, 4, 2, 3)], ids=str)
def test_gap_resolves_what_the_subtraction_loses(sizes):
    problem = problem_of(*sizes)
    check_gap_beyond_rounding(problem, problem.solution())


def test_a_diverged_point_has_no_finite_gap():
    problem = problem_of(5, 4, 2, 9)
    X, Y = point(problem)
    for bad in (math.inf, math.nan, 1e300):
        assert not math.isfinite(problem.gap(X * bad, Y))


def test_ill_conditioned_regressors_keep_the_optimum():
    """Given orthonormal directions of its columns, f* does not depend on the spectrum of A."""
    A, C = conditioned((9, 5), 1e7), gauss(9, 4, seed=1)
    U = torch.linalg.svd(A, full_matrices=False).U
    expected = ReducedRankRegression(U, C, 2).optimum
    assert ReducedRankRegression(A, C, 2).optimum == pytest.approx(expected, rel=1e-8)


def test_regressors_may_depend_on_each_other():
    A = gauss(9, 2) @ gauss(2, 5, seed=3)
    problem = ReducedRankRegression(A, gauss(9, 4, seed=1), 3)
    X, Y = problem.solution()
    least = alternating_least_squares(gauss(9, 2), problem.C, 2)
    assert problem.optimum == pytest.approx(least, rel=1e-10)
    assert problem.gap(X, Y) <= 1e-25
    null_space = torch.linalg.svd(A).Vh[2:].mT
    assert (null_space.mT @ X @ Y.mT).abs().max() <= 1e-13  # of least norm


def test_without_any_regressor_there_is_nothing_to_fit():
    problem = ReducedRankRegression(torch.zeros(4, 3), torch.ones(4, 2), 2)
    assert problem.optimum == 4.0
    assert problem.gap(*point(problem)) == 0.0
    assert not any(factor.any() for factor in problem.solution())


def test_exact_data_have_no_optimum_above_rounding():
    generator = torch.Generator().manual_seed(0)
    problem = ReducedRankRegression.random(5, 4, 2, 20, generator, noise=0.0, dtype=DOUBLE)
    rounding = (20 * eps(DOUBLE)) ** 2 * float(problem.C.square().sum())
    assert 0 <= problem.optimum <= rounding


def test_noise_has_its_standard_deviation():
    draws = [
        ReducedRankRegression.random(
            5, 40, 2, 50, torch.Generator().manual_seed(1), noise=noise, dtype=DOUBLE
        )
        for noise in (0.0, 0.3)
    ]
    assert torch.equal(draws[0].A, draws[1].A)
    deviation = float((draws[1].C - draws[0].C).std())
    assert deviation == pytest.approx(0.3, rel=4 / math.sqrt(2 * 2000))  # four standard errors


def test_single_precision_data_have_double_precision_constants():
    single = problem_of(5, 4, 2, 9).to(torch.float32)
    double = single.to(DOUBLE)
    assert (single.optimum, single.loss_smoothness) == (double.optimum, double.loss_smoothness)
    assert all(torch.equal(a, b) for a, b in zip(single.solution(), double.solution(), strict=True))
    assert single.gradients(*point(single, dtype=torch.float32))[1].dtype == torch.float32


def test_balanced_factors_have_the_product_and_the_least_norms():
    X, Y = 1e3 * gauss(7, 3), 1e-3 * gauss(5, 3, seed=1)
    left, right = balanced(X, Y)
    close(left @ right.mT, X @ Y.mT)
    nuclear = float(torch.linalg.svdvals(X @ Y.mT).sum())
    assert float(left.square().sum() + right.square().sum()) == pytest.approx(
        2 * nuclear, rel=1e-13
    )


GOOD = {"A": torch.ones(5, 3), "C": torch.ones(5, 2), "rank": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"A": torch.ones(5)}, r"A must be a non-empty matrix, got shape \(5,\)"),
        ({"C": torch.ones(4, 2)}, "C has 4 rows, but A has 5"),
        ({"C": torch.full((5, 2), math.nan)}, "C must be finite"),
        ({"A": torch.full((5, 3), math.inf)}, "A must be finite"),
        ({"C": torch.ones(5, 2).double()}, "C has dtype torch.float64, but A has torch.float32"),
        ({"A": torch.ones(5, 3).half()}, "A must be float32 or float64, got torch.float16"),
        ({"rank": 3}, r"rank must be from 1 to 2 for a matrix of shape \(3, 2\), got 3"),
        ({"rank": 0}, "rank must be from 1 to 2.*got 0"),
    ],
)
def test_refuses_data_that_make_no_problem(change, message):
    with pytest.raises(ValueError, match=message):
        ReducedRankRegression(**{**GOOD, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"A": [[1.0]]}, "A must be a tensor, got list"),
        ({"rank": 1.5}, "rank must be an integer, got float"),
    ],
)
def test_refuses_what_is_of_another_type(change, message):
    with pytest.raises(TypeError, match=message):
        ReducedRankRegression(**{**GOOD, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p": 0}, "p must be at least 1, got 0"),
        ({"noise": math.inf}, "noise must be finite and at least 0, got inf"),
        ({"rank": 4}, "rank must be from 1 to 3.*got 4"),
    ],
)
def test_refuses_a_draw_outside_its_range(change, message):
    with pytest.raises(ValueError, match=message):
        ReducedRankRegression.random(**{"m": 4, "q": 3, "rank": 2, "p": 5, **change})


def test_its_text_is_one_line_of_sizes():
    assert repr(ReducedRankRegression(**GOOD)) == (
        "ReducedRankRegression(m=3, q=2, rank=1, p=5, dtype=torch.float32)"
    )
