"""Huber completion against autograd, torch's Huber loss, and its limit of least squares."""

import math

import pytest
import torch
from factored_problems import (
    DOUBLE,
    check_curvature,
    check_gradients,
    check_hessian_vectors,
    check_invariance,
    close,
    gauss,
    point,
)
from matrices import eps

from polargrad.problems.completion import LowRankCompletion
from polargrad.problems.huber_completion import HuberCompletion
from polargrad.problems.problem import OptimumError

SIZES = [(6, 4, 2), (1, 1, 1), (7, 5, 1), (3, 8, 2), (4, 4, 4), (3, 5, 3)]
# All residuals are large, some are, none is.
DELTAS = [1e-3, 1.0, math.inf]


def problem_of(m, n, rank, delta=1.0, *, weighted=True, seed=0):
    mask = torch.rand(m, n, generator=torch.Generator().manual_seed(seed)) < 0.6
    mask[0, 0] = True
    weights = gauss(m, n, seed=seed + 1).square() if weighted else None
    return HuberCompletion(gauss(m, n, seed=seed + 2), mask, rank, delta, weights=weights)


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_gradients_are_the_derivatives_of_the_objective(sizes, delta):
    check_gradients(problem_of(*sizes, delta))


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_hessian_vectors_are_those_of_autograd(sizes, delta):
    check_hessian_vectors(problem_of(*sizes, delta))


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_only_the_product_of_the_factors_counts(sizes):
    check_invariance(problem_of(*sizes))


def test_curvature_is_that_of_the_dense_hessian():
    check_curvature(problem_of(5, 3, 2))


@pytest.mark.parametrize("delta", DELTAS[:2])
def test_objective_is_the_mean_of_torchs_huber_loss(delta):
    problem = problem_of(6, 4, 2, delta)
    X, Y = point(problem)
    terms = torch.nn.functional.huber_loss(X @ Y.mT, problem.M, reduction="none", delta=delta)
    expected = (problem.weights * terms)[problem.mask].sum() / problem.mask.sum()
    close(problem.objective(X, Y), expected)


@pytest.mark.parametrize("weighted", [True, False])
def test_without_a_limit_it_is_half_of_completion(weighted):
    """At δ = ∞, and at any δ above the largest residual."""
    problem = problem_of(6, 4, 2, math.inf, weighted=weighted)
    completion = LowRankCompletion(problem.M, problem.mask, 2, weights=problem.weights)
    unknowns, along = point(problem), point(problem, seed=2)
    residual = (unknowns[0] @ unknowns[1].mT - problem.M).abs().max()
    finite = HuberCompletion(
        problem.M, problem.mask, 2, 1.01 * float(residual), weights=problem.weights
    )
    for huber in (problem, finite):
        close(huber.objective(*unknowns), 0.5 * completion.objective(*unknowns))
        for ours, twice in zip(
            huber.gradients(*unknowns) + huber.hessian_vectors(unknowns, along),
            completion.gradients(*unknowns) + completion.hessian_vectors(unknowns, along),
            strict=True,
        ):
            close(ours, 0.5 * twice)


def test_a_wrong_entry_pulls_no_harder_the_more_it_is_wrong():
    M, (X, Y) = gauss(5, 4), (gauss(5, 2, seed=3), gauss(4, 2, seed=4))
    gradients = []
    for size in (1e3, 1e6):
        spoiled = M.clone()
        spoiled[2, 1] = size
        gradients.append(HuberCompletion(spoiled, None, 2, 0.5).gradients(X, Y))
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_it_lies_below_least_squares_and_its_slope_below_delta():
    problem = problem_of(6, 4, 2, 0.7)
    Z = gauss(6, 4, seed=9) * 3
    square = HuberCompletion(problem.M, problem.mask, 2, math.inf, weights=problem.weights)
    assert problem.loss(Z) < square.loss(Z)
    bound = 0.7 * problem.entry_weights / problem.count
    assert (problem.loss_gradient(Z).abs() <= bound * (1 + 4 * eps(DOUBLE))).all()


def test_the_smoothness_bounds_the_change_of_the_gradient():
    """Between matrices of small residuals the bound is attained, at the entry of most weight."""
    problem = problem_of(6, 4, 2, 1.0)
    at = torch.where(problem.mask, problem.M, 0.0)
    heaviest = torch.zeros(24, dtype=DOUBLE)
    heaviest[problem.entry_weights.argmax()] = 0.5
    change = problem.loss_gradient(at + heaviest.reshape(6, 4)) - problem.loss_gradient(at)
    assert float(change.norm()) == pytest.approx(0.5 * problem.loss_smoothness, rel=1e-13)
    A, B = gauss(6, 4, seed=5), gauss(6, 4, seed=6)
    change = problem.loss_gradient(A) - problem.loss_gradient(B)
    assert change.norm() <= problem.loss_smoothness * (A - B).norm()


def test_at_the_limit_itself_the_second_derivative_is_taken_as_zero():
    problem = HuberCompletion(torch.zeros(1, 3), None, 1, 1.0)
    curvature = problem.penalty_curvature(torch.tensor([[1.0, -1.0, 0.5]]))
    assert curvature.tolist() == [[0.0, 0.0, 1.0]]


@pytest.mark.parametrize(("noise", "outliers"), [(0.1, 0.0), (0.0, 0.1)])
def test_the_optimum_is_known_of_exact_data_alone(noise, outliers):
    def draw(**options):
        generator = torch.Generator().manual_seed(3)
        return HuberCompletion.random(9, 7, 2, 1.0, 0.5, generator, dtype=DOUBLE, **options)

    generator = torch.Generator().manual_seed(3)
    U, V = (torch.randn(size, 2, generator=generator, dtype=DOUBLE) for size in (9, 7))
    exact = draw()
    assert exact.optimum == 0.0
    assert exact.gap(U, V) <= (10 * eps(DOUBLE)) ** 2 * float(exact.M.square().mean())
    with pytest.raises(OptimumError, match="the optimum is unknown"):
        _ = draw(noise=noise, outliers=outliers).optimum
    assert problem_of(3, 5, 3).optimum == 0.0  # X Yᵀ can be any matrix


def test_only_observed_entries_are_spoiled():
    def draw(outliers):
        generator = torch.Generator().manual_seed(1)
        return HuberCompletion.random(
            80, 60, 2, 1.0, 0.5, generator, outliers=outliers, outlier_scale=7.0, dtype=DOUBLE
        )

    clean, spoiled = draw(0.0), draw(0.2)
    changed = clean.M != spoiled.M
    assert torch.equal(clean.observed, spoiled.observed)
    assert not (changed & ~clean.observed).any()
    count = float(changed.sum())
    expected = 0.2 * clean.count
    assert abs(count - expected) <= 4 * math.sqrt(0.8 * expected)  # four standard deviations
    deviation = float((spoiled.M - clean.M)[changed].std())
    assert deviation == pytest.approx(7.0, rel=4 / math.sqrt(2 * count))


def test_conversion_keeps_everything():
    problem = problem_of(6, 4, 2, 0.7)
    single = problem.to(torch.float32)
    assert (single.dtype, single.delta, single.rank) == (torch.float32, 0.7, 2)
    assert torch.equal(single.weights, problem.weights.float())
    assert torch.equal(single.mask, problem.mask)


@pytest.mark.parametrize("delta", [0.0, -1.0, math.nan])
def test_refuses_a_delta_that_is_not_positive(delta):
    with pytest.raises(ValueError, match=f"delta must be above 0, got {delta}"):
        HuberCompletion(torch.ones(2, 3), None, 1, delta)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"M": torch.full((2, 3), math.nan)}, "M must have at least one observed entry, got none"),
        ({"M": torch.full((2, 3), math.inf)}, "M must be finite.*got inf at row 0, column 0"),
        ({"mask": torch.ones(3, 2)}, r"mask has shape \(3, 2\), but M has \(2, 3\)"),
        ({"rank": 3}, "rank must be from 1 to 2.*got 3"),
        ({"weights": -torch.ones(2, 3)}, "weights must be finite and at least 0"),
    ],
)
def test_refuses_data_that_make_no_problem(change, message):
    with pytest.raises(ValueError, match=message):
        HuberCompletion(**{"M": torch.ones(2, 3), "mask": None, "rank": 1, "delta": 1.0, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outliers": 1.5}, "outliers must be from 0 to 1, got 1.5"),
        ({"outlier_scale": 0.0}, "outlier_scale must be finite and above 0, got 0.0"),
        ({"fraction": 0.0}, "fraction must be above 0 and at most 1, got 0.0"),
    ],
)
def test_refuses_a_draw_outside_its_range(change, message):
    with pytest.raises(ValueError, match=message):
        HuberCompletion.random(**{"m": 4, "n": 3, "rank": 2, "delta": 1.0, **change})


def test_its_text_is_one_line_of_sizes():
    problem = HuberCompletion(torch.ones(2, 3), None, 1, 0.5)
    assert repr(problem) == (
        "HuberCompletion(m=2, n=3, rank=1, delta=0.5, observed=6, dtype=torch.float32)"
    )
