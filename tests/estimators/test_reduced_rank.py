"""Reduced-rank regression against the augmented Eckart–Young solution; selection of the rank."""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import KFold, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from polargrad.estimators import ReducedRankRegression

ROUNDING = {"rtol": 1e-10, "atol": 1e-10}


def data(n=60, p=7, q=5, rank=2, noise=1.0, seed=0):
    """X and Y whose true coefficient has the given rank."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) + 2.0
    W = rng.normal(size=(p, rank)) @ rng.normal(size=(rank, q))
    return X, X @ W - 1.0 + noise * rng.normal(size=(n, q))


def objective(X, Y, W, alpha):
    """The centred objective, at its best intercept."""
    X, Y = X - X.mean(axis=0), Y - Y.mean(axis=0)
    return np.sum((X @ W - Y) ** 2) + alpha * np.sum(W**2)


@parametrize_with_checks([ReducedRankRegression(), ReducedRankRegression(1, alpha=0.5)])
def test_keeps_the_contract_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("rank", [1, 2, 4, 5])
@pytest.mark.parametrize("alpha", [0.0, 3.0])
@pytest.mark.parametrize("intercept", [True, False])
def test_is_the_truncation_of_the_augmented_fit(rank, alpha, intercept):
    """It is the least-squares solution of (X; √α I), (Y; 0) with truncated fitted values."""
    X, Y = data()
    model = ReducedRankRegression(rank, alpha=alpha, fit_intercept=intercept).fit(X, Y)
    x_mean, y_mean = (a.mean(axis=0) * intercept for a in (X, Y))
    tall = np.vstack([X - x_mean, np.sqrt(alpha) * np.eye(7)])
    target = np.vstack([Y - y_mean, np.zeros((7, 5))])
    fitted = tall @ np.linalg.lstsq(tall, target)[0]
    U, s, Vt = np.linalg.svd(fitted, full_matrices=False)
    W = np.linalg.lstsq(tall, (U[:, :rank] * s[:rank]) @ Vt[:rank])[0]
    np.testing.assert_allclose(model.coef_.T, W, **ROUNDING)
    np.testing.assert_allclose(model.singular_values_, s, **ROUNDING)
    np.testing.assert_allclose(model.intercept_, y_mean - x_mean @ W, **ROUNDING)
    assert np.linalg.matrix_rank(model.coef_, tol=1e-9) == rank == model.rank_
    assert model.cv_errors_ is None


@pytest.mark.parametrize("rank", [1, 3])
def test_no_other_matrix_of_the_rank_is_better(rank):
    X, Y = data()
    model = ReducedRankRegression(rank, alpha=1.0).fit(X, Y)
    best = objective(X, Y, model.coef_.T, 1.0)
    rng = np.random.default_rng(1)
    for size in (1e-3, 1e-2, 0.1, 1.0):
        projection = model.projection_ + size * rng.normal(size=model.projection_.shape)
        loadings = model.loadings_ + size * rng.normal(size=model.loadings_.shape)
        assert objective(X, Y, projection @ loadings.T, 1.0) > best


def test_full_rank_is_ordinary_or_ridge_regression():
    X, Y = data()
    for alpha, other in ((0.0, LinearRegression()), (4.0, Ridge(4.0, solver="svd"))):
        model = ReducedRankRegression(5, alpha=alpha).fit(X, Y)
        np.testing.assert_allclose(model.coef_, other.fit(X, Y).coef_, **ROUNDING)
        np.testing.assert_allclose(model.predict(X), other.predict(X), **ROUNDING)


def test_each_rank_takes_the_square_of_its_singular_value():
    X, Y = data()
    models = [ReducedRankRegression(rank, alpha=2.0).fit(X, Y) for rank in range(1, 6)]
    values = [objective(X, Y, model.coef_.T, 2.0) for model in models]
    squares = models[0].singular_values_ ** 2
    start = objective(X, Y, np.zeros((7, 5)), 2.0)
    np.testing.assert_allclose(-np.diff([start, *values]), squares, rtol=1e-8)


def test_predictions_depend_on_the_scores_alone():
    X, Y = data()
    model = ReducedRankRegression(2).fit(X, Y)
    scores = model.transform(X)
    assert scores.shape == (60, 2)
    np.testing.assert_allclose(scores, (X - X.mean(axis=0)) @ model.projection_, **ROUNDING)
    np.testing.assert_allclose(
        model.predict(X), scores @ model.loadings_.T + Y.mean(axis=0), **ROUNDING
    )
    np.testing.assert_allclose(model.loadings_.T @ model.loadings_, np.eye(2), atol=1e-13)
    assert model.get_feature_names_out().tolist() == [
        "reducedrankregression0",
        "reducedrankregression1",
    ]


def test_signs_do_not_depend_on_the_order_of_rows():
    X, Y = data()
    order = np.random.default_rng(0).permutation(len(X))
    np.testing.assert_allclose(
        ReducedRankRegression(3).fit(X, Y).loadings_,
        ReducedRankRegression(3).fit(X[order], Y[order]).loadings_,
        atol=1e-10,
    )


@pytest.mark.parametrize(
    "cv", [3, KFold(4, shuffle=True, random_state=0), ShuffleSplit(1, random_state=0)], ids=str
)
@pytest.mark.parametrize("intercept", [True, False])
def test_errors_of_all_ranks_are_those_of_separate_fits(cv, intercept):
    X, Y = data(noise=3.0)
    model = ReducedRankRegression(cv=cv, alpha=0.5, fit_intercept=intercept).fit(X, Y)
    splits = list((KFold(cv) if isinstance(cv, int) else cv).split(X))
    expected = []
    for rank in range(1, 6):
        one = ReducedRankRegression(rank, alpha=0.5, fit_intercept=intercept)
        rest = [one.fit(X[fit], Y[fit]).predict(X[held]) - Y[held] for fit, held in splits]
        expected.append(np.mean(np.concatenate(rest) ** 2))
    np.testing.assert_allclose(model.cv_errors_, expected, rtol=1e-10)
    assert model.rank_ == 1 + np.argmin(expected)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_finds_the_rank_of_clear_data(rank):
    X, Y = data(n=300, p=9, q=8, rank=rank, noise=0.3, seed=rank)
    assert ReducedRankRegression().fit(X, Y).rank_ == rank


def test_one_output_needs_no_selection():
    X, Y = data()
    model = ReducedRankRegression().fit(X, Y[:, 0])
    assert model.rank_ == 1
    assert model.cv_errors_ is None
    np.testing.assert_allclose(model.coef_, LinearRegression().fit(X, Y[:, 0]).coef_, **ROUNDING)
    assert model.predict(X).shape == (60,)


def test_fewer_rows_than_features_give_the_solution_of_least_norm():
    X, Y = data(n=4, p=7, q=5)
    model = ReducedRankRegression(4, fit_intercept=False).fit(X, Y)
    np.testing.assert_allclose(model.coef_.T, np.linalg.pinv(X) @ Y, **ROUNDING)


def test_single_precision_stays():
    X, Y = data()
    single = ReducedRankRegression(2).fit(X.astype(np.float32), Y)
    double = ReducedRankRegression(2).fit(X, Y)
    assert {a.dtype for a in (single.coef_, single.projection_, single.loadings_)} == {
        np.dtype(np.float32)
    }
    assert single.transform(X.astype(np.float32)).dtype == np.float32
    np.testing.assert_allclose(single.coef_, double.coef_, rtol=1e-3, atol=1e-5)


def test_is_a_step_of_a_pipeline():
    X, Y = data()
    scores = make_pipeline(StandardScaler(), ReducedRankRegression(2)).fit(X, Y).transform(X)
    assert scores.shape == (60, 2)


X, Y = data()


@pytest.mark.parametrize(
    ("options", "x", "y", "message"),
    [
        ({"rank": 6}, X, Y, "rank must be at most 5, .* 7 features and 5 targets, got 6"),
        ({"rank": 4}, X[:3], Y[:3], "rank must be at most 3, the smallest of 3 samples"),
        ({"rank": 0}, X, Y, "rank must be at least 1, got 0"),
        ({"rank": "full"}, X, Y, "rank must be a whole number or 'auto', got 'full'"),
        ({"alpha": -0.1}, X, Y, "alpha must be at least 0 and finite, got -0.1"),
        ({}, X[:3], Y[:3], "n_splits=5 greater than the number of samples"),
        ({}, np.where(X[3, 1] == X, np.nan, X), Y, "Input X contains NaN"),
        ({}, X, np.where(Y[3, 1] == Y, np.nan, Y), "Input y contains NaN"),
        ({}, X, np.where(Y[3, 1] == Y, np.inf, Y), "Input y contains infinity"),
    ],
)
def test_bad_input_is_named(options, x, y, message):
    with pytest.raises(ValueError, match=message):
        ReducedRankRegression(**options).fit(x, y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 1.5}, "rank must be a whole number, got 1.5"),
        ({"fit_intercept": 1}, "fit_intercept must be True or False, got 1"),
    ],
)
def test_options_of_another_type_are_named(options, message):
    with pytest.raises(TypeError, match=message):
        ReducedRankRegression(**options).fit(X, Y)


@pytest.mark.parametrize("verb", ["predict", "transform"])
def test_use_before_the_fit_is_refused(verb):
    with pytest.raises(NotFittedError):
        getattr(ReducedRankRegression(), verb)(X)
