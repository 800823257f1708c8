"""MatrixCompletion: what it recovers, how it transforms, chooses, and refuses."""

import tracemalloc

import numpy as np
import pytest
import scipy.sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from polargrad.estimators import MatrixCompletion, completion_choice

NAN = np.nan


def low_rank(m, n, rank, fraction, seed=0, noise=0.0):
    """A table of low rank, what is observed of it, and where it is not."""
    random = np.random.default_rng(seed)
    Z = random.standard_normal((m, rank)) @ random.standard_normal((rank, n))
    missing = random.random((m, n)) > fraction
    M = np.where(missing, NAN, Z + noise * random.standard_normal((m, n)))
    return Z, M, missing


def fixed(rank=3, strength=0.5, **others):
    """An estimator that chooses nothing."""
    return MatrixCompletion(
        rank, regularization=strength, early_stopping=False, random_state=0, **others
    )


def stored(M, kind=scipy.sparse.csr_array):
    """The observed entries of a table as a sparse one, zeros too."""
    rows, columns = (~np.isnan(M)).nonzero()
    return kind(scipy.sparse.coo_array((M[rows, columns], (rows, columns)), shape=M.shape))


def rmse(found, true, where):
    return np.sqrt(np.mean((found - true)[where] ** 2))


@pytest.mark.parametrize("bias", [False, True])
def test_a_low_rank_table_is_recovered(bias):
    Z, M, missing = low_rank(60, 40, 3, 0.5)
    filled = fixed(5 if bias else 3, 1e-4, bias=bias, tol=1e-8, max_iter=500).fit_transform(M)
    assert rmse(filled, Z, missing) <= 1e-3 * Z.std()


def test_a_table_of_offsets_needs_no_component():
    random = np.random.default_rng(0)
    Z = 7 + random.standard_normal((50, 1)) + random.standard_normal(40)
    M = np.where(random.random(Z.shape) < 0.5, Z, NAN)
    model = fixed(3, 20.0).fit(M)
    assert model.rank_ == 0
    assert rmse(model.reconstruct(), Z, np.isnan(M)) < 0.5


def test_the_polar_solver_finds_what_alternating_least_squares_finds():
    _, M, missing = low_rank(25, 20, 2, 0.6, noise=0.2)
    als = fixed(4, 2.0, concavity=0, tol=1e-7, max_iter=1000).fit_transform(M)
    polar = fixed(4, 2.0, concavity=0, tol=1e-4, max_iter=2000, solver="polargrad")
    assert rmse(polar.fit_transform(M), als, missing) <= 5e-3 * np.abs(als).max()


def test_observed_entries_stay_and_gaps_hold_the_prediction():
    _, M, missing = low_rank(30, 20, 2, 0.6, noise=0.1)
    model = fixed()
    filled = model.fit_transform(M)
    np.testing.assert_array_equal(filled[~missing], M[~missing])
    np.testing.assert_allclose(filled[missing], model.reconstruct()[missing], rtol=1e-12)
    np.testing.assert_allclose(model.predict(*missing.nonzero()), filled[missing], rtol=1e-10)
    np.testing.assert_allclose(model.predict(M), model.reconstruct(), rtol=1e-8)
    np.testing.assert_array_equal(model.transform(M), filled)
    np.testing.assert_allclose(model.reconstruct([3, 1]), model.reconstruct()[[3, 1]], rtol=1e-12)


def test_new_rows_are_filled_from_the_column_factors():
    Z, M, missing = low_rank(80, 30, 2, 0.7)
    model = fixed(2, 1e-4, bias=False, tol=1e-8, max_iter=500).fit(M[:60])
    filled = model.transform(M[60:])
    assert rmse(filled, Z[60:], missing[60:]) <= 1e-3
    factors, offsets = model.row_factors(M[60:])
    assert factors.shape == (20, 2)
    assert not offsets.any()


def test_rows_are_transformed_one_by_one():
    _, M, _ = low_rank(30, 20, 2, 0.6, noise=0.1)
    model = fixed().fit(M)
    single = np.vstack([model.transform(row[None]) for row in M])
    np.testing.assert_allclose(single, model.transform(M), rtol=1e-10)


@pytest.mark.parametrize("bias", [False, True])
def test_the_unit_of_the_table_does_not_matter(bias):
    _, M, _ = low_rank(30, 20, 2, 0.6, noise=0.1)
    one = fixed(3, 0.5, bias=bias).fit_transform(M)
    np.testing.assert_allclose(
        fixed(3, 512.0, bias=bias).fit_transform(1024 * M), 1024 * one, rtol=1e-9
    )


def test_with_offsets_the_origin_does_not_matter():
    _, M, _ = low_rank(30, 20, 2, 0.6, noise=0.1)
    one = fixed().fit_transform(M)
    np.testing.assert_allclose(fixed().fit_transform(M + 100), one + 100, atol=1e-7)


def test_the_order_of_columns_does_not_matter():
    """The ones that no random number touches: a fit that has converged."""
    _, M, _ = low_rank(30, 20, 2, 0.8, noise=0.1)
    order = np.random.default_rng(1).permutation(20)
    options = {"concavity": 0.0, "tol": 1e-10, "max_iter": 5000}
    one = fixed(20, 2.0, **options).fit_transform(M)
    other = fixed(20, 2.0, **options).fit_transform(M[:, order])
    np.testing.assert_allclose(other, one[:, order], atol=1e-6)


@pytest.mark.parametrize(
    "kind", [scipy.sparse.csr_array, scipy.sparse.csc_matrix, scipy.sparse.coo_array]
)
def test_a_sparse_table_is_the_dense_one(kind):
    _, M, _ = low_rank(30, 20, 2, 0.5, noise=0.1)
    M[3, ~np.isnan(M[3])] = 0.0  # zeros that are observed
    dense, sparse = fixed().fit(M), fixed().fit(stored(M, kind))
    np.testing.assert_allclose(sparse.reconstruct(), dense.reconstruct(), atol=1e-9)
    np.testing.assert_allclose(sparse.transform(stored(M, kind)), dense.transform(M), atol=1e-9)


def test_float32_stays_float32():
    Z, M, missing = low_rank(60, 40, 3, 0.5)
    model = fixed(3, 1e-2, bias=False)
    filled = model.fit_transform(M.astype(np.float32))
    assert filled.dtype == model.row_factors_.dtype == np.float32
    assert model.predict([0], [1]).dtype == np.float32
    assert rmse(filled, Z, missing) <= 0.02
    assert model.transform(M).dtype == np.float64


def test_nothing_of_the_shape_of_a_sparse_table_is_formed():
    """The table has 10⁸ places, 800 MB, and 10⁵ entries; a fourteenth of that is too much."""
    random = np.random.default_rng(0)
    places = np.unique(random.integers(0, 10**8, 10**5))
    rows, columns = np.divmod(places, 5000)
    X = scipy.sparse.coo_array((random.random(len(places)), (rows, columns)), (20000, 5000))
    tracemalloc.start()
    model = MatrixCompletion(4, random_state=0, max_iter=3, tol=1.0)
    with pytest.warns(UserWarning, match="no observed entry in row"):
        model.fit(X)
    model.predict(rows, columns)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


# --- the choice of rank, regularisation and sweeps


def test_the_chosen_regularisation_is_the_best_of_its_path():
    Z, M, missing = low_rank(80, 60, 3, 0.4, noise=0.5)
    model = MatrixCompletion(10, random_state=0).fit(M)
    assert len(model.validation_path_) == len(model.validation_error_) >= 3
    best = int(model.validation_error_.argmin())
    assert model.validation_path_[best] == (10, model.regularization_)
    found = rmse(model.reconstruct(), Z, missing)
    for factor in (1 / 16, 16):  # far from it on either side the unseen error is larger
        other = fixed(10, factor * model.regularization_, max_iter=500).fit(M)
        assert found < 0.9 * rmse(other.reconstruct(), Z, missing)


def test_the_path_ends_early_or_goes_on():
    _, M, _ = low_rank(50, 40, 3, 0.5, noise=0.5)
    stopped = MatrixCompletion(3, random_state=0).fit(M)
    whole = MatrixCompletion(3, early_stopping=False, random_state=0).fit(M)
    assert len(stopped.validation_path_) < len(whole.validation_path_) == 24
    k = len(stopped.validation_error_)
    np.testing.assert_array_equal(whole.validation_error_[:k], stopped.validation_error_)
    assert (np.diff([strength for _, strength in whole.validation_path_]) < 0).all()


def test_a_candidate_that_loses_is_given_up_and_changes_no_choice(monkeypatch, capsys):
    _, M, _ = low_rank(80, 60, 2, 0.3, noise=1.0)
    models, sweeps = [], []
    for rises in (completion_choice.RISES, 10**6):
        monkeypatch.setattr(completion_choice, "RISES", rises)
        models.append(MatrixCompletion(20, concavity=0.5, random_state=0, verbose=1).fit(M))
        told = capsys.readouterr().out.splitlines()
        sweeps.append([int(line.split(" sweeps")[0].split()[-1]) for line in told])
    assert sum(sweeps[0]) < 0.75 * sum(sweeps[1])
    assert models[0].regularization_ == models[1].regularization_
    np.testing.assert_array_equal(models[0].reconstruct(), models[1].reconstruct())


def test_candidates_compared_in_float32_are_those_of_float64(monkeypatch):
    """The choice is the same; what is fitted to all entries in float64 agrees to ``tol``."""
    _, M, _ = low_rank(60, 50, 3, 0.5, noise=0.5)
    options = {"rank": 6, "random_state": 0, "tol": 1e-8, "max_iter": 500}
    single = MatrixCompletion(**options).fit(M)
    monkeypatch.setattr(completion_choice, "SINGLE_RANGE", (np.inf, np.inf))
    double = MatrixCompletion(**options).fit(M)
    assert len(single.validation_path_) == len(double.validation_path_)
    np.testing.assert_allclose(single.validation_error_, double.validation_error_, rtol=1e-4)
    np.testing.assert_allclose(single.regularization_, double.regularization_, rtol=1e-5)
    found, true = single.reconstruct(), double.reconstruct()
    assert found.dtype == true.dtype == np.float64
    assert np.linalg.norm(found - true) <= 1e-5 * np.linalg.norm(true)


@pytest.mark.parametrize("exponent", [-400, -30, 30, 400])
def test_the_unit_of_the_table_does_not_matter_to_the_choice(exponent):
    """Beyond float32's range too, where squares of the entries would overflow or vanish."""
    _, M, _ = low_rank(60, 50, 3, 0.5, noise=0.5)
    options = {"rank": 6, "random_state": 0, "bias": False}
    one = MatrixCompletion(**options).fit(M)
    unit = 2.0**exponent
    other = MatrixCompletion(**options).fit(unit * M)
    np.testing.assert_allclose(other.regularization_ / unit, one.regularization_, rtol=1e-5)
    difference = np.linalg.norm(other.reconstruct() / unit - one.reconstruct())
    assert difference <= 1e-3 * np.linalg.norm(one.reconstruct())


def test_the_rank_is_chosen_at_a_given_regularisation():
    _, M, _ = low_rank(80, 60, 3, 0.5, noise=0.3)
    model = MatrixCompletion(regularization=0.3, bias=False, random_state=0, max_iter=500).fit(M)
    assert model.rank_ == 3
    assert [rank for rank, _ in model.validation_path_][:4] == [1, 2, 3, 5]


def test_the_held_out_error_counts_the_sweeps():
    Z, M, missing = low_rank(60, 50, 2, 0.25, noise=1.0)
    options = {"regularization": 0.01, "random_state": 0, "max_iter": 60}
    early = MatrixCompletion(8, **options).fit(M)
    assert early.n_iter_ == early.validation_error_.argmin() + 1 < 60
    assert early.validation_path_ == []
    with pytest.warns(ConvergenceWarning):
        late = MatrixCompletion(8, early_stopping=False, **options).fit(M)
    assert late.validation_error_.size == 0
    assert rmse(early.reconstruct(), Z, missing) < rmse(late.reconstruct(), Z, missing)


def test_concavity_lowers_the_error_of_a_noisy_table():
    """Each at its own choice; the large singular values pay less."""
    errors = []
    for concavity in (0.0, 0.1):
        model = MatrixCompletion(concavity=concavity, bias=False, random_state=0)
        pairs = [low_rank(60, 50, 4, 0.5, seed=seed, noise=0.5) for seed in range(2)]
        errors.append([rmse(model.fit_transform(M), Z, missing) for Z, M, missing in pairs])
    assert (np.array(errors[1]) < 0.95 * np.array(errors[0])).all()


def test_the_same_seed_gives_the_same_bits():
    _, M, _ = low_rank(40, 30, 3, 0.5, noise=0.5)
    first, again, other = (
        MatrixCompletion(random_state=seed).fit(M.copy()).reconstruct() for seed in (4, 4, 5)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_progress_is_told_on_request(capsys):
    _, M, _ = low_rank(30, 20, 2, 0.6, noise=0.5)
    model = MatrixCompletion(2, random_state=0).fit(M)
    assert capsys.readouterr().out == ""
    clone(model).set_params(verbose=1).fit(M)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(model.validation_path_)
    assert all("held-out error" in line for line in lines)


# --- rows and columns without entries, and what is refused


@pytest.mark.parametrize("bias", [False, True])
def test_an_empty_row_or_column_is_filled_by_the_offsets(bias):
    _, M, _ = low_rank(30, 20, 2, 0.6, noise=0.1)
    M[4], M[:, 7], M[:, 9] = NAN, NAN, NAN
    model = fixed(bias=bias)
    with pytest.warns(UserWarning, match="X has no observed entry") as told:
        filled = model.fit_transform(M)
    assert sorted(str(warning.message).split(":")[0] for warning in told) == [
        "X has no observed entry in column 7, 9",
        "X has no observed entry in row 4",
    ]
    mean, a, b = model.mean_, model.row_offsets_, model.column_offsets_
    np.testing.assert_allclose(filled[4], mean + b, atol=1e-12)
    np.testing.assert_allclose(filled[:, 7], mean + a, atol=1e-12)
    assert (bias and a.any()) or not filled[4].any()
    with pytest.warns(UserWarning, match="in row 0: filled with"):
        np.testing.assert_allclose(model.transform(M[4:5])[0], filled[4], atol=1e-12)


COMPLETE = np.arange(12.0).reshape(4, 3) % 5


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.full((3, 2), NAN), "X has no observed entry: there is nothing"),
        (scipy.sparse.csr_array((3, 2)), "X has no observed entry: there is nothing"),
        (np.array([[1.0, np.inf], [2.0, 3.0]]), "contains infinity"),
        (scipy.sparse.csr_array([[1.0, -np.inf], [2.0, 3.0]]), "contains infinity"),
        ([["a", "b"], ["c", "d"]], "could not convert string to float: 'a'"),
        (np.zeros((0, 3)), "0 sample"),
        (np.zeros((3, 0)), "0 feature"),
        (np.arange(4.0), "Expected 2D array, got 1D array"),
        (COMPLETE * 1j, "Complex data not supported"),
        (
            scipy.sparse.coo_array(([1.0, 2.0, 3.0], ([0, 1, 1], [0, 2, 2])), shape=(2, 3)),
            "X stores row 1, column 2 more than once",
        ),
        (np.array([[1.0]]), "needs at least 2 observed entries, got 1"),
    ],
)
def test_tables_that_are_refused(X, message):
    with pytest.raises(ValueError, match=message):
        MatrixCompletion().fit(X)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"rank": 4}, ValueError, "rank must be at most 3 for a table of 4 × 3, got 4"),
        ({"rank": 0}, ValueError, "rank must be at least 1, got 0"),
        ({"rank": 1.5}, TypeError, "rank must be a whole number, got 1.5"),
        ({"rank": "all"}, TypeError, "rank must be a whole number, got 'all'"),
        ({"regularization": 0}, ValueError, "regularization must be above 0"),
        ({"regularization": -1}, ValueError, "regularization must be at least 0 and finite"),
        ({"concavity": 1.0}, ValueError, "concavity must be at least 0 and below 1, got 1.0"),
        ({"bias": "no"}, TypeError, "bias must be True or False"),
        ({"solver": "sgd"}, ValueError, "solver must be one of 'auto', 'als', 'polargrad'"),
        ({"max_iter": 0}, ValueError, "max_iter must be at least 1"),
        ({"tol": NAN}, ValueError, "tol must be at least 0 and finite"),
        ({"validation_fraction": 1.0}, ValueError, "validation_fraction must lie between"),
    ],
)
def test_arguments_that_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        MatrixCompletion(**options).fit(COMPLETE)


def test_places_that_are_refused():
    model = fixed(2)
    with pytest.raises(NotFittedError):
        model.predict([0], [0])
    model.fit(COMPLETE)
    with pytest.raises(ValueError, match="rows must lie in 0 … 3, got 4"):
        model.predict([0, 4], [0, 0])
    with pytest.raises(ValueError, match="columns must lie in 0 … 2, got -1"):
        model.predict([0], [-1])
    with pytest.raises(ValueError, match="of one length, got 2 and 1"):
        model.predict([0, 1], [0])
    with pytest.raises(TypeError, match="rows must be whole numbers, got dtype float64"):
        model.predict([0.5], [0])
    assert model.predict([], []).shape == (0,)
    with pytest.raises(ValueError, match="X has 2 features, but MatrixCompletion is expecting 3"):
        model.transform(COMPLETE[:, :2])


def test_a_fit_that_has_not_converged_says_so():
    _, M, _ = low_rank(30, 20, 2, 0.6, noise=0.1)
    with pytest.warns(ConvergenceWarning, match="has not converged in max_iter=1 sweeps"):
        fixed(max_iter=1).fit(M)


def test_a_constant_table_has_no_component():
    model = MatrixCompletion(random_state=0).fit(np.full((4, 3), 2.0))
    assert model.rank_ == 0
    np.testing.assert_array_equal(model.reconstruct(), np.full((4, 3), 2.0))
