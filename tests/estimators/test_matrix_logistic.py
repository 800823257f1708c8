"""Matrix logistic regression against scikit-learn's, its Kronecker form, and autograd."""

import numpy as np
import pytest
import torch
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

from polargrad.estimators import MatrixLogisticRegression
from polargrad.estimators.iteration import HeldOut, Stopping
from polargrad.estimators.logistic_losses import BinaryLoss, CategoricalLoss
from polargrad.estimators.logistic_solvers import LogisticProblem, solve_polargrad
from polargrad.estimators.validation import held_out_split

SOLVERS = ["lbfgs", "polargrad"]
# A gradient of 1e-7 times its first value leaves coefficients of about 1 this close, as
# both problems here are at least 1e-2 strongly convex relative to their smoothness.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def classes(count, seed=0):
    """X and y with ``count`` classes that overlap."""
    return make_classification(
        150, 6, n_informative=4, n_redundant=0, n_classes=count, class_sep=0.6, random_state=seed
    )


def labels(n=120, p=5, q=4, k=None, missing=0.0, seed=0):
    """X, the labels Y as 0, 1 and NaN, and B of k × q or None."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) + 0.5
    B = None if k is None else rng.normal(size=(k, q))
    Z = X @ rng.normal(size=(p, q)) if B is None else X @ rng.normal(size=(p, k)) @ B
    Y = (rng.random((n, q)) < 1.0 / (1.0 + np.exp(-Z))).astype(float)
    holes = rng.random((n, q)) < missing
    Y[holes & ~holes.all(axis=1, keepdims=True)] = np.nan
    return X, Y, B


def reference(alpha, intercept=True):
    """scikit-learn's solver by Newton steps, to the last digits."""
    return LogisticRegression(
        C=1.0 / alpha, fit_intercept=intercept, solver="newton-cg", tol=1e-10, max_iter=1000
    )


@parametrize_with_checks(
    [
        MatrixLogisticRegression(),
        MatrixLogisticRegression(solver="polargrad"),
        MatrixLogisticRegression(early_stopping=True, random_state=0),
    ]
)
def test_keeps_the_contract_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("alpha", [0.1, 10.0])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("count", [2, 3])
def test_is_scikit_learns_logistic_regression(solver, alpha, intercept, count):
    X, y = classes(count)
    model = MatrixLogisticRegression(
        alpha, fit_intercept=intercept, solver=solver, tol=1e-7, max_iter=5000
    ).fit(X, y)
    other = reference(alpha, intercept).fit(X, y)
    np.testing.assert_allclose(model.coef_, other.coef_, **CLOSE)
    np.testing.assert_allclose(model.predict_proba(X), other.predict_proba(X), **CLOSE)
    np.testing.assert_allclose(model.decision_function(X), other.decision_function(X), **CLOSE)
    np.testing.assert_array_equal(model.predict(X), other.predict(X))
    if intercept:
        np.testing.assert_allclose(model.intercept_, other.intercept_, **CLOSE)
    else:
        assert not model.intercept_.any()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_labels_without_a_right_design_are_separate_regressions(solver, missing):
    X, Y, _ = labels(missing=missing)
    model = MatrixLogisticRegression(solver=solver, tol=1e-7).fit(X, Y)
    for j, known in enumerate(~np.isnan(Y.T)):
        other = reference(1.0).fit(X[known], Y[known, j])
        np.testing.assert_allclose(model.coef_[j], other.coef_[0], **CLOSE)
        np.testing.assert_allclose(model.intercept_[j], other.intercept_[0], **CLOSE)
        np.testing.assert_allclose(
            model.predict_proba(X)[:, j], other.predict_proba(X)[:, 1], **CLOSE
        )
    assert model.predict(X).shape == Y.shape
    np.testing.assert_array_equal(model.predict(X), model.predict_proba(X) > 0.5)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_a_right_design_is_a_regression_on_products_of_features(solver, missing):
    """(X W B)_ij = ⟨vec W, x_i ⊗ b_j⟩: one binary regression with a row for each label."""
    X, Y, B = labels(k=3, missing=missing)
    model = MatrixLogisticRegression(
        0.5, right_design=B, fit_intercept=False, solver=solver, tol=1e-7, max_iter=5000
    ).fit(X, Y)
    known = ~np.isnan(Y.ravel())
    other = reference(0.5, intercept=False).fit(np.kron(X, B.T)[known], Y.ravel()[known])
    np.testing.assert_allclose(model.matrix_, other.coef_.reshape(5, 3), **CLOSE)
    np.testing.assert_allclose(model.coef_.T, model.matrix_ @ B, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
def test_classes_with_a_right_design_are_stationary(solver):
    """The gradient of the cross entropy by autograd, at the solution and at zero."""
    X, y = classes(4)
    B = np.random.default_rng(0).normal(size=(2, 4))
    model = MatrixLogisticRegression(right_design=B, solver=solver, tol=1e-7, max_iter=5000).fit(
        X, y
    )

    def gradient(W, c):
        W, c = (torch.tensor(a, requires_grad=True) for a in (W, c))
        logits = torch.tensor(X) @ W @ torch.tensor(B) + c
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(y), reduction="sum")
        (loss + 0.5 * W.square().sum()).backward()
        return max(W.grad.abs().max().item(), c.grad.abs().max().item())

    start = gradient(np.zeros((6, 2)), np.zeros(4))
    assert gradient(model.matrix_, model.intercept_) <= 1e-5 * start


LOSSES = [
    BinaryLoss(np.random.default_rng(0).integers(-1, 2, size=(6, 4)).astype(float)),
    CategoricalLoss(np.eye(4)[[0, 1, 2, 3, 0, 1]]),
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("size", [0.0, 1.0, 300.0])
def test_residual_is_the_derivative_and_curvature_its_bound(loss, size):
    def value(Z):
        if isinstance(loss, CategoricalLoss):
            target = torch.tensor(loss.indicator)
            return -(target * torch.log_softmax(Z, dim=1)).sum()
        C = torch.tensor(loss.signs)
        return -(torch.nn.functional.logsigmoid(C * Z) * C.abs()).sum()

    Z = size * np.random.default_rng(1).normal(size=(6, 4))
    at = torch.tensor(Z, requires_grad=True)
    (derivative,) = torch.autograd.grad(value(at), at)
    np.testing.assert_allclose(loss.value(Z), value(at).item(), rtol=1e-12)
    np.testing.assert_allclose(loss.residual(Z), derivative.numpy(), atol=1e-14)
    hessian = torch.autograd.functional.hessian(value, torch.tensor(Z)).reshape(24, 24)
    assert torch.linalg.eigvalsh(hessian).max() <= loss.curvature * (1 + 1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_each_polargrad_step_lowers_the_objective(loss):
    rng = np.random.default_rng(2)
    problem = LogisticProblem(rng.normal(size=(6, 5)), rng.normal(size=(3, 4)), loss, 0.3, True)
    trace = HeldOut(lambda W, c: problem.value(W, problem.logits(W, c)), patience=1000)
    solve_polargrad(problem, Stopping("test", 1000, 1e-6, 0), trace)
    assert len(trace.errors) > 5
    assert (np.diff(trace.errors) < 0).all()


def test_separable_classes_stay_finite():
    X = np.array([[-2.0], [-1.0], [1.0], [2.0]])
    model = MatrixLogisticRegression(1e-3).fit(X, [0, 0, 1, 1])
    assert np.isfinite(model.coef_).all()
    assert model.score(X, [0, 0, 1, 1]) == 1.0


@pytest.mark.parametrize("matrix", [False, True])
def test_early_stopping_keeps_the_best_iterate(matrix):
    if matrix:
        X, Y, _ = labels(n=60, p=30, missing=0.1)
    else:
        X, Y = classes(3)
    model = MatrixLogisticRegression(
        0.0, early_stopping=True, validation_fraction=0.3, random_state=1
    ).fit(X, Y)
    errors = model.validation_errors_
    _, rows = held_out_split(len(X), 0.3, 1, None if matrix else Y)
    p = model.predict_proba(X[rows])
    if matrix:
        losses = -np.log(np.where(Y[rows] == 1, p, 1 - p))[~np.isnan(Y[rows])]
    else:
        losses = -np.log(p[np.arange(len(rows)), Y[rows]])
    np.testing.assert_allclose(losses.mean(), errors.min(), rtol=1e-10)
    np.testing.assert_allclose(errors[0], np.log(2 if matrix else 3))
    assert model.solver_ == "polargrad"
    assert len(errors) - 1 - errors.argmin() == model.n_iter_no_change
    again = MatrixLogisticRegression(
        0.0, early_stopping=True, validation_fraction=0.3, random_state=1
    ).fit(X, Y)
    np.testing.assert_array_equal(again.coef_, model.coef_)


def test_classes_keep_their_names():
    X, y = classes(3)
    names = np.array(["setosa", "virginica", "other"])
    model = MatrixLogisticRegression().fit(X, names[y])
    assert model.classes_.tolist() == ["other", "setosa", "virginica"]
    assert set(model.predict(X)) <= set(names)
    two = MatrixLogisticRegression().fit(X, np.where(y == 0, "no", "yes"))
    np.testing.assert_array_equal(two.predict(X) == "yes", two.decision_function(X) > 0)
    np.testing.assert_allclose(two.predict_proba(X).sum(axis=1), 1.0)


def test_score_leaves_unknown_labels_out():
    X, Y, _ = labels(missing=0.3)
    model = MatrixLogisticRegression().fit(X, Y)
    right = (model.predict(X) == Y) | np.isnan(Y)
    assert model.score(X, Y) == pytest.approx(right.all(axis=1).mean())


def test_single_precision_stays():
    X, Y, B = labels(k=3)
    single = MatrixLogisticRegression(right_design=B).fit(X.astype(np.float32), Y)
    double = MatrixLogisticRegression(right_design=B).fit(X, Y)
    assert {a.dtype for a in (single.coef_, single.matrix_, single.intercept_)} == {
        np.dtype(np.float32)
    }
    assert single.predict_proba(X.astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(single.coef_, double.coef_, rtol=1e-3, atol=1e-4)


def test_rows_without_labels_are_left_out():
    X, Y, _ = labels()
    Y[4] = np.nan
    with pytest.warns(UserWarning, match="no observed entry in row 4: left out"):
        model = MatrixLogisticRegression(tol=1e-8).fit(X, Y)
    others = np.delete(np.arange(len(X)), 4)
    other = MatrixLogisticRegression(tol=1e-8).fit(X[others], Y[others])
    np.testing.assert_allclose(model.coef_, other.coef_, **CLOSE)


@pytest.mark.parametrize("solver", SOLVERS)
def test_too_few_iterations_are_told(solver):
    X, y = classes(3)
    with pytest.warns(ConvergenceWarning, match="not converged in max_iter=2 iterations") as told:
        MatrixLogisticRegression(solver=solver, max_iter=2).fit(X, y)
    assert told[0].filename == __file__


@pytest.mark.parametrize("solver", SOLVERS)
def test_progress_is_printed_every_so_many_iterations(solver, capsys):
    X, y = classes(3)
    MatrixLogisticRegression(solver=solver, verbose=5).fit(X, y)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("MatrixLogisticRegression: iteration 5: objective ")
    assert lines[1].startswith("MatrixLogisticRegression: iteration 10: objective ")


def test_a_class_that_holding_out_removes_is_named():
    X, y = np.arange(8.0)[:, None], np.array([0, 0, 0, 0, 1, 1, 1, 2])
    _, rows = held_out_split(8, 0.25, 0)
    y = np.roll(y, rows[0] - 7)  # the one row of class 2 is held out
    with pytest.raises(ValueError, match=r"no row of class .*2.* is left after rows are held out"):
        MatrixLogisticRegression(early_stopping=True, validation_fraction=0.25, random_state=0).fit(
            X, y
        )


X, Y, B = labels(k=3)


def with_entry(value):
    """The labels with one entry replaced."""
    return np.where(np.arange(Y.size).reshape(Y.shape) == 7, value, Y)


@pytest.mark.parametrize(
    ("options", "x", "y", "message"),
    [
        ({"alpha": -1.0}, X, Y, "alpha must be at least 0 and finite, got -1.0"),
        ({"solver": "newton"}, X, Y, "solver must be one of 'auto', 'lbfgs', 'polargrad'"),
        ({"early_stopping": True, "solver": "lbfgs"}, X, Y, "early_stopping needs"),
        ({"right_design": B[:, :2]}, X, Y, r"each of the 4 columns of y, got shape \(3, 2\)"),
        ({"right_design": B}, X, Y[:, 0], "each of the 1 columns of y"),
        ({}, X, np.full(len(X), 3), "at least 2 classes .* contains only one class: .*3"),
        ({}, X, np.where(np.arange(4) == 1, 1.0, Y), "only one class, 1, in column 1"),
        ({}, X, np.where(np.arange(4) == 2, np.nan, Y), "no observed entry in column 2"),
        ({}, X, with_entry(2.0), "must hold labels 0 and 1, .* got 2"),
        ({}, X, with_entry(-1.0), "must hold labels 0 and 1, .* got -1"),
        ({}, X, np.where(Y == 1, "a", "b"), "got entries that are not numbers"),
        ({}, X, with_entry(np.inf), "Input y contains infinity"),
        ({}, X, with_entry(np.nan)[:, 3], "Input y contains NaN"),
        ({}, X, X[:, 0], "Unknown label type"),
        ({}, np.where(X[3, 1] == X, np.nan, X), Y, "Input X contains NaN"),
        ({}, np.where(X[3, 1] == X, np.inf, X), Y, "Input X contains infinity"),
    ],
)
def test_bad_input_is_named(options, x, y, message):
    with pytest.raises(ValueError, match=message):
        MatrixLogisticRegression(**options).fit(x, y)


def test_prediction_needs_a_fit_and_scores_need_the_same_labels():
    for verb in ("predict", "predict_proba", "decision_function"):
        with pytest.raises(NotFittedError):
            getattr(MatrixLogisticRegression(), verb)(X)
    with pytest.raises(ValueError, match=r"y must have shape \(120, 4\), got \(120, 3\)"):
        MatrixLogisticRegression().fit(X, Y).score(X, Y[:, :3])
