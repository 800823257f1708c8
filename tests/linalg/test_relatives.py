"""Norms, bounds and inverse roots against float64 oracles: every stated bound is kept."""

import math

import pytest
import torch
from matrices import (
    COMPLEX,
    HALF,
    REAL,
    conditioned,
    double,
    eps,
    geometric,
    orthogonality,
    polar_oracle,
    with_singular_values,
)

from polargrad.errors import NonFiniteError
from polargrad.linalg.decompose import polar
from polargrad.linalg.methods import NewtonSchulz
from polargrad.linalg.norms import POWERS, orthogonality_defect, spectral_norm_bound
from polargrad.linalg.nuclear import NuclearNorm, nuclear_norm
from polargrad.linalg.roots import inverse_root

SHAPES = [(1, 1), (6, 1), (1, 6), (9, 9), (40, 7), (7, 40), (3, 20, 6), (2, 2, 6, 9)]
DTYPES = [*REAL, *COMPLEX]


def real_dtype(dtype):
    wide = torch.float32 if dtype in HALF else dtype
    return torch.empty(0, dtype=wide).real.dtype if wide.is_complex else wide


def exact_nuclear(a):
    return torch.linalg.svdvals(double(a)).sum(-1)


def exact_spectral(a):
    return torch.linalg.svdvals(double(a))[..., 0]


@pytest.mark.parametrize("method", ["svd", "qdwh"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [*DTYPES, *HALF], ids=str)
def test_nuclear_norm_and_its_error(method, shape, dtype):
    a = conditioned(shape, 1e3, dtype)
    found = nuclear_norm(a, method=method)
    assert isinstance(found, NuclearNorm)
    assert found.value.shape == found.error.shape == shape[:-2]
    assert found.value.dtype == found.error.dtype == real_dtype(dtype)
    exact = exact_nuclear(a)
    off = (found.value.double() - exact).abs()
    e = eps(found.value.dtype)
    assert (off <= 10 * e * exact).all()
    # What is said is true, the oracle's own rounding aside, and not far from it.
    assert (off <= found.error.double() + 4 * eps(torch.float64) * exact).all()
    assert (found.error <= 2e4 * e * exact).all()


METHODS = [
    "newton_schulz",
    "polar_express",
    NewtonSchulz("cubic", steps=1),
    {"name": "qdwh", "steps": 2},
    {"name": "qdwh", "steps": 1, "lower_bound": 0.5},
]


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("condition", [1.0, 30.0, 1e5])
@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_the_error_holds_for_a_factor_that_has_not_converged(method, condition, dtype):
    for seed, shape in enumerate([(30, 12), (12, 30), (20, 20), (3, 8, 5)]):
        a = conditioned(shape, condition, dtype, seed)
        value, error = nuclear_norm(a, method=method)
        assert ((value.double() - exact_nuclear(a)).abs() <= error.double()).all()
        assert torch.isfinite(error).all()


def test_five_newton_schulz_steps_are_off_by_what_is_known():
    """The norm comes out some percent wrong, and the stated error says so, without being absurd."""
    a = torch.randn(60, 40, generator=torch.Generator().manual_seed(0))
    value, error = nuclear_norm(a, method="newton_schulz")
    off = (value.double() - exact_nuclear(a)).abs()
    assert 0.01 * exact_nuclear(a) <= off <= error.double() <= exact_nuclear(a)


@pytest.mark.parametrize("rank", [0, 1, 4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nuclear_norm_of_low_rank(rank, dtype):
    sigma = torch.zeros(12, dtype=torch.float64)
    sigma[:rank] = torch.linspace(1.0, 0.2, rank, dtype=torch.float64)
    a = with_singular_values((2, 20, 12), sigma, dtype)
    value, error = nuclear_norm(a)
    assert ((value.double() - exact_nuclear(a)).abs() <= error.double()).all()
    # In float64 the worst case of rounding is all that the bound consists of.
    assert (error <= (3e3 * eps(dtype) + 1e5 * eps(torch.float64)) * rank).all()


def test_a_flipped_pair_proves_nothing(monkeypatch):
    """A factor with orthonormal columns and the wrong sign of one direction: H is not ⪰ 0."""
    a = conditioned((20, 8), 10.0)
    w, _, vh = torch.linalg.svd(a, full_matrices=False)
    flipped = w @ torch.diag(torch.tensor([-1.0] + [1.0] * 7, dtype=a.dtype)) @ vh
    monkeypatch.setattr(
        "polargrad.linalg.nuclear.polar", lambda *_, **__: type("Result", (), {"U": flipped})
    )
    assert nuclear_norm(a).error == torch.inf


@pytest.mark.parametrize("power", POWERS)
@pytest.mark.parametrize("dtype", [*DTYPES, *HALF], ids=str)
@pytest.mark.parametrize("condition", [1.0, 1e4])
def test_spectral_bound_lies_where_it_is_stated(power, dtype, condition):
    for seed, shape in enumerate([*SHAPES, (30, 30)]):
        a = conditioned(shape, condition, dtype, seed)
        bound = spectral_norm_bound(a, power=power)
        assert bound.dtype == real_dtype(dtype)
        assert bound.shape == shape[:-2]
        ratio = bound.double() / exact_spectral(a)
        # The oracle itself is good to a few eps of float64.
        assert (ratio >= 1.0 - 4 * eps(torch.float64)).all()
        rounding = 4 * eps(bound.dtype) + 1e3 * sum(shape[-2:]) * eps(torch.float64)
        assert (ratio <= min(shape[-2:]) ** (1.0 / (4 * power)) * (1.0 + rounding)).all()


def test_spectral_bound_is_the_schatten_norm():
    a = conditioned((50, 20), 7.0)
    sigma = torch.linalg.svdvals(a)
    for power in POWERS:
        expected = sigma.pow(4 * power).sum() ** (1.0 / (4 * power))
        assert spectral_norm_bound(a, power=power).item() == pytest.approx(
            expected.item(), rel=1e-9
        )


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (200, 1), (40, 30)], ids=str)
def test_spectral_bound_of_rank_one_is_never_below(shape):
    """Schatten norms of rank one are the spectral norm: only the allowance keeps it above."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        left = torch.randn(shape[0], 1, generator=generator, dtype=torch.float64)
        right = torch.randn(1, shape[1], generator=generator, dtype=torch.float64)
        for dtype in (torch.float32, torch.float64):
            a = (left @ right).to(dtype)
            bound = spectral_norm_bound(a, power=16).double()
            assert bound >= exact_spectral(a)
            assert bound <= exact_spectral(a) * (1.0 + 1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e30])
def test_norms_at_every_scale(scale):
    a = conditioned((20, 8), 10.0, torch.float32) * scale
    assert (spectral_norm_bound(a).double() / exact_spectral(a)).item() == pytest.approx(
        spectral_norm_bound(a / scale).double().item(), rel=1e-5
    )
    value, error = nuclear_norm(a)
    assert (value.double() - exact_nuclear(a)).abs() <= error.double()
    assert error.double() <= 1e-4 * exact_nuclear(a)


@pytest.mark.parametrize("exponent", [-1000, -500, 500, 1000])
def test_norms_scale_exactly_in_float64(exponent):
    a = conditioned((9, 6), 10.0)
    scaled = torch.ldexp(a, torch.tensor(exponent))
    bound, norm = spectral_norm_bound(a), nuclear_norm(a)
    factor = 2.0**exponent
    assert spectral_norm_bound(scaled).item() == pytest.approx(bound.item() * factor, rel=1e-15)
    assert nuclear_norm(scaled).value == norm.value * factor


@pytest.mark.parametrize("shape", [(4, 3), (3, 4), (2, 3, 3)], ids=str)
def test_zero_and_empty(shape):
    zero = torch.zeros(shape)
    assert torch.equal(spectral_norm_bound(zero), torch.zeros(shape[:-2]))
    value, error = nuclear_norm(zero)
    assert torch.equal(value, torch.zeros(shape[:-2]))
    assert torch.equal(error, torch.zeros(shape[:-2]))
    assert torch.equal(orthogonality_defect(zero), torch.ones(shape[:-2], dtype=torch.float64))
    for empty in (torch.zeros(0, 3, 3), torch.zeros(2, 0, 3), torch.zeros(3, 0)):
        expected = torch.zeros(empty.shape[:-2])
        assert torch.equal(spectral_norm_bound(empty), expected)
        assert torch.equal(nuclear_norm(empty).value, expected)
        assert torch.equal(orthogonality_defect(empty), expected.double())
    assert inverse_root(torch.zeros(2, 0, 0), 2).shape == (2, 0, 0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_nonfinite_matrix_stays_with_itself(bad):
    a = conditioned((3, 6, 4), 10.0, torch.float32)
    clean = spectral_norm_bound(a), orthogonality_defect(a)
    a[1, 2, 3] = bad
    for found, expected in zip(
        (spectral_norm_bound(a), orthogonality_defect(a)), clean, strict=True
    ):
        assert not torch.isfinite(found[1])
        assert torch.equal(found[[0, 2]], expected[[0, 2]])
    with pytest.raises(NonFiniteError, match="1 non-finite entries"):
        nuclear_norm(a)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [*DTYPES, *HALF], ids=str)
def test_defect_is_the_mean_of_the_squares(shape, dtype):
    """√(mean (σ² − 1)²), from the singular values."""
    a = conditioned(shape, 3.0, dtype)
    sigma = torch.linalg.svdvals(double(a))
    expected = (sigma.square() - 1.0).square().mean(-1).sqrt()
    found = orthogonality_defect(a)
    assert found.dtype == torch.float64
    assert (found - expected).abs().max() <= 50 * eps(torch.float64)
    # A defect of orthonormal columns is that of their rounding to the dtype.
    u = polar_oracle(a).to(dtype)
    assert orthogonality_defect(u).max() <= 20 * eps(dtype)
    assert orthogonality_defect(u).max().item() == pytest.approx(orthogonality(u), abs=1e-15)


def semidefinite(n, eigenvalues, dtype, seed=0, batch=()):
    """A stack V diag(λ) Vᴴ with V unitary, and the V."""
    wide = torch.complex128 if dtype.is_complex else torch.float64
    generator = torch.Generator().manual_seed(seed)
    v = torch.linalg.qr(torch.randn(*batch, n, n, generator=generator, dtype=wide)).Q
    a = (v * eigenvalues.to(wide)) @ v.mH
    return (0.5 * (a + a.mH)).to(dtype), v


@pytest.mark.parametrize("p", [1, 2, 3, 4, 2.5, 0.5])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "batch"), [(1, ()), (7, ()), (12, (3,)), (5, (2, 2))])
def test_inverse_root_is_that_of_the_eigenvalues(p, dtype, n, batch):
    condition = 100.0
    eigenvalues = geometric(n, condition)
    a, v = semidefinite(n, eigenvalues, dtype, batch=batch)
    for damping in (0.0, 0.3):
        expected = (v * (eigenvalues + damping) ** (-1.0 / p)) @ v.mH
        root = inverse_root(a, p, damping=damping)
        assert root.dtype == dtype
        assert torch.equal(root, root.mH)
        # An error of eps in A is blown up by the condition, once more for p < 1.
        size = torch.linalg.matrix_norm(expected, 2).max()
        error = torch.linalg.matrix_norm(double(root) - expected, 2).max()
        assert error <= 10 * condition * max(1.0, 1.0 / p) * eps(dtype) * size


@pytest.mark.parametrize("p", [1, 2, 4])
def test_its_power_is_the_inverse(p):
    a, _ = semidefinite(10, geometric(10, 1e4), torch.float64)
    root = inverse_root(a, p)
    product = torch.linalg.matrix_power(root, p) @ a
    assert (product - torch.eye(10)).abs().max() <= 1e4 * 50 * eps(torch.float64)


def test_float32_is_worked_in_float64():
    """An eigenvalue of 1e-6 of the largest is right to the rounding of A, not to κ^½ times more."""
    a, _ = semidefinite(16, geometric(16, 1e5), torch.float32)
    w, v = torch.linalg.eigh(double(a))
    expected = (v / w.sqrt()) @ v.mH
    error = (double(inverse_root(a, 2)) - expected).abs().max()
    assert error <= 4 * eps(torch.float32) * expected.abs().max()


@pytest.mark.parametrize("dtype", [*DTYPES, *HALF], ids=str)
@pytest.mark.parametrize("rank", [0, 1, 4])
def test_without_damping_zero_stays_zero(dtype, rank):
    """The root of the pseudo-inverse; eigenvalues that are rounding do not blow up."""
    eigenvalues = torch.zeros(9, dtype=torch.float64)
    eigenvalues[:rank] = torch.linspace(1.0, 0.5, rank, dtype=torch.float64)
    a, v = semidefinite(9, eigenvalues, dtype)
    kept = torch.where(eigenvalues > 0, eigenvalues, 1.0).rsqrt() * (eigenvalues > 0)
    expected = (v * kept) @ v.mH
    root = inverse_root(a, 2)
    assert (double(root) - expected).abs().max() <= 40 * eps(dtype)
    damped = inverse_root(torch.zeros_like(a), 4, damping=16.0)
    assert (damped - 0.5 * torch.eye(9)).abs().max() <= eps(dtype)


def test_root_of_the_gram_matrix_gives_the_polar_factor():
    a = conditioned((20, 8), 50.0)
    factor = a @ inverse_root(a.mH @ a, 2)
    assert (factor - polar_oracle(a)).abs().max() <= 50.0**2 * 20 * eps(a.dtype)


def test_relative_damping_is_a_share_of_the_largest_eigenvalue():
    a, _ = semidefinite(6, geometric(6, 100.0), torch.float64, batch=(2,))
    a = a * torch.tensor([5.0, 1e-20], dtype=torch.float64)[:, None, None]
    found = inverse_root(a, 4, damping=0.1, relative=True)
    separate = torch.stack(
        [
            inverse_root(a[0], 4, damping=0.1 * 5.0),
            inverse_root(a[1], 4, damping=0.1 * 1e-20),
        ]
    )
    assert ((found - separate).abs() <= 1e-12 * separate.abs().amax()).all()


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("p", [1, 2, 4])
def test_roots_at_every_scale(scale, p):
    a, _ = semidefinite(6, geometric(6, 10.0), torch.float32)
    found = double(inverse_root(a * scale, p)) * scale ** (1.0 / p)
    assert (found - double(inverse_root(a, p))).abs().max() <= 1e3 * eps(torch.float32)


def test_inputs_are_left_alone_and_stacks_are_their_matrices():
    a, _ = semidefinite(6, geometric(6, 10.0), torch.float32, batch=(3,))
    before = a.clone()
    # An error that is rounding alone is another for each way of summing, and so of each processor.
    rounding = 16 * eps(torch.float32)
    for function, atol in (
        (lambda x: inverse_root(x, 2), 1e-10),
        (spectral_norm_bound, 1e-10),
        (orthogonality_defect, 1e-10),
        (lambda x: nuclear_norm(x).value, 1e-10),
        (lambda x: nuclear_norm(x).error, rounding * float(nuclear_norm(a).value.max())),
    ):
        together = function(a)
        for matrix, one in zip(a, together, strict=True):
            torch.testing.assert_close(function(matrix), one, rtol=1e-4, atol=atol)
        assert torch.equal(a, before)


EYE = torch.eye(3)
BAD = [
    (lambda: nuclear_norm([[1.0]]), TypeError, "A must be a torch.Tensor, got list"),
    (lambda: nuclear_norm(EYE[0]), ValueError, r"got shape \(3,\)"),
    (lambda: nuclear_norm(EYE, method="svd", tol=0.1), ValueError, "tol is for method='auto'"),
    (lambda: spectral_norm_bound(EYE.long()), TypeError, "got torch.int64"),
    (lambda: spectral_norm_bound(EYE, power=3), ValueError, "one of 1, 2, 4, .*64, got 3"),
    (lambda: orthogonality_defect(EYE[0]), ValueError, r"got shape \(3,\)"),
    (lambda: inverse_root(EYE[:2], 2), ValueError, r"A must be square, got shape \(2, 3\)"),
    (lambda: inverse_root(EYE, 0), ValueError, "p must be positive and finite, got 0"),
    (lambda: inverse_root(EYE, -2), ValueError, "p must be positive and finite, got -2"),
    (lambda: inverse_root(EYE, float("nan")), ValueError, "p must be positive .*got nan"),
    (lambda: inverse_root(EYE, float("inf")), ValueError, "p must be positive .*got inf"),
    (lambda: inverse_root(EYE, "2"), TypeError, "p must be a number, got '2'"),
    (lambda: inverse_root(EYE, True), TypeError, "p must be a number, got True"),
    (
        lambda: inverse_root(EYE, 2, damping=-1.0),
        ValueError,
        "damping must be at least 0.*got -1.0",
    ),
    (lambda: inverse_root(EYE.triu() + EYE[0], 2), ValueError, "A must be Hermitian"),
    (lambda: inverse_root(1j * EYE, 2), ValueError, "A must be Hermitian"),
    (
        lambda: inverse_root(-EYE, 2),
        ValueError,
        "positive semidefinite, got an eigenvalue of -1.0e",
    ),
    (lambda: inverse_root(EYE * torch.nan, 2), NonFiniteError, "9 non-finite entries"),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=[m for _, _, m in BAD])
def test_bad_input_is_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


@pytest.mark.parametrize("dtype", [*REAL, *HALF], ids=str)
def test_rounding_is_not_taken_for_an_error(dtype):
    """A product XXᵀ as it comes out of the dtype, of low rank and not quite symmetric."""
    for seed in range(10):
        x = torch.randn(40, 5, generator=torch.Generator().manual_seed(seed)).to(dtype)
        a = x @ x.mT
        a = a + (torch.rand(40, 40, generator=torch.Generator().manual_seed(seed)) - 0.5).to(
            dtype
        ) * (2 * eps(dtype) * a.abs().max())
        root = inverse_root(a, 2)
        assert torch.isfinite(root).all()


@pytest.mark.parametrize("shape", [(1, 100000), (100000, 1), (50000, 3), (20000, 64)])
def test_the_nuclear_norm_of_long_float64_matrices(shape):
    """Sums of 1e5 terms in one go are off by 30 eps, and the correction would measure that."""
    A = torch.randn(shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    tall = A if shape[0] >= shape[1] else A.mT
    # By an SVD of the triangular factor, and in one column by an exact sum of squares.
    sigma = torch.linalg.svdvals(torch.linalg.qr(tall).R)
    wanted = sigma.sum().item() if min(shape) > 1 else math.sqrt(math.fsum((tall**2).flatten()))
    eps = torch.finfo(torch.float64).eps
    assert abs(polar(A).nuclear_norm.item() - wanted) <= 6 * eps * wanted
