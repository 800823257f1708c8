"""Matrix regression against Kronecker least squares, Ridge, optimality conditions and duality."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

import polargrad
from polargrad.estimators import MatrixRegression
from polargrad.estimators.design import Design, polar_direction
from polargrad.estimators.iteration import HeldOut, Stopping
from polargrad.estimators.regression_solvers import duality_gap, solve_polargrad
from polargrad.estimators.validation import held_out_split

SMOOTH = ["direct", "lsqr", "polargrad"]
# With a right design (k) and missing targets there is no closed form.
SOLVED = [
    (solver, k, missing)
    for solver, k, missing in itertools.product(SMOOTH, (None, 3), (0.0, 0.3))
    if not (solver == "direct" and k and missing)
]
# Solutions to tol = 1e-12, where the Hessian's condition number is below 1e3.
CLOSE = {"rtol": 1e-8, "atol": 1e-8}


def data(n=60, p=5, q=4, k=None, missing=0.0, seed=0):
    """X, Y with NaN for the fraction ``missing`` of its entries, and B of k × q or None."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) + 1.0
    B = None if k is None else rng.normal(size=(k, q))
    W = rng.normal(size=(p, q if k is None else k))
    Y = (W.T @ X.T).T if B is None else X @ W @ B
    Y = Y + 2.0 + 0.5 * rng.normal(size=(n, q))
    holes = rng.random((n, q)) < missing
    Y[holes & ~holes.all(axis=1, keepdims=True)] = np.nan
    return X, Y, B


def by_kronecker(X, Y, B, alpha, intercept):
    """W and c from one least-squares problem with an unknown for each entry."""
    (n, p), q = X.shape, Y.shape[1]
    B = np.eye(q) if B is None else B
    k = len(B)
    rows = np.kron(X, B.T)  # (X W B)_ij = Σ_ab x_ia b_bj W_ab
    constants = np.tile(np.eye(q), (n, 1)) if intercept else np.zeros((n * q, 0))
    seen = ~np.isnan(Y.ravel())
    ridge = np.hstack([np.sqrt(alpha) * np.eye(p * k), np.zeros((p * k, constants.shape[1]))])
    system = np.vstack([np.hstack([rows, constants])[seen], ridge])
    solution = np.linalg.lstsq(system, np.concatenate([Y.ravel()[seen], np.zeros(p * k)]))[0]
    return solution[: p * k].reshape(p, k), solution[p * k :] if intercept else np.zeros(q)


@parametrize_with_checks(
    [
        MatrixRegression(),
        MatrixRegression(1.0, solver="lsqr"),
        MatrixRegression(solver="polargrad"),
        MatrixRegression(nuclear=0.1),
        MatrixRegression(early_stopping=True, random_state=0),
    ]
)
def test_keeps_the_contract_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize(("solver", "k", "missing"), SOLVED)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 50.0])
@pytest.mark.parametrize("intercept", [True, False])
def test_is_the_least_squares_solution(solver, alpha, intercept, k, missing):
    X, Y, B = data(k=k, missing=missing)
    model = MatrixRegression(
        alpha, right_design=B, fit_intercept=intercept, solver=solver, tol=1e-12, max_iter=5000
    ).fit(X, Y)
    W, c = by_kronecker(X, Y, B, alpha, intercept)
    np.testing.assert_allclose(model.matrix_, W, **CLOSE)
    np.testing.assert_allclose(model.intercept_, c, **CLOSE)
    np.testing.assert_allclose(model.coef_.T, W if B is None else W @ B, **CLOSE)
    assert model.solver_ == solver


@pytest.mark.parametrize("alpha", [1e-6, 1.0, 100.0])
def test_alpha_is_that_of_ridge(alpha):
    X, Y, _ = data()
    model, ridge = MatrixRegression(alpha).fit(X, Y), Ridge(alpha, solver="svd").fit(X, Y)
    np.testing.assert_allclose(model.coef_, ridge.coef_, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(model.predict(X), ridge.predict(X), rtol=1e-10)
    one = MatrixRegression(alpha).fit(X, Y[:, 0])
    assert one.predict(X).shape == (len(X),)
    np.testing.assert_allclose(one.coef_, ridge.coef_[0], rtol=1e-10, atol=1e-12)


def test_many_solutions_give_the_one_of_least_norm():
    rng = np.random.default_rng(0)
    X, B, Y = rng.normal(size=(5, 9)), rng.normal(size=(6, 4)), rng.normal(size=(5, 4))
    model = MatrixRegression(right_design=B, fit_intercept=False).fit(X, Y)
    np.testing.assert_allclose(model.matrix_, np.linalg.pinv(X) @ Y @ np.linalg.pinv(B), atol=1e-12)
    np.testing.assert_allclose(model.predict(X), Y, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "missing", "solver"),
    [
        ({}, 0.0, "direct"),
        ({}, 0.3, "direct"),
        ({"right_design": True}, 0.0, "direct"),
        ({"right_design": True}, 0.3, "lsqr"),
        ({"nuclear": 1.0}, 0.3, "proximal"),
        ({"early_stopping": True}, 0.3, "polargrad"),
    ],
)
def test_auto_takes_the_solver_that_fits(options, missing, solver):
    X, Y, B = data(k=3, missing=missing)
    if "right_design" in options:
        options = {"right_design": B}
    assert MatrixRegression(**options).fit(X, Y).solver_ == solver


def test_one_column_takes_no_more_steps_than_conjugate_gradients():
    """With exact momentum the method is that of conjugate gradients, which ends after p steps."""
    X, Y, _ = data(p=7)
    model = MatrixRegression(solver="polargrad", tol=1e-10).fit(X, Y[:, 0])
    assert model.n_iter_ <= 7 + 1  # the last iteration only measures


def test_each_polargrad_step_lowers_the_objective():
    X, Y, B = data(k=3, missing=0.3)
    design = Design(X - X.mean(axis=0), B, ~np.isnan(Y), True)
    T, alpha = design.project(Y), 0.7

    def objective(W):
        return 0.5 * np.sum((design.apply(W) - T) ** 2) + 0.5 * alpha * np.sum(W**2)

    trace = HeldOut(objective, patience=1000)
    solve_polargrad(design, T, alpha, Stopping("test", 1000, 1e-8, 0), trace)
    assert len(trace.errors) > 5
    assert (np.diff(trace.errors) < 0).all()


def test_first_polargrad_step_minimises_along_the_polar_factor():
    X, Y, _ = data()
    with pytest.warns(ConvergenceWarning):
        model = MatrixRegression(solver="polargrad", fit_intercept=False, max_iter=1).fit(X, Y)
    U, _, Vt = np.linalg.svd(X.T @ Y, full_matrices=False)
    D = U @ Vt
    step = np.vdot(X @ D, Y) / np.vdot(X @ D, X @ D)
    np.testing.assert_allclose(model.matrix_, step * D, rtol=1e-10, atol=1e-12)


def test_direction_is_the_polar_factor_without_noise():
    rng = np.random.default_rng(0)
    G = rng.normal(size=(6, 4))
    D, norm = polar_direction(G, 0.0)
    U, H = polargrad.polar(torch.tensor(G))
    np.testing.assert_allclose(D, U.numpy(), atol=1e-13)
    np.testing.assert_allclose(norm, H.trace().item(), rtol=1e-13)
    low = rng.normal(size=(6, 2)) @ rng.normal(size=(2, 4))
    D, _ = polar_direction(low + 1e-12 * G, 1e-10)
    np.testing.assert_allclose(D, polargrad.polar(torch.tensor(low)).U.numpy(), atol=1e-10)
    D, norm = polar_direction(G, 1e3)
    assert norm == 0.0
    assert not D.any()


def test_dependent_columns_do_not_steer_the_iterates():
    """Where X has a null space W stays in its complement, though its polar factors are unit."""
    X, Y, _ = data(p=3)
    X = np.hstack([X, X[:, :1] - X[:, 1:2]])
    model = MatrixRegression(solver="polargrad", tol=1e-10).fit(X, Y)
    np.testing.assert_allclose(model.coef_, MatrixRegression().fit(X, Y).coef_, **CLOSE)


def test_the_design_has_its_adjoint():
    X, Y, B = data(k=3, missing=0.3)
    design = Design(X, B, ~np.isnan(Y), True)
    rng = np.random.default_rng(1)
    W, R = rng.normal(size=(5, 3)), design.project(rng.normal(size=Y.shape))
    np.testing.assert_allclose(np.vdot(design.apply(W), R), np.vdot(W, design.adjoint(R)))
    np.testing.assert_allclose(design.project(R), R, atol=1e-14)


def test_orthonormal_design_soft_thresholds_singular_values():
    rng = np.random.default_rng(0)
    X, _ = np.linalg.qr(rng.normal(size=(30, 6)))
    Y = rng.normal(size=(30, 5))
    U, s, Vt = np.linalg.svd(X.T @ Y, full_matrices=False)
    model = MatrixRegression(nuclear=s[2], fit_intercept=False, tol=1e-12).fit(X, Y)
    expected = (U * np.maximum(s - s[2], 0.0)) @ Vt
    np.testing.assert_allclose(model.matrix_, expected, atol=1e-9)
    assert np.linalg.matrix_rank(model.matrix_, tol=1e-6) == 2


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize("k", [None, 3])
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_nuclear_norm_meets_the_optimality_conditions(alpha, k, missing):
    """G = 𝒜*(T − 𝒜W) − αW is ν times a subgradient: σ₁(G) ≤ ν and ⟨G, W⟩ = ν‖W‖_*."""
    X, Y, B = data(k=k, missing=missing)
    nuclear = 20.0
    model = MatrixRegression(alpha, nuclear=nuclear, right_design=B, tol=1e-12, max_iter=20000).fit(
        X, Y
    )
    residual = np.where(np.isnan(Y), 0.0, Y - model.predict(X))
    assert abs(residual.sum(axis=0)).max() < 1e-8  # the condition of the intercept
    W = model.matrix_
    G = X.T @ residual @ (np.eye(Y.shape[1]) if B is None else B).T - alpha * W
    norm = np.linalg.norm(W, "nuc")
    assert norm > 0
    assert np.linalg.norm(G, 2) <= nuclear * (1 + 1e-4)
    np.testing.assert_allclose(np.vdot(G, W), nuclear * norm, rtol=1e-5)


def test_largest_useful_nuclear_penalty():
    X, Y, _ = data()
    largest = np.linalg.norm((X - X.mean(axis=0)).T @ (Y - Y.mean(axis=0)), 2)
    assert not MatrixRegression(nuclear=largest * 1.001).fit(X, Y).matrix_.any()
    below = MatrixRegression(nuclear=largest * 0.9).fit(X, Y).matrix_
    assert np.linalg.matrix_rank(below, tol=1e-6) == 1


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_duality_gap_bounds_the_distance_to_the_optimum(alpha):
    X, Y, B = data(k=3, missing=0.2)
    design = Design(X - X.mean(axis=0), B, ~np.isnan(Y), True)
    T, nuclear = design.project(Y), 15.0
    best = MatrixRegression(alpha, nuclear=nuclear, right_design=B, tol=1e-13, max_iter=20000).fit(
        X, Y
    )
    gap, optimum = duality_gap(design, T, best.matrix_, alpha, nuclear)
    assert 0 <= gap + 1e-9 * optimum <= 1e-8 * optimum
    rng = np.random.default_rng(0)
    for size in (0.0, 1e-3, 0.1, 1.0):
        W = best.matrix_ + size * rng.normal(size=best.matrix_.shape)
        gap, value = duality_gap(design, T, W, alpha, nuclear)
        assert gap >= value - optimum - 1e-9 * optimum


def test_early_stopping_keeps_the_best_iterate():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 40))
    Y = X @ rng.normal(size=(40, 3)) + 8.0 * rng.normal(size=(60, 3))
    Y[rng.random(Y.shape) < 0.1] = np.nan
    model = MatrixRegression(early_stopping=True, random_state=3, validation_fraction=0.25).fit(
        X, Y
    )
    errors = model.validation_errors_
    _, rows = held_out_split(60, 0.25, 3)
    rest = (model.predict(X) - Y)[rows]
    np.testing.assert_allclose(np.nanmean(rest**2), errors.min())
    assert len(errors) == model.n_iter_ + 1
    assert len(errors) - 1 - errors.argmin() == model.n_iter_no_change
    assert errors.min() < 0.9 * errors[-1] or errors.argmin() > 0


def test_random_state_decides_the_rows():
    X, Y, _ = data()
    fits = [
        MatrixRegression(early_stopping=True, random_state=state).fit(X, Y).validation_errors_
        for state in (0, 0, 1)
    ]
    np.testing.assert_array_equal(fits[0], fits[1])
    assert fits[0][0] != fits[2][0]


def test_single_precision_stays():
    X, Y, B = data(k=3)
    single = MatrixRegression(1.0, right_design=B).fit(X.astype(np.float32), Y.astype(np.float32))
    double = MatrixRegression(1.0, right_design=B).fit(X, Y)
    for name in ("coef_", "intercept_", "matrix_"):
        assert getattr(single, name).dtype == np.float32
        np.testing.assert_allclose(getattr(single, name), getattr(double, name), rtol=1e-3)
    assert single.predict(X.astype(np.float32)).dtype == np.float32


def test_rows_without_targets_are_left_out():
    X, Y, _ = data(missing=0.2)
    Y[[2, 7]] = np.nan
    with pytest.warns(UserWarning, match=r"no observed entry in row 2, 7: left out"):
        model = MatrixRegression(1.0).fit(X, Y)
    others = np.setdiff1d(np.arange(len(X)), [2, 7])
    np.testing.assert_allclose(
        model.coef_, MatrixRegression(1.0).fit(X[others], Y[others]).coef_, rtol=1e-10
    )


def test_score_leaves_missing_entries_out():
    X, Y, _ = data(missing=0.3)
    model = MatrixRegression().fit(X, Y)
    predicted = model.predict(X)
    expected = np.mean(
        [r2_score(y[~np.isnan(y)], p[~np.isnan(y)]) for y, p in zip(Y.T, predicted.T, strict=True)]
    )
    np.testing.assert_allclose(model.score(X, Y), expected)
    X, Y, _ = data()
    weights = np.random.default_rng(0).random(len(X))
    np.testing.assert_allclose(
        model.score(X, Y, weights), r2_score(Y, model.predict(X), sample_weight=weights)
    )


def test_is_tuned_by_a_grid_search_with_missing_targets():
    X, Y, _ = data(missing=0.3)
    search = GridSearchCV(MatrixRegression(), {"nuclear": [0.0, 1.0, 1e6]}, error_score="raise")
    assert search.fit(X, Y).best_params_["nuclear"] < 1e6


@pytest.mark.parametrize("options", [{"solver": "lsqr"}, {"solver": "polargrad"}, {"nuclear": 1.0}])
def test_too_few_iterations_are_told(options):
    X, Y, _ = data()
    with pytest.warns(ConvergenceWarning, match="not converged in max_iter=2 iterations") as told:
        MatrixRegression(**options, max_iter=2, tol=1e-12).fit(X, Y)
    assert told[0].filename == __file__


def test_progress_is_printed_every_so_many_iterations(capsys):
    X, Y, _ = data()
    model = MatrixRegression(solver="polargrad", verbose=2, tol=1e-4).fit(X, Y)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == (model.n_iter_ - 1) // 2  # the last iteration only measures
    assert lines[0].startswith("MatrixRegression: iteration 2: objective ")


@pytest.mark.parametrize("solver", SMOOTH)
def test_constant_targets_need_the_intercept_alone(solver):
    X, _, _ = data()
    model = MatrixRegression(solver=solver).fit(X, np.full((len(X), 2), 7.0))
    np.testing.assert_allclose(model.coef_, 0.0, atol=1e-12)
    np.testing.assert_allclose(model.intercept_, 7.0)


X, Y, B = data(k=3)
HOLES = np.where(np.arange(Y.size).reshape(Y.shape) % 7 == 0, np.nan, Y)
EMPTY = np.where(np.arange(4) == 2, np.nan, Y)


def spoiled(array, value):
    """The array with one entry replaced."""
    copy = array.copy()
    copy[3, 1] = value
    return copy


@pytest.mark.parametrize(
    ("options", "x", "y", "message"),
    [
        ({"alpha": -1.0}, X, Y, "alpha must be at least 0 and finite, got -1.0"),
        ({"nuclear": np.inf}, X, Y, "nuclear must be at least 0 and finite, got inf"),
        ({"tol": np.nan}, X, Y, "tol must be at least 0"),
        ({"max_iter": 0}, X, Y, "max_iter must be at least 1, got 0"),
        ({"verbose": -1}, X, Y, "verbose must be at least 0, got -1"),
        ({"validation_fraction": 1.0}, X, Y, "validation_fraction must lie between 0 and 1"),
        ({"solver": "svd"}, X, Y, "solver must be one of 'auto', 'direct', .* got 'svd'"),
        ({"solver": "proximal"}, X, Y, "solver='proximal' is for nuclear > 0"),
        ({"solver": "direct", "nuclear": 1.0}, X, Y, "got solver='direct' with nuclear=1.0"),
        ({"early_stopping": True, "nuclear": 1.0}, X, Y, "early_stopping regularises in place"),
        ({"early_stopping": True, "solver": "lsqr"}, X, Y, "early_stopping needs"),
        ({"solver": "direct", "right_design": B}, X, HOLES, "no closed form .* use 'lsqr'"),
        ({"right_design": B[:, :2]}, X, Y, r"each of the 4 columns of y, got shape \(3, 2\)"),
        ({"right_design": spoiled(B[:, :4].T, np.nan).T}, X, Y, "right_design contains NaN"),
        ({}, spoiled(X, np.nan), Y, "Input X contains NaN"),
        ({}, spoiled(X, np.inf), Y, "Input X contains infinity"),
        ({}, X, spoiled(Y, np.inf), "Input y contains infinity"),
        ({}, X, EMPTY, "y has no observed entry in column 2 of the data"),
        ({}, X[:5], Y, "inconsistent numbers of samples"),
        ({}, X, Y[:, :, None], "dim 3, while dim <= 2 is required"),
        ({}, X, Y[:, :0], r"0 feature\(s\) \(shape=\(60, 0\)\)"),
    ],
)
def test_bad_input_is_named(options, x, y, message):
    with pytest.raises(ValueError, match=message):
        MatrixRegression(**options).fit(x, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": "1"}, "alpha must be a number, got '1'"),
        ({"max_iter": 2.5}, "max_iter must be a whole number, got 2.5"),
        ({"fit_intercept": "yes"}, "fit_intercept must be True or False, got 'yes'"),
        ({"verbose": "no"}, "verbose must be a whole number, got 'no'"),
    ],
)
def test_options_of_another_type_are_named(options, message):
    with pytest.raises(TypeError, match=message):
        MatrixRegression(**options).fit(X, Y)


def test_a_column_emptied_by_holding_rows_out_is_named():
    sparse = Y.copy()
    _, rows = held_out_split(len(Y), 0.1, 0)
    sparse[np.setdiff1d(np.arange(len(Y)), rows), 1] = np.nan
    with pytest.raises(ValueError, match="in column 1 after rows are held out"):
        MatrixRegression(early_stopping=True, random_state=0).fit(X, sparse)


def test_prediction_needs_a_fit_and_the_same_columns():
    with pytest.raises(NotFittedError):
        MatrixRegression().predict(X)
    with pytest.raises(ValueError, match="X has 2 features, but MatrixRegression is expecting 5"):
        MatrixRegression().fit(X, Y).predict(X[:, :2])
