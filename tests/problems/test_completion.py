"""Low-rank completion against autograd, sums over entries, Eckart–Young and the published run."""

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
from matrices import eps

import polargrad as pg
from polargrad.errors import PolarGradError
from polargrad.linalg.methods import QDWH, plain
from polargrad.problems.completion import LowRankCompletion
from polargrad.problems.problem import OptimumError

SIZES = [(6, 4, 2), (1, 1, 1), (7, 5, 1), (3, 8, 2), (4, 4, 4), (3, 5, 3)]
KINDS = ["plain", "weighted", "unmasked", "unmasked and weighted"]
# timlautk/polargrad at 79f3c6f, PolarGrad with lr 50 and two steps of QDWH, seed 42: the mean
# square over the observed entries before the k-th update.
PUBLISHED = {0: 5.3145558098614645, 10: 0.0026599055330405854, 20: 1.6483356061506378e-05}


def problem_of(m, n, rank, kind="plain", seed=0):
    mask = torch.rand(m, n, generator=torch.Generator().manual_seed(seed)) < 0.6
    mask[0, 0] = True
    weights = gauss(m, n, seed=seed + 1).square() if "weighted" in kind else None
    return LowRankCompletion(
        gauss(m, n, seed=seed + 2),
        mask,
        rank,
        weights=weights,
        mask_residual="unmasked" not in kind,
    )


def best_factors(M, rank):
    U, sigma, Vh = torch.linalg.svd(M, full_matrices=False)
    root = sigma[:rank].sqrt()
    return U[:, :rank] * root, Vh[:rank].mT * root


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_gradients_are_the_derivatives_of_the_objective(sizes, kind):
    check_gradients(problem_of(*sizes, kind))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_hessian_vectors_are_those_of_autograd(sizes, kind):
    check_hessian_vectors(problem_of(*sizes, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_objective_is_the_sum_over_entries(kind):
    problem = problem_of(6, 4, 2, kind)
    X, Y = point(problem)
    total = 0.0
    for i in range(6):
        for j in range(4):
            if problem.mask[i, j] or "unmasked" in kind:
                weight = 1.0 if problem.weights is None else float(problem.weights[i, j])
                total += weight * float(X[i] @ Y[j] - problem.M[i, j]) ** 2
    assert float(problem.objective(X, Y)) == pytest.approx(
        total / int(problem.mask.sum()), rel=1e-13
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_only_the_product_of_the_factors_counts(sizes, kind):
    check_invariance(problem_of(*sizes, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_curvature_and_smoothness_are_those_of_the_dense_hessians(kind):
    check_curvature(problem_of(5, 3, 2, kind))
    check_loss_smoothness(problem_of(5, 3, 2, kind))


def test_what_is_not_observed_has_no_influence():
    problem = problem_of(6, 4, 2, "weighted")
    spoiled = torch.where(problem.mask, problem.M, torch.tensor(math.inf, dtype=DOUBLE))
    spoiled[~problem.mask] *= torch.tensor([1, -1, math.nan]).repeat(24)[: (~problem.mask).sum()]
    other = LowRankCompletion(spoiled, problem.mask, 2, weights=problem.weights)
    unknowns, along = point(problem), point(problem, seed=2)
    assert torch.equal(other.objective(*unknowns), problem.objective(*unknowns))
    for method in ("gradients", "hessian_vectors"):
        arguments = (unknowns, along) if method == "hessian_vectors" else unknowns
        ours, expected = (getattr(p, method)(*arguments) for p in (other, problem))
        assert all(torch.equal(a, b) for a, b in zip(ours, expected, strict=True))


@pytest.mark.parametrize("mask_of", [lambda mask: None, torch.Tensor.double, torch.Tensor.long])
def test_missing_as_nan_or_as_zeros_is_the_same_problem(mask_of):
    problem = problem_of(6, 4, 2)
    M = torch.where(problem.mask, problem.M, math.nan)
    other = LowRankCompletion(M, mask_of(problem.mask), 2)
    unknowns = point(problem)
    assert torch.equal(other.observed, problem.mask)
    assert torch.equal(other.objective(*unknowns), problem.objective(*unknowns))


def test_a_weight_of_zero_hides_an_entry_but_counts_it():
    problem = problem_of(6, 4, 2)
    i, j = problem.mask.nonzero()[-1].tolist()
    weights = torch.ones(6, 4, dtype=DOUBLE)
    weights[i, j] = 0
    fewer = problem.mask.clone()
    fewer[i, j] = False
    weighted = LowRankCompletion(problem.M, problem.mask, 2, weights=weights)
    masked = LowRankCompletion(problem.M, fewer, 2)
    unknowns = point(problem)
    ratio = masked.count / weighted.count
    close(weighted.objective(*unknowns), ratio * masked.objective(*unknowns))


def test_an_empty_row_and_column_get_no_gradient():
    mask = torch.ones(5, 4, dtype=torch.bool)
    mask[2], mask[:, 3] = False, False
    problem = LowRankCompletion(gauss(5, 4), mask, 2)
    in_rows, in_columns = problem.gradients(*point(problem))
    assert not in_rows[2].any()
    assert not in_columns[3].any()
    assert in_rows[[0, 1, 3, 4]].all()


# The optimum, where it is known.


@pytest.mark.parametrize("sizes", [(6, 4, 2), (3, 8, 2), (7, 5, 1), (3, 5, 3)], ids=str)
@pytest.mark.parametrize("masked", [True, False])
def test_the_optimum_of_a_full_matrix_is_that_of_alternating_least_squares(sizes, masked):
    m, n, rank = sizes
    M, weight = gauss(m, n), 1.7
    mask = torch.ones(m, n) if masked else torch.eye(m, n)
    weights = torch.full((m, n), weight, dtype=DOUBLE)
    problem = LowRankCompletion(M, mask, rank, weights=weights, mask_residual=masked)
    least = alternating_least_squares(torch.eye(m, dtype=DOUBLE), M, rank)
    expected = 2 * weight / float(mask.sum()) * least
    assert problem.optimum == pytest.approx(expected, rel=1e-9, abs=1e-25)
    solution = best_factors(M, rank)
    assert problem.gap(*solution) <= 1e-26
    value = float(problem.objective(*point(problem)))
    assert problem.gap(*point(problem)) == pytest.approx(value - expected, rel=1e-9)


@pytest.mark.parametrize("sizes", [(6, 4, 2), (3, 8, 1)], ids=str)
def test_the_gap_of_a_full_matrix_resolves_what_the_subtraction_loses(sizes):
    m, n, rank = sizes
    problem = LowRankCompletion(gauss(m, n), None, rank)
    check_gap_beyond_rounding(problem, best_factors(problem.M, rank))


def test_a_diverged_point_has_no_finite_gap():
    problem = LowRankCompletion(gauss(4, 3, dtype=torch.float32), None, 1)
    assert not math.isfinite(problem.gap(torch.full((4, 1), math.inf), torch.ones(3, 1)))


def test_the_optimum_is_zero_where_the_product_can_be_any_matrix():
    assert problem_of(3, 5, 3, "weighted").optimum == 0.0


def test_exact_data_are_fitted_to_rounding_by_the_factors_that_made_them():
    generator = torch.Generator().manual_seed(3)
    U, V = (torch.randn(size, 2, generator=generator, dtype=DOUBLE) for size in (9, 7))
    problem = LowRankCompletion.random(9, 7, 2, 0.5, torch.Generator().manual_seed(3), dtype=DOUBLE)
    assert problem.optimum == 0.0
    assert problem.gap(U, V) <= (10 * eps(DOUBLE)) ** 2 * float(problem.M.square().mean())
    for dtype in (torch.float32, DOUBLE):
        assert problem.to(dtype).optimum == 0.0


@pytest.mark.parametrize(
    "problem",
    [
        problem_of(6, 4, 2),
        LowRankCompletion(gauss(6, 4), None, 2, weights=gauss(6, 4, seed=1).square()),
        LowRankCompletion.random(6, 4, 2, 0.7, torch.Generator().manual_seed(0), noise=0.1),
    ],
    ids=["masked", "weighted", "noisy"],
)
def test_an_unknown_optimum_is_refused(problem):
    with pytest.raises(OptimumError, match=r"the optimum is unknown.*give known_optimum"):
        _ = problem.optimum
    with pytest.raises(PolarGradError, match="the optimum is unknown"):
        problem.gap(*point(problem))


def test_a_known_optimum_can_be_given():
    free = problem_of(6, 4, 2)
    problem = LowRankCompletion(free.M, free.mask, 2, known_optimum=0.25)
    value = float(problem.objective(*point(problem)))
    assert problem.gap(*point(problem)) == pytest.approx(value - 0.25, rel=1e-14)


def test_noise_has_its_standard_deviation():
    draws = [
        LowRankCompletion.random(
            80, 60, 2, 0.5, torch.Generator().manual_seed(1), noise=noise, dtype=DOUBLE
        )
        for noise in (0.0, 0.3)
    ]
    assert torch.equal(draws[0].observed, draws[1].observed)
    deviation = float((draws[1].M - draws[0].M).std())
    assert deviation == pytest.approx(0.3, rel=4 / math.sqrt(2 * 4800))  # four standard errors


# Errors of a fit.


def test_errors_are_means_over_their_entries():
    problem = problem_of(6, 4, 2, "weighted")
    X, Y = point(problem)
    squares = (X @ Y.mT - problem.M).square()
    seen = problem.mask
    assert problem.observed_error(X, Y) == pytest.approx(float(squares[seen].mean()), rel=1e-13)
    assert problem.unobserved_error(X, Y) == pytest.approx(float(squares[~seen].mean()), rel=1e-13)
    assert problem.full_error(X, Y) == pytest.approx(float(squares.mean()), rel=1e-13)
    expected = math.sqrt(float(squares.sum() / problem.M.square().sum()))
    assert problem.relative_error(X, Y) == pytest.approx(expected, rel=1e-13)


def test_errors_of_single_precision_are_computed_in_double():
    problem = problem_of(6, 4, 2).to(torch.float32)
    X, Y = point(problem, dtype=torch.float32)
    expected = (X.double() @ Y.double().mT - problem.M.double()).square()
    assert problem.full_error(X, Y) == pytest.approx(float(expected.mean()), rel=1e-13)


def test_held_out_entries_may_be_known_in_part():
    problem = problem_of(6, 4, 2)
    held_out = (~problem.mask).nonzero()[0].tolist()
    M = torch.where(problem.mask, problem.M, math.nan)
    M[*held_out] = problem.M[*held_out]
    X, Y = point(problem)
    ours = LowRankCompletion(M, problem.mask, 2).unobserved_error(X, Y)
    expected = float((X @ Y.mT - problem.M)[*held_out]) ** 2
    assert ours == pytest.approx(expected, rel=1e-13)


def test_errors_of_unknown_entries_are_refused():
    missing = LowRankCompletion(torch.tensor([[1.0, math.nan], [2.0, 3.0]]), None, 1)
    unknowns = point(missing, dtype=torch.float32)
    for method in (missing.full_error, missing.relative_error):
        with pytest.raises(PolarGradError, match="M is not known everywhere"):
            method(*unknowns)
    with pytest.raises(PolarGradError, match="no entry of M is both unobserved and known"):
        missing.unobserved_error(*unknowns)
    with pytest.raises(PolarGradError, match="undefined: M is zero"):
        LowRankCompletion(torch.zeros(2, 2), None, 1).relative_error(*unknowns)


# The published experiment.


def test_the_published_draw_is_that_of_torchs_global_generator():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        U, V = torch.randn(500, 5), torch.randn(250, 5)
        mask = torch.rand(500, 250) < 0.3
        torch.manual_seed(7)
        start = [torch.nn.init.uniform_(torch.empty(size, 5), -1, 1) for size in (500, 250)]
        before = torch.random.get_rng_state()
        problem, ours = LowRankCompletion.published(seed=7)
        assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(problem.observed, mask)
    assert torch.equal(problem.M, U @ V.T)
    assert all(torch.equal(a, b) for a, b in zip(ours, start, strict=True))


def test_the_published_run_takes_the_published_values():
    problem, (X, Y) = LowRankCompletion.published(seed=42)
    optimizer = pg.PolarGrad([X, Y], 50.0, momentum=0.0, method=plain(QDWH.reference()))
    for k in range(max(PUBLISHED) + 1):
        if k in PUBLISHED:
            tolerance = 1e-6 if k == 0 else 0.02
            assert problem.gap(X, Y) == pytest.approx(PUBLISHED[k], rel=tolerance)
        X.grad, Y.grad = problem.gradients(X, Y)
        optimizer.step()


def test_the_problem_of_the_papers_time_fits_all_of_the_matrix():
    (today, start), (then, same) = (
        LowRankCompletion.published(seed=42, era=era) for era in ("reference", "paper")
    )
    assert torch.equal(today.M, then.M)
    assert torch.equal(today.observed, then.observed)
    assert all(torch.equal(a, b) for a, b in zip(start, same, strict=True))
    assert today.optimum == 0.0
    rounding = eps(torch.float32) ** 2 * float(then.M.square().sum()) / then.count
    assert 0 < then.optimum <= 10 * rounding  # M was rounded: it is not quite of rank 5
    expected = then.full_error(*start) * then.M.numel() / then.count
    assert then.gap(*start) == pytest.approx(expected, rel=1e-12)


# What makes no problem.

NAN = math.nan
GOOD = {"M": torch.tensor([[1.0, NAN, 2.0], [3.0, 4.0, 5.0]]), "mask": None, "rank": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"M": torch.ones(3)}, r"M must be a non-empty matrix, got shape \(3,\)"),
        ({"M": torch.ones(0, 3)}, r"M must be a non-empty matrix, got shape \(0, 3\)"),
        ({"M": torch.ones(2, 3).half()}, "M must be float32 or float64, got torch.float16"),
        ({"M": torch.full((2, 3), NAN)}, "M must have at least one observed entry, got none"),
        ({"mask": torch.zeros(2, 3)}, "M must have at least one observed entry, got none"),
        ({"mask": torch.ones(3, 2)}, r"mask has shape \(3, 2\), but M has \(2, 3\)"),
        ({"mask": torch.ones(3)}, r"mask must be a non-empty matrix, got shape \(3,\)"),
        ({"mask": torch.full((2, 3), 0.5)}, "mask must be of bool, or of zeros and ones"),
        ({"mask": torch.full((2, 3), NAN)}, "mask must be of bool, or of zeros and ones"),
        ({"mask": torch.ones(2, 3, device="meta")}, "mask is on meta, but M is on cpu"),
        ({"mask": torch.ones(2, 3)}, "M must be finite.*got nan at row 0, column 1"),
        ({"mask_residual": False}, "M must be finite.*got nan at row 0, column 1"),
        (
            {"M": torch.tensor([[1.0, 2.0, 3.0], [3.0, math.inf, 5.0]])},
            "M must be finite.*got inf at row 1, column 1",
        ),
        ({"rank": 3}, r"rank must be from 1 to 2 for a matrix of shape \(2, 3\), got 3"),
        ({"rank": 0}, "rank must be from 1 to 2.*got 0"),
        ({"weights": torch.ones(3, 2)}, r"weights has shape \(3, 2\), but M has \(2, 3\)"),
        ({"weights": -torch.ones(2, 3)}, "weights must be finite and at least 0"),
        ({"weights": torch.full((2, 3), NAN)}, "weights must be finite and at least 0"),
        ({"weights": torch.full((2, 3), math.inf)}, "weights must be finite and at least 0"),
        ({"weights": torch.zeros(2, 3)}, "weights must be above 0 on an observed entry"),
        (
            {"weights": torch.ones(2, 3).double()},
            "weights has dtype torch.float64, but M has torch.float32",
        ),
        ({"known_optimum": -1.0}, "known_optimum must be finite and at least 0, or None, got -1.0"),
        ({"known_optimum": NAN}, "known_optimum must be finite and at least 0, or None, got nan"),
    ],
)
def test_refuses_data_that_make_no_problem(change, message):
    with pytest.raises(ValueError, match=message):
        LowRankCompletion(**{**GOOD, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"M": [[1.0]]}, "M must be a tensor, got list"),
        ({"mask": [[True]]}, "mask must be a tensor, got list"),
        ({"weights": 1.0}, "weights must be a tensor, got float"),
        ({"rank": 1.0}, "rank must be an integer, got float"),
        ({"rank": True}, "rank must be an integer, got bool"),
    ],
)
def test_refuses_what_is_of_another_type(change, message):
    with pytest.raises(TypeError, match=message):
        LowRankCompletion(**{**GOOD, **change})


@pytest.mark.parametrize("method", ["objective", "gradients", "gap", "observed_error"])
def test_refuses_a_point_of_another_shape(method):
    problem = LowRankCompletion(torch.ones(2, 3), None, 1)
    with pytest.raises(ValueError, match=r"Y has shape \(2, 1\), but this problem needs \(3, 1\)"):
        getattr(problem, method)(torch.ones(2, 1), torch.ones(2, 1))


def test_refuses_a_point_of_another_dtype():
    problem = LowRankCompletion(torch.ones(2, 3), None, 1)
    with pytest.raises(ValueError, match=r"X has dtype torch.float64.*torch.float32"):
        problem.gradients(torch.ones(2, 1).double(), torch.ones(3, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fraction": 0.0}, "fraction must be above 0 and at most 1, got 0.0"),
        ({"fraction": 1.5}, "fraction must be above 0 and at most 1, got 1.5"),
        ({"noise": -1.0}, "noise must be finite and at least 0, got -1.0"),
        ({"rank": 4}, "rank must be from 1 to 3.*got 4"),
    ],
)
def test_refuses_a_draw_outside_its_range(change, message):
    with pytest.raises(ValueError, match=message):
        LowRankCompletion.random(**{"m": 4, "n": 3, "rank": 2, **change})


def test_refuses_another_era():
    with pytest.raises(ValueError, match="era must be 'reference' or 'paper', got 'today'"):
        LowRankCompletion.published(era="today")


def test_its_text_is_one_line_of_sizes():
    problem = LowRankCompletion(**GOOD)
    assert repr(problem) == "LowRankCompletion(m=2, n=3, rank=1, observed=5, dtype=torch.float32)"
