"""The certificate: its bounds hold, and a factor that is broken in any way is caught."""

import math

import pytest
import torch
from matrices import COMPLEX, REAL, conditioned, double, eps, polar_oracle, with_singular_values

import polargrad as pg
from polargrad.errors import ToleranceError, ToleranceWarning
from polargrad.linalg import METHODS, QDWH, SVD, NewtonSchulz, PolarExpress, RandomizedSVD
from polargrad.linalg.certificate import measure
from polargrad.linalg.methods.outcome import Factor, Promise

SHAPES = [(1, 1), (12, 1), (9, 9), (40, 7), (7, 40), (3, 20, 6)]
# Any instance of every method: a measured certificate has to hold for bad factors too.
ANY = [name for name in METHODS if name != "randomized_svd"]
ANY += [NewtonSchulz("cubic", steps=3), PolarExpress(steps=2), RandomizedSVD(2, oversampling=0)]


def true_errors(a, result, rank):
    """‖U − U*‖_F against the partial isometry of this rank, and the nuclear norm's error."""
    w, sigma, vh = torch.linalg.svd(double(a), full_matrices=False)
    keep = torch.arange(sigma.shape[-1]) < rank[..., None]
    best = (w * keep.unsqueeze(-2)) @ vh
    factor = torch.linalg.matrix_norm(double(result.U) - best)
    size = torch.linalg.matrix_norm(double(a)).clamp(min=1e-300)
    nuclear = (result.nuclear_norm.double() - sigma.sum(-1)).abs() / size
    return factor, nuclear


def check_measured(a, result):
    certificate = result.certificate
    assert certificate.measured
    factor, nuclear = true_errors(a, result, certificate.rank)
    # The oracle's own error: eps κ of float64.
    sigma = torch.linalg.svdvals(double(a))
    smallest = torch.where(sigma > 0, sigma, torch.inf).amin(-1).clamp(min=1e-300)
    oracle = 50 * eps(torch.float64) * (sigma[..., 0] / smallest).clamp(max=1e16)
    assert (factor <= certificate.factor_error * (1 + 1e-9) + oracle).all()
    # The oracle's own sum of singular values: a few eps of float64 of √n ‖A‖_F.
    oracle = 8 * eps(torch.float64) * sigma.shape[-1] ** 0.5
    assert (nuclear <= certificate.nuclear_norm_error + oracle).all()


@pytest.mark.parametrize("method", ANY, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
def test_measured_bounds_hold_for_every_method(method, shape, dtype):
    a = conditioned(shape, 30.0, dtype)
    check_measured(a, pg.polar(a, method=method, certify=True, on_failure="warn"))


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("condition", [1.0, 1e3])
def test_a_converged_factor_is_certified_to_rounding(dtype, condition):
    a = conditioned((60, 25), condition, dtype)
    certificate = pg.polar(a, certify=True).certificate
    e = eps(dtype)
    assert certificate.rank == 25
    assert certificate.semidefinite
    assert certificate.orthogonality <= 40 * e
    assert certificate.residual <= 40 * e
    # Of the two parts of the bound, rounding of the measurement in float64 is the larger there.
    assert certificate.factor_error <= condition * (100 * e + 1e5 * eps(torch.float64))


@pytest.mark.parametrize("rank", [0, 1, 4])
@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_a_partial_isometry_is_certified_on_its_range(rank, dtype):
    sigma = torch.zeros(9, dtype=torch.float64)
    sigma[:rank] = torch.linspace(1.0, 0.1, rank, dtype=torch.float64) if rank else 0.0
    a = with_singular_values((20, 9), sigma, dtype)
    result = pg.polar(a, certify=True)
    assert result.certificate.rank == rank
    assert result.certificate.semidefinite
    assert result.certificate.factor_error <= 1e3 * (eps(dtype) + 1e4 * eps(torch.float64))
    check_measured(a, result)


def broken(kind, dtype):
    """A 12 × 8 matrix and a factor that is wrong in one way."""
    sigma = torch.linspace(2.0, 0.5, 8, dtype=torch.float64)
    a = with_singular_values((12, 8), sigma, torch.float64, seed=3)
    w, _, vh = torch.linalg.svd(a, full_matrices=False)
    size = torch.ones(8, dtype=torch.float64)
    rotation = torch.eye(8, dtype=torch.float64)
    if kind == "flipped":
        size[3] = -1.0
    elif kind == "shrunken":
        size[5] = 0.9
    elif kind == "lost":
        size[7] = 0.0
    elif kind == "rotated":
        c, s = math.cos(0.01), math.sin(0.01)
        rotation[2:4, 2:4] = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    return a.to(dtype), ((w * size) @ rotation @ vh).to(dtype)


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("kind", ["flipped", "shrunken", "lost", "rotated"])
def test_broken_factors_are_caught(kind, dtype):
    a, u = broken(kind, dtype)
    certificate = measure(a, u, "?", 1, Promise(1e-6, 1e-6, 1e-3), eps(dtype))
    true = torch.linalg.matrix_norm(double(u) - polar_oracle(a))
    assert true > 5e-3
    # For the direction that is lost the certificate speaks of rank 7, and says so.
    if kind == "lost":
        assert certificate.rank == 7
        assert not certificate.keeps(1e-3)
    else:
        assert certificate.factor_error >= true
    if kind == "flipped":
        assert certificate.orthogonality <= 10 * eps(dtype)
        assert certificate.residual <= 10 * eps(dtype)
        assert not certificate.semidefinite
        assert certificate.negativity > 0.1
        assert certificate.factor_error == torch.inf
    if kind == "shrunken":
        assert not certificate.keeps(0.05)
    if kind == "rotated":
        assert certificate.residual > 1e-3
    good = measure(a, polar_oracle(a).to(dtype), "?", 1, Promise(1e-6, 1e-6, 1e-3), eps(dtype))
    assert good.semidefinite
    assert good.keeps(1e-3)
    assert good.factor_error < 1e-4


@pytest.mark.parametrize("method", ANY[:-1], ids=str)
@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_promises_cost_nothing_and_are_kept(method, dtype):
    a = conditioned((3, 40, 15), 200.0, dtype)
    promised = pg.polar(a, method=method).certificate
    measured = pg.polar(a, method=method, certify=True, on_failure="warn").certificate
    assert not promised.measured
    assert promised.negativity is promised.factor_error is promised.semidefinite is None
    assert promised.method == measured.method
    assert promised.steps == measured.steps
    assert (measured.residual <= promised.residual).all()
    # Of inexact methods the smallest singular values may be below what the promise is about.
    assert measured.keeps(float(promised.deviation.amax()) + 1e-12).all()
    if promised.rank is not None:
        assert (promised.rank == measured.rank).all()


@pytest.mark.parametrize("tol", [1e-4, 1e-2, 0.11, 0.3])
@pytest.mark.parametrize("shape", [(100, 100), (400, 100), (5, 30, 30), (300, 280)], ids=str)
def test_a_tolerance_is_kept_and_shown(tol, shape):
    for condition in (1.0, 50.0, 900.0):
        a = conditioned(shape, condition, torch.float32)
        result = pg.polar(a, tol=tol, certify=True)
        assert result.certificate.keeps(tol).all()
        sigma = torch.linalg.svdvals(double(a))
        out = torch.linalg.svdvals(double(result.U))
        counted = (sigma >= 1e-3 * sigma.pow(4).sum(-1, keepdim=True) ** 0.25).sum(-1)
        assert (((out - 1).abs() <= tol).sum(-1) >= counted).all()


class TestFailure:
    """A tolerance that is not kept raises, warns or falls back, as the caller chose."""

    a = conditioned((20, 20), 1e6, torch.float64)
    weak = NewtonSchulz("cubic", steps=2)

    def test_below_the_dtype(self):
        single = self.a.float()
        with pytest.raises(ToleranceError, match="tol must be at least"):
            pg.polar(single, tol=1e-9)
        with pytest.warns(ToleranceWarning, match="tol must be at least"):
            warned = pg.polar(single, tol=1e-9, on_failure="warn")
        fallen = pg.polar(single, tol=1e-9, on_failure="fallback")
        assert torch.equal(warned.U, fallen.U)
        assert torch.equal(fallen.U, pg.polar(single).U)

    def test_a_measured_failure(self, monkeypatch):
        """A method whose promise is replaced by one that it does not keep."""
        monkeypatch.setattr(NewtonSchulz, "promise", lambda *_: Promise(1e-3, 1e-8, 1e-3))
        with pytest.raises(
            ToleranceError, match=r"'newton_schulz.*within 0.001 of 1 .*measured are"
        ):
            pg.polar(self.a, method=self.weak, certify=True)
        with pytest.warns(ToleranceWarning, match="measured"):
            pg.polar(self.a, method=self.weak, certify=True, on_failure="warn")
        result = pg.polar(self.a, method=self.weak, certify=True, on_failure="fallback")
        assert result.method.converged
        assert result.certificate.keeps(1e-10)


def flipped_svd(self, x):
    """A method gone wrong in one sign, which neither orthogonality nor residual shows."""
    w, _, vh = torch.linalg.svd(x, full_matrices=False)
    sign = torch.ones(x.shape[-1], dtype=x.dtype)
    sign[0] = -1.0
    return Factor((w * sign) @ vh)


def test_certify_refuses_a_flipped_pair(monkeypatch):
    monkeypatch.setattr(SVD, "__call__", flipped_svd)
    with pytest.raises(ToleranceError, match="semidefinite is False"):
        pg.polar(conditioned((12, 8), 5.0), method="svd", certify=True)


@pytest.mark.parametrize("n", [1, 4, 64, 89, 92, 127])
@pytest.mark.parametrize("tall", [1, 4])
@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_matrices_of_ones_raise_no_false_alarm(n, tall, dtype):
    certificate = pg.polar(torch.ones(tall * n, n, dtype=dtype), certify=True).certificate
    assert certificate.rank == 1
    assert certificate.semidefinite


@pytest.mark.parametrize(
    ("m", "n", "p", "limit"), [(1820, 182, 7, 300), (1580, 158, 2, 60), (516, 129, 2, 60)]
)
def test_integer_matrices_of_low_rank(m, n, p, limit):
    """Exactly deficient ones, of which a library's QR is off by thousands of eps.

    Of the first one its products are off by some 200, too.
    """
    a = (torch.arange(m * n).reshape(m, n) % p - p // 2).double()
    certificate = pg.polar(a, certify=True).certificate
    assert certificate.rank == torch.linalg.matrix_rank(a, rtol=1e-9)
    assert certificate.residual <= limit * eps(torch.float64)


def test_a_zero_matrix_has_the_factor_zero():
    certificate = measure(
        torch.zeros(2, 2).double(), torch.eye(2).double(), "?", 1, Promise(1e-6, 1e-6, 1e-3), 1e-16
    )
    assert certificate.factor_error >= 2**0.5


def test_another_direction_of_the_right_size_is_not_confirmed():
    a = torch.diag(torch.tensor([0.9, 1e-3], dtype=torch.float64))
    u = torch.diag(torch.tensor([0.0, 1.0], dtype=torch.float64))
    certificate = measure(a, u, "?", 1, Promise(1e-6, 1e-9, 1e-3), 1e-16)
    assert not certificate.confirms(1e-6, 1e-3)


@pytest.mark.parametrize(
    "method",
    [PolarExpress(), NewtonSchulz(), QDWH(steps=3, lower_bound=1e-3), PolarExpress(3)],
    ids=str,
)
def test_what_is_below_the_range_of_a_promise_is_not_held_against_it(method):
    sigma = torch.ones(64, dtype=torch.float64)
    sigma[-1] = 1.5e-3
    a = with_singular_values((64, 64), sigma, torch.float32)
    assert pg.polar(a, method=method, certify=True).certificate.measured


@pytest.mark.parametrize(
    ("dtype", "compute_dtype", "method"),
    [
        (torch.float64, torch.float32, "svd"),
        (torch.float32, torch.bfloat16, NewtonSchulz("cubic", steps=20)),
    ],
    ids=str,
)
def test_promises_are_those_of_the_dtype_that_computes(dtype, compute_dtype, method):
    a = conditioned((30, 12), 3.0, dtype)
    result = pg.polar(a, method=method, compute_dtype=compute_dtype)
    out = torch.linalg.svdvals(double(result.U))
    assert (out - 1).abs().max() <= result.certificate.deviation
    pg.polar(a, method=method, compute_dtype=compute_dtype, certify=True)


def test_certifying_changes_nothing_but_the_certificate():
    a = conditioned((4, 30, 12), 1e2, torch.float32)
    plain, certified = pg.polar(a), pg.polar(a, certify=True)
    assert torch.equal(plain.U, certified.U)
    assert torch.equal(plain.nuclear_norm, certified.nuclear_norm)


def test_empty_matrices_have_nothing_to_certify():
    certificate = pg.polar(torch.zeros(2, 0, 3), certify=True).certificate
    assert certificate.deviation.shape == (2,)
