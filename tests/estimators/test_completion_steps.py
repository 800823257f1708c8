"""The parts of a completion: penalty, ridge regressions, polar step, balance, sweeps."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse

from polargrad.estimators import factor_steps
from polargrad.estimators.completion_fit import Sweeps, fit_model, offset_model
from polargrad.estimators.factor_model import OFFSET_RIDGE, FactorModel, objective
from polargrad.estimators.factor_steps import STEPS, polar_step, solve_rows
from polargrad.estimators.observations import Observations, check_no_duplicates, read_observations
from polargrad.estimators.shrinkage import Shrinkage

EPS = np.finfo(np.float64).eps
EPS_SINGLE = np.finfo(np.float32).eps


def table(m, n, fraction=0.5, rank=3, seed=0, noise=0.3):
    """A noisy table of low rank with gaps, and its observed entries."""
    random = np.random.default_rng(seed)
    Z = random.standard_normal((m, rank)) @ random.standard_normal((rank, n))
    M = Z + noise * random.standard_normal((m, n))
    M[random.random((m, n)) > fraction] = np.nan
    return M, read_observations(M)


def some_model(observations, rank, *, offsets, seed=1):
    random = np.random.default_rng(seed)
    m, n = observations.shape
    a, b = (random.standard_normal(m), random.standard_normal(n)) if offsets else (None, None)
    rows, columns = random.standard_normal((m, rank)), random.standard_normal((n, rank))
    return FactorModel(rows, columns, np.zeros(rank), a, b).balanced()


def dense(model):
    Z = model.rows @ model.columns.T
    return Z if model.row_offsets is None else Z + model.row_offsets[:, None] + model.column_offsets


@pytest.mark.parametrize("concavity", [0.0, 0.1, 0.5, 0.95])
def test_the_shrunk_value_is_the_minimiser(concavity):
    """Against all values of a fine grid."""
    shrinkage = Shrinkage(1.3, concavity)
    grid = np.linspace(0, 8, 80001)
    price = np.array([shrinkage.penalty(np.array([x])) for x in grid[::100]])
    for size in [0.0, 0.5, 1.29, 1.31, 1.5, 3.0, 7.9]:
        (best,) = shrinkage.shrunk(np.array([size]))
        value = 0.5 * (best - size) ** 2 + shrinkage.penalty(np.array([best]))
        assert value <= (0.5 * (grid[::100] - size) ** 2 + price).min() + 1e-12


@pytest.mark.parametrize("concavity", [0.0, 0.2])
def test_the_ridge_is_the_slope_of_the_penalty(concavity):
    shrinkage, sizes, h = Shrinkage(0.7, concavity), np.array([0.5, 2.0, 30.0]), 1e-5
    slopes = [
        (shrinkage.penalty(np.array([s + h])) - shrinkage.penalty(np.array([s - h]))) / (2 * h)
        for s in sizes
    ]
    np.testing.assert_allclose(shrinkage.ridge(sizes), slopes, rtol=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_balance_keeps_the_table_and_does_not_raise_the_price_of_the_factors(seed):
    random = np.random.default_rng(seed)
    X, Y = random.standard_normal((9, 4)) * [5, 1, 0.2, 2], random.standard_normal((7, 4))
    model = FactorModel(X, Y, np.zeros(4)).balanced()
    np.testing.assert_allclose(dense(model), X @ Y.T, atol=100 * EPS)
    for factor in (model.rows, model.columns):
        np.testing.assert_allclose(factor.T @ factor, np.diag(model.sizes), atol=200 * EPS)
    np.testing.assert_allclose(
        model.sizes, np.linalg.svd(X @ Y.T, compute_uv=False)[:4], atol=200 * EPS
    )
    shrinkage = Shrinkage(0.8, 0.3)
    scale = shrinkage.strength / shrinkage.concavity
    price = sum(
        shrinkage.strength * scale / 2 * np.linalg.slogdet(np.eye(4) + F.T @ F / scale)[1]
        for F in (X, Y)
    )
    assert shrinkage.penalty(model.sizes) <= price


@pytest.mark.parametrize("offsets", [False, True])
@pytest.mark.parametrize("fraction", [0.02, 0.5])
@pytest.mark.parametrize("blocks", ["whole", "cut"])
def test_each_row_is_the_ridge_regression_on_its_columns(offsets, fraction, blocks, monkeypatch):
    if blocks == "cut":  # five rows, and three products of columns, at a time
        monkeypatch.setattr(factor_steps, "BLOCK_BYTES", 5 * 3 * 25 * 8)
        monkeypatch.setattr(factor_steps, "MONOMIAL_BYTES", 3 * 40 * 8)
    M, observations = table(23, 40, fraction)
    random = np.random.default_rng(3)
    design, ridge = random.standard_normal((40, 5)), random.random(5) + 0.1
    b = random.standard_normal(40) if offsets else None
    found = solve_rows(observations.by_rows, design, b, ridge)
    for i, row in enumerate(M):
        seen = ~np.isnan(row)
        target = (row - (0 if b is None else b))[seen]
        stacked = np.vstack([design[seen], np.diag(np.sqrt(ridge))])
        expected = np.linalg.lstsq(stacked, np.append(target, np.zeros(5)), rcond=None)[0]
        np.testing.assert_allclose(found[i], expected, rtol=0, atol=2000 * EPS)


def test_a_singular_system_in_float32_is_still_solved():
    """Two equal columns and a ridge below float32's resolution: a finite solution that fits."""
    design = np.repeat(np.arange(1, 9, dtype=np.float32)[:, None], 2, axis=1) * 1e4
    observations = read_observations(design[:, 0][None, :])
    ridge = np.full(2, 1e-12, dtype=np.float32)
    found = solve_rows(observations.by_rows, design, None, ridge)
    np.testing.assert_allclose(found.sum(), 1, rtol=1e-4)


@pytest.mark.parametrize("offsets", [False, True])
def test_the_polar_step_is_along_the_polar_factor_and_exact_in_length(offsets):
    _, observations = table(12, 9)
    model, shrinkage = some_model(observations, 3, offsets=offsets), Shrinkage(0.5, 0.2)
    ridge = model.row_ridge(shrinkage)
    mask = observations.by_rows.matrix.toarray() != 0
    target = observations.by_rows.matrix.toarray()

    def value(P):
        residual = P @ model.row_design.T - target
        if offsets:
            residual = residual + model.column_offsets
        return 0.5 * np.sum((mask * residual) ** 2) + 0.5 * np.sum(ridge * P**2)

    before = model.row_unknowns
    step = polar_step(observations.by_rows, model, shrinkage) - before
    residual = dense(model) - target
    gradient = (mask * residual) @ model.row_design + before * ridge
    U, _, Vt = np.linalg.svd(gradient, full_matrices=False)
    length = np.linalg.norm(step) / np.sqrt(step.shape[1])
    np.testing.assert_allclose(step, -length * U @ Vt, atol=1e-12)
    slope = (value(before + 1.001 * step) - value(before + 0.999 * step)) / 0.002
    assert abs(slope) <= 1e-9 * (value(before) - value(before + step))
    assert value(before + step) < value(before)


@pytest.mark.parametrize("solver", STEPS)
@pytest.mark.parametrize("concavity", [0.0, 0.4])
@pytest.mark.parametrize("offsets", [False, True])
def test_no_sweep_raises_the_objective(solver, concavity, offsets):
    _, observations = table(20, 16)
    shrinkage = Shrinkage(0.5, concavity)
    model = some_model(observations, 4, offsets=offsets)
    values = [objective(model, observations, shrinkage)]

    def watch(found):
        values.append(objective(found, observations, shrinkage))
        return False

    random = np.random.RandomState(0)
    fit_model(observations, model, 4, shrinkage, Sweeps(STEPS[solver], 25, 0.0, random), watch)
    assert len(values) == 26
    assert all(later <= earlier * (1 + 10 * EPS) for earlier, later in pairwise(values))
    assert values[-1] < 0.5 * values[0]


def soft_impute(M, strength, steps=3000):
    """Z ← S_λ(P_Ω(M) + P_Ω⊥(Z)), written out with a dense SVD: the oracle for concavity 0."""
    Z = np.zeros_like(M)
    for _ in range(steps):
        U, s, Vt = np.linalg.svd(np.where(np.isnan(M), Z, M), full_matrices=False)
        Z = (U * np.maximum(s - strength, 0)) @ Vt
    return Z


@pytest.mark.parametrize(
    ("solver", "tol", "atol"), [("als", 1e-9, 1e-6), ("polargrad", 1e-6, 1e-3)]
)
def test_without_concavity_this_is_soft_impute(solver, tol, atol):
    M, observations = table(15, 12)
    shrinkage, random = Shrinkage(1.0, 0.0), np.random.RandomState(0)
    start = FactorModel.empty(observations, offsets=False)
    sweeps = Sweeps(STEPS[solver], 20000, tol, random)
    fit = fit_model(observations, start, 12, shrinkage, sweeps)
    assert fit.change <= tol
    np.testing.assert_allclose(dense(fit.model), soft_impute(M, 1.0), atol=atol)


@pytest.mark.parametrize("concavity", [0.0, 0.1, 0.6])
def test_of_a_complete_table_the_singular_values_are_shrunk(concavity):
    """The proximal map of the penalty, by the SVD."""
    M, observations = table(14, 10, fraction=1.1)
    shrinkage = Shrinkage(1.5, concavity)
    start = FactorModel.empty(observations, offsets=False)
    sweeps = Sweeps(STEPS["als"], 2000, 1e-11, np.random.RandomState(0))
    fit = fit_model(observations, start, 10, shrinkage, sweeps)
    U, s, Vt = np.linalg.svd(M, full_matrices=False)
    np.testing.assert_allclose(dense(fit.model), (U * shrinkage.shrunk(s)) @ Vt, atol=1e-6)


def test_the_offsets_are_shrunk_means():
    """The last to be found are b, given a: sums over |Ω_j| + β."""
    _, observations = table(30, 6)
    model = offset_model(observations, offsets=True, shrinkage=Shrinkage(1.0, 0.0))
    for i in range(6):
        column = observations.by_columns.rows(i, i + 1)
        residual = column.data - model.row_offsets[column.indices]
        expected = residual.sum() / (len(residual) + OFFSET_RIDGE)
        assert model.column_offsets[i] == pytest.approx(expected, abs=50 * EPS)


def test_products_are_taken_at_the_observed_entries_alone(monkeypatch):
    monkeypatch.setattr("polargrad.estimators.observations.PAIRS", 7)
    _, observations = table(11, 8)
    random = np.random.default_rng(2)
    X, Y = random.standard_normal((11, 3)), random.standard_normal((8, 3))
    entries = observations.by_rows
    rows, columns = entries.matrix.tocoo().coords
    np.testing.assert_allclose(entries.products(X, Y), (X @ Y.T)[rows, columns], atol=20 * EPS)


def test_entries_are_split_without_loss():
    _, observations = table(40, 30)
    training, held = observations.split(0.25, np.random.RandomState(0))
    assert training.count + held.count == observations.count
    together = training.by_rows.matrix + held.by_rows.matrix
    np.testing.assert_array_equal(together.toarray(), observations.by_rows.matrix.toarray())
    assert 0.15 < held.count / observations.count < 0.35
    for part in (training, held):
        np.testing.assert_array_equal(
            part.by_rows.matrix.toarray().T, part.by_columns.matrix.toarray()
        )


def test_another_dtype_shares_the_places():
    _, observations = table(12, 9)
    single = observations.astype(np.float32)
    assert observations.astype(np.float64) is observations
    for before, after in (
        (observations.by_rows.matrix, single.by_rows.matrix),
        (observations.by_columns.matrix, single.by_columns.matrix),
    ):
        assert after.dtype == np.float32
        assert np.shares_memory(before.indices, after.indices)
        np.testing.assert_allclose(after.data, before.data, rtol=EPS_SINGLE)


def test_the_smallest_split_has_an_entry_on_both_sides():
    observations = read_observations(np.array([[1.0, 2.0]]))
    for seed in range(20):
        parts = observations.split(0.01, np.random.RandomState(seed))
        assert [part.count for part in parts] == [1, 1]


@pytest.mark.parametrize("kind", [scipy.sparse.coo_array, scipy.sparse.coo_matrix])
def test_duplicates_are_named(kind):
    X = kind(([1.0, 2.0, 3.0, 0.0, 5.0], ([4, 2, 4, 2, 0], [1, 3, 1, 3, 0])), shape=(5, 5))
    with pytest.raises(ValueError, match=r"row 2, column 3 more than once \(2 such repetitions"):
        check_no_duplicates(X)
    stored = scipy.sparse.csr_array(([1.0, 2.0], [1, 1], [0, 2]), shape=(1, 3))
    with pytest.raises(ValueError, match="row 0, column 1"):
        check_no_duplicates(stored)
    check_no_duplicates(scipy.sparse.csr_array(([1.0, 2.0], [2, 1], [0, 2]), shape=(1, 3)))


def test_zeros_that_are_stored_are_observed_and_a_stored_nan_is_not():
    X = scipy.sparse.csc_array(([0.0, np.nan, 2.0], ([0, 1, 1], [1, 0, 2])), shape=(2, 3))
    observations = read_observations(X)
    assert isinstance(observations, Observations)
    assert observations.by_rows.counts.tolist() == [1, 1]
    assert observations.by_columns.counts.tolist() == [0, 1, 1]
    assert observations.values.tolist() == [0.0, 2.0]
