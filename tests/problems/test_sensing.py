"""Matrix sensing against autograd, sums over measurements, and completion as its special case."""

import math

import pytest
import torch
from factored_problems import (
    DOUBLE,
    check_curvature,
    check_gradients,
    check_hessian_vectors,
    check_invariance,
    check_loss_smoothness,
    close,
    gauss,
    point,
)
from matrices import eps

from polargrad.problems.completion import LowRankCompletion
from polargrad.problems.problem import OptimumError
from polargrad.problems.sensing import MatrixSensing

# m, n, rank and k: fewer measurements than entries, and more.
SIZES = [(6, 4, 2, 9), (1, 1, 1, 1), (7, 5, 1, 60), (3, 8, 2, 5), (4, 4, 4, 20), (3, 5, 3, 1)]


def problem_of(m, n, rank, k):
    return MatrixSensing(gauss(k, m, n), gauss(k, seed=1), rank)


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
    check_curvature(problem_of(5, 3, 2, 9))


def test_objective_is_the_sum_over_measurements():
    problem = problem_of(6, 4, 2, 9)
    X, Y = point(problem)
    terms = [
        float((A * (X @ Y.mT)).sum() - y) ** 2
        for A, y in zip(problem.measurements, problem.values, strict=True)
    ]
    assert float(problem.objective(X, Y)) == pytest.approx(sum(terms) / 18, rel=1e-13)


def test_measuring_and_its_adjoint_are_adjoint():
    problem = problem_of(6, 4, 2, 9)
    Z, z = gauss(6, 4, seed=5), gauss(9, seed=6)
    close((problem.measure(Z) * z).sum(), (Z * problem.adjoint(z)).sum())


def test_measuring_single_entries_is_half_of_completion():
    mask = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)) < 0.6
    M = gauss(6, 4)
    entries = torch.eye(24, dtype=DOUBLE)[mask.flatten()].reshape(-1, 6, 4)
    sensing = MatrixSensing(entries, M[mask], 2)
    completion = LowRankCompletion(M, mask, 2)
    unknowns, along = point(sensing), point(sensing, seed=2)
    close(sensing.objective(*unknowns), 0.5 * completion.objective(*unknowns))
    for ours, twice in zip(
        sensing.gradients(*unknowns) + sensing.hessian_vectors(unknowns, along),
        completion.gradients(*unknowns) + completion.hessian_vectors(unknowns, along),
        strict=True,
    ):
        close(ours, 0.5 * twice)
    assert sensing.loss_smoothness == pytest.approx(0.5 * completion.loss_smoothness, rel=1e-13)


def test_consistent_values_are_fitted_to_rounding_by_the_factors_that_made_them():
    def draw(noise):
        generator = torch.Generator().manual_seed(3)
        return MatrixSensing.random(9, 7, 2, 40, generator, noise=noise, dtype=DOUBLE)

    generator = torch.Generator().manual_seed(3)
    shapes = ((40, 9, 7), (9, 2), (7, 2))
    A, U, V = (torch.randn(shape, generator=generator, dtype=DOUBLE) for shape in shapes)
    exact = draw(0.0)
    assert torch.equal(exact.measurements, A)
    assert exact.optimum == 0.0
    # Two ways to add up 63 products of sums of two.
    assert exact.gap(U, V) <= (130 * eps(DOUBLE)) ** 2 * float(exact.values.square().mean())
    assert exact.to(torch.float32).optimum == 0.0
    noisy = draw(0.5)
    with pytest.raises(OptimumError, match="the optimum is unknown"):
        _ = noisy.optimum
    with pytest.raises(OptimumError, match="the optimum is unknown"):
        noisy.gap(U, V)
    # f at the true factors is half of the noise's mean square: five standard errors.
    assert float(noisy.objective(U, V)) == pytest.approx(0.125, rel=5 * math.sqrt(2 / 40))


def test_single_precision_has_double_precision_constants():
    double = problem_of(6, 4, 2, 9)
    single = double.to(torch.float32)
    same = single.to(DOUBLE)
    assert single.loss_smoothness == same.loss_smoothness
    assert single.gradients(*point(single, dtype=torch.float32))[0].dtype == torch.float32


GOOD = {"measurements": torch.ones(4, 2, 3), "values": torch.ones(4), "rank": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"measurements": torch.ones(2, 3)},
            r"measurements must be a non-empty stack k × m × n, got shape \(2, 3\)",
        ),
        ({"measurements": torch.ones(0, 2, 3)}, "measurements must be a non-empty stack"),
        ({"values": torch.ones(4, 1)}, r"values must be a non-empty vector, got shape \(4, 1\)"),
        ({"values": torch.ones(3)}, "values has length 3, but there are 4 measurements"),
        ({"measurements": torch.full((4, 2, 3), math.inf)}, "measurements must be finite"),
        ({"values": torch.full((4,), math.nan)}, "values must be finite"),
        ({"measurements": torch.ones(4, 2, 3).half()}, "must be float32 or float64, got torch.fl"),
        ({"values": torch.ones(4).double()}, "values has dtype torch.float64, but measurements"),
        ({"rank": 3}, "rank must be from 1 to 2.*got 3"),
        ({"known_optimum": math.inf}, "known_optimum must be finite and at least 0"),
    ],
)
def test_refuses_data_that_make_no_problem(change, message):
    with pytest.raises(ValueError, match=message):
        MatrixSensing(**{**GOOD, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": [1.0]}, "values must be a tensor, got list"),
        ({"rank": 1.0}, "rank must be an integer, got float"),
    ],
)
def test_refuses_what_is_of_another_type(change, message):
    with pytest.raises(TypeError, match=message):
        MatrixSensing(**{**GOOD, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"noise": -1.0}, "noise must be finite and at least 0, got -1.0"),
        ({"rank": 4}, "rank must be from 1 to 3.*got 4"),
    ],
)
def test_refuses_a_draw_outside_its_range(change, message):
    with pytest.raises(ValueError, match=message):
        MatrixSensing.random(**{"m": 4, "n": 3, "rank": 2, "k": 5, **change})


def test_refuses_a_point_of_another_shape():
    with pytest.raises(ValueError, match=r"X has shape \(3, 1\), but this problem needs \(2, 1\)"):
        MatrixSensing(**GOOD).gradients(torch.ones(3, 1), torch.ones(3, 1))


def test_its_text_is_one_line_of_sizes():
    assert (
        repr(MatrixSensing(**GOOD)) == "MatrixSensing(m=2, n=3, rank=1, k=4, dtype=torch.float32)"
    )
