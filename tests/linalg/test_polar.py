"""The entry: every method × spectrum × shape × dtype against a float64 SVD, and the theorems."""

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
    negativity,
    orthogonality,
    polar_oracle,
    residual,
    with_singular_values,
)

import polargrad as pg
from polargrad.errors import NonFiniteError
from polargrad.linalg import METHODS, QDWH, NewtonSchulz, PolarExpress, RandomizedSVD

SHAPES = [(1, 1), (6, 1), (1, 6), (9, 9), (40, 7), (7, 40), (3, 20, 6), (2, 2, 6, 9)]
CONVERGED = ["auto", "svd", "qdwh", "mixed_qdwh", "newton", "zolotarev"]
# A randomized method needs its rank; with eight of it the oversampling covers most shapes below.
ALL = [name if name != "randomized_svd" else RandomizedSVD(8) for name in METHODS]


@pytest.mark.parametrize("method", CONVERGED)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
def test_is_the_polar_decomposition(method, shape, dtype):
    a = conditioned(shape, 1e3, dtype)
    result = pg.polar(a, method=method)
    u, h = result
    assert u.dtype == h.dtype == dtype
    assert orthogonality(u) <= 60 * eps(dtype)
    assert residual(a, u, h, result.side) <= 60 * eps(dtype)
    assert negativity(h, a) <= 60 * eps(dtype)
    # A unitary U with A = UH, H semidefinite, is unique; its error grows with κ.
    error = torch.linalg.matrix_norm(double(u) - polar_oracle(a)).max()
    assert error <= 20 * 1e3 * eps(dtype) * min(shape[-2:]) ** 0.5


@pytest.mark.parametrize("method", CONVERGED)
@pytest.mark.parametrize("condition", [1e0, 1e2, 1e4, 1e6, 1e8, 1e10, 1e12])
@pytest.mark.parametrize("seed", [0, 1])
def test_float64_to_condition_1e12(method, condition, seed):
    a = conditioned((200, 120), condition, torch.float64, seed)
    result = pg.polar(a, method=method)
    assert orthogonality(result.U) <= 100 * eps(torch.float64)
    assert residual(a, result.U, result.H, "right") <= 100 * eps(torch.float64)
    assert negativity(result.H, a) <= 100 * eps(torch.float64)


@pytest.mark.parametrize("method", CONVERGED)
@pytest.mark.parametrize("condition", [1e0, 1e2, 1e4, 1e5])
@pytest.mark.parametrize("shape", [(200, 120), (120, 200), (130, 130)], ids=str)
def test_float32_to_condition_1e5(method, condition, shape):
    a = conditioned(shape, condition, torch.float32)
    result = pg.polar(a, method=method)
    assert orthogonality(result.U) <= 100 * eps(torch.float32)
    assert residual(a, result.U, result.H, result.side) <= 100 * eps(torch.float32)
    assert negativity(result.H, a) <= 100 * eps(torch.float32)


def test_semidefiniteness_is_what_catches_a_flipped_pair():
    """The other two measures do not see a sign flip: the bounds above are not vacuous."""
    a = conditioned((20, 8), 10.0)
    w, _, vh = torch.linalg.svd(a, full_matrices=False)
    flipped = w @ torch.diag(torch.tensor([-1.0] + [1.0] * 7, dtype=a.dtype)) @ vh
    h = flipped.mH @ a
    assert orthogonality(flipped) <= 20 * eps(a.dtype)
    assert residual(a, flipped, h, "right") <= 20 * eps(a.dtype)
    assert negativity(h, a) > 0.5


@pytest.mark.parametrize("method", CONVERGED)
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_precision_is_worked_on_in_float32(method, dtype):
    a = conditioned((30, 12), 10.0, dtype)
    result = pg.polar(a, method=method)
    assert result.U.dtype == result.H.dtype == dtype
    assert result.nuclear_norm.dtype == torch.float32
    exact = pg.polar(a.float(), method=method)
    torch.testing.assert_close(result.U, exact.U.to(dtype), rtol=0, atol=0)
    torch.testing.assert_close(result.nuclear_norm, exact.nuclear_norm, rtol=0, atol=0)


@pytest.mark.parametrize("method", CONVERGED)
@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (25, 25), (3, 30, 10)], ids=str)
@pytest.mark.parametrize("rank", [0, 1, 5])
@pytest.mark.parametrize("dtype", [*REAL, torch.complex64], ids=str)
def test_rank_deficient_gets_the_canonical_partial_isometry(method, shape, rank, dtype):
    n = min(shape[-2:])
    sigma = torch.zeros(n, dtype=torch.float64)
    sigma[:rank] = torch.linspace(1.0, 0.1, rank, dtype=torch.float64)
    a = with_singular_values(shape, sigma, dtype, seed=rank)
    u, _ = pg.polar(a, method=method)
    found = torch.linalg.svdvals(double(u))
    assert (found[..., :rank] - 1.0).abs().max() <= 20 * eps(dtype) if rank else True
    assert found[..., rank:].abs().max() <= 20 * eps(dtype)
    error = torch.linalg.matrix_norm(double(u) - polar_oracle(a, cutoff=1e-3)).max()
    assert error <= 200 * eps(dtype) * n**0.5


@pytest.mark.parametrize("method", ["auto", "svd", "qdwh", "newton"])
@pytest.mark.parametrize("shape", [(20, 9), (9, 20), (12, 12), (3, 15, 8)], ids=str)
@pytest.mark.parametrize("dtype", [*REAL, torch.complex128], ids=str)
@pytest.mark.parametrize("rank", [0, 1, 6, 8])
def test_a_completed_factor_is_orthonormal_and_keeps_what_is_there(method, shape, dtype, rank):
    rank = min(rank, *shape[-2:])
    sigma = torch.zeros(min(shape[-2:]), dtype=torch.float64)
    sigma[:rank] = torch.linspace(1.0, 0.2, rank, dtype=torch.float64) if rank else 0.0
    a = with_singular_values(shape, sigma, dtype)
    partial = pg.polar(a, method=method)
    whole = pg.polar(a, method=method, complete=True)
    assert orthogonality(whole.U) <= 60 * eps(dtype)
    scale = torch.linalg.matrix_norm(double(a)).amax().clamp(min=1.0)
    assert (double(whole.H) - double(partial.H)).abs().max() <= 60 * eps(dtype) * scale
    # The part that was added is orthogonal to the one that was there.
    overlap = double(partial.U).mH @ double(whole.U - partial.U)
    assert overlap.abs().max() <= 100 * eps(dtype)
    assert torch.equal(whole.U, pg.polar_factor(a, method=method, complete=True))


def test_completion_needs_a_rank():
    with pytest.raises(ValueError, match=r"needs a method that finds the rank, got 'polar_expr"):
        pg.polar(torch.eye(9), tol=0.11, complete=True)


def test_a_bad_matrix_is_not_certified_and_spoils_nothing():
    a = conditioned((3, 6, 4), 5.0)
    a[1, 2, 2] = math.nan
    certificate = pg.polar(a, nonfinite="propagate", certify=True).certificate
    assert certificate.factor_error.isnan().tolist() == [False, True, False]
    assert (certificate.residual[[0, 2]] < 1e-14).all()


@pytest.mark.parametrize("method", ["auto", "qdwh", PolarExpress()], ids=str)
def test_conjugate_views_are_as_good_as_their_values(method):
    z = conditioned((5, 3), 4.0, torch.complex128)
    for view in (z.mH, z.conj(), z.mT.conj()):
        expected = pg.polar_factor(view.resolve_conj().clone(), method=method)
        assert torch.allclose(pg.polar_factor(view, method=method), expected, atol=1e-13)
        assert pg.linalg.nuclear_norm(view).value > 0


def test_norm_and_hermitian_factor_have_a_graph_whoever_looked_first():
    result = pg.polar(conditioned((5, 3), 4.0).requires_grad_())
    with torch.no_grad():
        assert not result.H.requires_grad
        assert not result.nuclear_norm.requires_grad
    assert result.H.requires_grad
    assert result.nuclear_norm.requires_grad


def test_an_empty_matrix_has_an_empty_gradient():
    a = torch.zeros(0, 3, requires_grad=True)
    pg.polar_factor(a).sum().backward()
    assert a.grad.shape == (0, 3)


def test_few_large_and_many_small_singular_values():
    """Where Newton's iteration, above some 320 columns, loses a hundred eps and more."""
    for n in (300, 400):
        for power in (3.0, 4.5, 5.1):
            sigma = torch.full((n,), 10.0**-power, dtype=torch.float64)
            sigma[:5] = 1.0
            a = with_singular_values((n, n), sigma, seed=2)
            result = pg.polar(a)
            assert residual(a, result.U, result.H, result.side) <= 40 * eps(torch.float64)


@pytest.mark.parametrize("n", [96, 223, 224, 449, 600])
@pytest.mark.parametrize(
    "spectrum",
    ["condition 100", "condition 1e4", "condition 1e5", "one large", "half", "half rank"],
)
def test_square_float32_matrices_on_both_sides_of_where_methods_change(n, spectrum):
    values = {
        "one large": [1.0] + [1e-4] * (n - 1),
        "half": [1.0] * (n // 2) + [1e-3] * (n - n // 2),
        "half rank": [1.0] * (n // 2) + [0.0] * (n - n // 2),
    }
    if spectrum in values:
        sigma = torch.tensor(values[spectrum], dtype=torch.float64)
    else:
        sigma = geometric(n, float(spectrum.split()[1]))
    a = with_singular_values((n, n), sigma, torch.float32)
    if spectrum == "half rank":  # exactly so, after rounding too
        left, right = torch.randn(2, n, n // 2, generator=torch.Generator().manual_seed(1))
        a = left @ right.mT
    result = pg.polar(a)
    assert residual(a, result.U, result.H, result.side) <= 5 * eps(torch.float32)
    assert negativity(result.H, a) <= 5 * eps(torch.float32)
    if spectrum == "half rank":
        assert int(result.certificate.rank) == n // 2
    else:
        assert orthogonality(result.U) <= 5 * eps(torch.float32)


@pytest.mark.parametrize("shape", [(2000, 320), (640, 256), (20000, 64), (60, 60)], ids=str)
def test_training_accuracy_at_its_lower_end(shape):
    """One large singular value, all others just above a thousandth: sums must not blur them."""
    sigma = torch.full((min(shape),), 1.001e-3, dtype=torch.float64)
    sigma[0] = 1.0
    a = with_singular_values(shape, sigma, torch.float32)
    out = torch.linalg.svdvals(double(pg.polar_factor(a, tol=0.11)))
    assert (out - 1).abs().max() <= 0.11


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)], ids=str)
def test_complex_factors_go_to_numpy(shape):
    result = pg.polar(conditioned(shape, 3.0, torch.complex128))
    for tensor in result:
        assert tensor.numpy().shape == tuple(tensor.shape)


@pytest.mark.parametrize("shape", [(20000, 1), (20000, 3), (3, 20000), (5000, 17)], ids=str)
@pytest.mark.parametrize("condition", [1.0, 1e3, 2e4, 1.5e5])
def test_very_tall_matrices_do_not_lose_to_long_sums(shape, condition):
    a = conditioned(shape, condition, torch.float32)
    result = pg.polar(a)
    assert orthogonality(result.U) <= 5 * eps(torch.float32)
    assert residual(a, result.U, result.H, result.side) <= 5 * eps(torch.float32)


@pytest.mark.parametrize("method", [*CONVERGED, PolarExpress(8, bound="schatten4")], ids=str)
@pytest.mark.parametrize("columns", [1, 2, 5])
def test_no_method_loses_to_long_sums(method, columns):
    """Squares that are summed one by one put the column of QDWH off by 88 eps."""
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        a = torch.randn(100_000, columns, generator=generator)
        assert orthogonality(pg.polar_factor(a, method=method)) <= 10 * eps(torch.float32)


@pytest.mark.parametrize("method", ["auto", "svd", "qdwh", "newton", "zolotarev"])
def test_half_the_rank_in_float64(method):
    """Where torch.linalg.svd is off by up to 3e-8, once in about twelve of these matrices."""
    generator = torch.Generator().manual_seed(0)
    sigma = torch.zeros(128, dtype=torch.float64)
    sigma[:64] = 10.0 ** -torch.linspace(0.0, 2.7, 64, dtype=torch.float64)
    for _ in range(36):
        q, p = (
            torch.linalg.qr(torch.randn(128, 128, generator=generator, dtype=torch.float64)).Q
            for _ in range(2)
        )
        a = (q * sigma) @ p.mH
        result = pg.polar(a, method=method)
        u = result.U
        gram = u.mH @ u
        assert torch.linalg.matrix_norm(gram @ gram - gram) <= 40 * eps(torch.float64) * 128**0.5
        assert residual(a, u, result.H, result.side) <= 40 * eps(torch.float64)


@pytest.mark.parametrize("method", CONVERGED)
@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize(("factor", "counted"), [(10.0, True), (0.1, False)])
def test_the_cutoff_is_where_it_is_stated(method, dtype, factor, counted):
    """σ counts if it is above √n·eps·σ₁; ten times above and below leaves room for rounding."""
    n = 16
    sigma = torch.ones(n, dtype=torch.float64)
    sigma[-1] = factor * n**0.5 * eps(dtype)
    # Diagonal and permuted: stored exactly, so that rounding of the entries adds no singular value.
    a = torch.diag(sigma).to(dtype)[torch.randperm(n, generator=torch.manual_seed(1))]
    found = torch.linalg.svdvals(double(pg.polar_factor(a, method=method)))[-1].item()
    assert abs(found - (1.0 if counted else 0.0)) <= 20 * eps(dtype)


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("exponent", [-110, -60, 60, 120])
def test_scale_changes_nothing_but_the_nuclear_norm(method, exponent):
    a = conditioned((3, 12, 7), 50.0, torch.float32)
    a = a + 1e-3  # no symmetry left to be exact by accident
    base, scaled = pg.polar(a, method=method), pg.polar(a * 2.0**exponent, method=method)
    assert torch.equal(base.U, scaled.U)
    assert torch.equal(base.nuclear_norm * 2.0**exponent, scaled.nuclear_norm)


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e30])
def test_decimal_scales_agree_to_rounding(method, scale):
    a = conditioned((20, 8), 10.0, torch.float32)
    base, scaled = pg.polar(a, method=method), pg.polar(a * scale, method=method)
    torch.testing.assert_close(base.U, scaled.U, rtol=0, atol=200 * eps(torch.float32))
    ratio = scaled.nuclear_norm.double() / base.nuclear_norm.double() / scale
    assert abs(ratio.item() - 1.0) <= 100 * eps(torch.float32)
    torch.testing.assert_close(
        scaled.H.double() / scale, base.H.double(), rtol=0, atol=100 * eps(torch.float32)
    )


@pytest.mark.parametrize("method", ALL)
def test_subnormal_and_largest_entries(method):
    tiny = torch.tensor([[2.0**-149, 0.0], [0.0, 2.0**-149]])
    huge = torch.full((2, 2), torch.finfo(torch.float32).max) * torch.tensor([[1.0, -1], [1, 1]])
    for a in (tiny, huge):
        u = double(pg.polar_factor(a, method=method))
        direction = polar_oracle(a)
        cosine = (u * direction).sum() / u.norm() / direction.norm()
        assert cosine >= 1.0 - 1e-6


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (2, 4, 4)], ids=str)
def test_zero_gives_zero(method, shape):
    result = pg.polar(torch.zeros(shape), method=method)
    assert not result.U.any()
    assert not result.H.any()
    assert not result.nuclear_norm.any()


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0), (0, 4, 3), (2, 0, 3)], ids=str)
def test_empty(method, shape):
    result = pg.polar(torch.zeros(shape), method=method)
    k = min(shape[-2:])
    assert result.U.shape == shape
    assert result.H.shape == (*shape[:-2], k, k)
    assert result.nuclear_norm.shape == shape[:-2]
    assert not result.nuclear_norm.any()


@pytest.mark.parametrize("method", CONVERGED)
def test_row_and_column_are_normalised(method):
    a = torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(pg.polar_factor(a, method=method), a / 5)
    torch.testing.assert_close(pg.polar_factor(a.mT, method=method), a.mT / 5)
    assert pg.polar(a, method=method).nuclear_norm.item() == pytest.approx(5.0)


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_a_stack_is_its_matrices(method, dtype):
    """Mixed scales, a zero and a rank-one matrix in one stack: each as if it were alone."""
    stack = conditioned((5, 14, 9), 20.0, dtype)
    stack[1] *= 1e20
    stack[2] *= 1e-20
    stack[3] = 0
    stack[4] = stack[4, :, :1] @ stack[4, :1, :]
    together = pg.polar(stack, method=method)
    for i, a in enumerate(stack):
        alone = pg.polar(a, method=method)
        torch.testing.assert_close(together.U[i], alone.U, rtol=0, atol=200 * eps(dtype))
        torch.testing.assert_close(
            together.nuclear_norm[i], alone.nuclear_norm, rtol=100 * eps(dtype), atol=0
        )


@pytest.mark.parametrize("method", ALL)
def test_equivariance_and_transpose(method):
    """polar(Q A P) = Q polar(A) P for orthogonal Q, P; polar(Aᵀ) = polar(A)ᵀ."""
    a = conditioned((12, 7), 20.0)
    q = conditioned((12, 12), 1.0, seed=1)
    p = conditioned((7, 7), 1.0, seed=2)
    u = pg.polar_factor(a, method=method)
    atol = 1e-12
    torch.testing.assert_close(
        pg.polar_factor(q @ a @ p, method=method), q @ u @ p, rtol=0, atol=atol
    )
    torch.testing.assert_close(pg.polar_factor(a.mT, method=method), u.mT, rtol=0, atol=atol)


@pytest.mark.parametrize("method", ["svd", "qdwh"])
def test_the_factor_is_the_nearest_matrix_with_orthonormal_columns(method):
    a = conditioned((10, 6), 30.0)
    u = pg.polar_factor(a, method=method)
    nearest = torch.linalg.matrix_norm(a - u)
    for seed in range(20):
        other = conditioned((10, 6), 1.0, seed=seed + 5)
        assert torch.linalg.matrix_norm(a - other) >= nearest
        turned = torch.linalg.qr(u + 0.01 * other).Q
        assert torch.linalg.matrix_norm(a - turned * (turned * u).sum(0).sign()) >= nearest - 1e-12


@pytest.mark.parametrize("side", ["auto", "right", "left"])
@pytest.mark.parametrize("shape", [(9, 4), (4, 9), (5, 5)], ids=str)
@pytest.mark.parametrize("method", CONVERGED)
def test_side_chooses_the_hermitian_factor(side, shape, method):
    a = conditioned(shape, 10.0)
    result = pg.polar(a, method=method, side=side)
    expected = side if side != "auto" else ("left" if shape[0] < shape[1] else "right")
    assert result.side == expected
    assert residual(a, result.U, result.H, result.side) <= 20 * eps(a.dtype)
    assert torch.equal(result.H, result.H.mH)
    trace = result.H.diagonal().sum()
    torch.testing.assert_close(trace, result.nuclear_norm, rtol=1e-13, atol=0)


@pytest.mark.parametrize("method", CONVERGED)
@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
@pytest.mark.parametrize("condition", [1.0, 1e4])
def test_nuclear_norm_is_the_sum_of_singular_values(method, dtype, condition):
    a = conditioned((4, 30, 20), condition, dtype)
    exact = torch.linalg.svdvals(double(a)).sum(-1)
    found = pg.polar(a, method=method).nuclear_norm
    assert not found.is_complex()
    assert ((found.double() - exact) / exact).abs().max() <= 10 * eps(dtype)


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nonfinite_raises_or_stays_with_its_matrix(method, bad):
    stack = conditioned((3, 6, 4), 10.0, torch.float32)
    stack[1, 2, 3] = bad
    with pytest.raises(NonFiniteError, match=r"1 non-finite entries.*nonfinite='propagate'"):
        pg.polar(stack, method=method)
    result = pg.polar(stack, method=method, nonfinite="propagate")
    assert result.U[1].isnan().all()
    assert result.nuclear_norm[1].isnan()
    clean = pg.polar(stack[[0, 2]], method=method)
    torch.testing.assert_close(result.U[[0, 2]], clean.U, rtol=0, atol=200 * eps(torch.float32))
    assert result.nuclear_norm[[0, 2]].isfinite().all()


@pytest.mark.parametrize("method", ALL)
def test_leaves_its_input_alone_and_takes_any_layout(method):
    base = conditioned((3, 9, 6), 10.0, torch.float32)
    for a in (base.mT, base[:, ::2], base.permute(1, 0, 2), base[0].expand(2, 9, 6)):
        before = a.clone()
        u = pg.polar_factor(a, method=method)
        assert torch.equal(a, before)
        expected = pg.polar_factor(before.contiguous(), method=method)
        torch.testing.assert_close(u, expected, rtol=0, atol=100 * eps(torch.float32))


@pytest.mark.parametrize("method", ALL)
def test_is_the_same_from_run_to_run(method):
    a = conditioned((4, 40, 30), 1e3, torch.float32)
    state = torch.random.get_rng_state()
    first, second = pg.polar_factor(a, method=method), pg.polar_factor(a, method=method)
    assert torch.equal(first, second)
    assert torch.equal(state, torch.random.get_rng_state())


def test_nothing_is_computed_in_half_precision_unasked(monkeypatch):
    """The dtypes that reach the products, for every method and input dtype."""
    seen = set()
    for name in ("addmm", "baddbmm"):
        original = getattr(torch, name)
        monkeypatch.setattr(
            torch, name, lambda *a, _f=original, **k: seen.add(a[0].dtype) or _f(*a, **k)
        )
    for dtype in (*HALF, torch.float32):
        for method in ("newton_schulz", "polar_express"):
            pg.polar(torch.eye(4, dtype=dtype), method=method)
    assert seen == {torch.float32}
    pg.polar(torch.eye(4), method="newton_schulz", compute_dtype=torch.bfloat16)
    assert torch.bfloat16 in seen


def test_auto_is_converged_and_training_tolerance_is_kept():
    """tol=0.11 holds for every σ above a thousandth of ‖AᵀA‖_F^½, on five kinds of spectra."""
    n = 64
    spectra = {
        "flat": torch.ones(n, dtype=torch.float64),
        "spiked": torch.cat([torch.ones(1), torch.full((n - 1,), 3e-2)]).double(),
        "power law": 1.0 / torch.arange(1, n + 1, dtype=torch.float64),
        "geometric": 1e-3 ** torch.linspace(0, 1, n, dtype=torch.float64),
        "two levels": torch.cat([torch.ones(n // 2), torch.full((n // 2,), 1e-2)]).double(),
    }
    for name, sigma in spectra.items():
        for shape in ((n, n), (3 * n, n), (n, 2 * n)):
            a = with_singular_values(shape, sigma, torch.float32)
            bound = sigma.pow(4).sum() ** 0.25
            for tol in (0.05, 0.11, 0.3):
                factor = double(pg.polar_factor(a, tol=tol))
                w, _, vh = torch.linalg.svd(double(a), full_matrices=False)
                out = ((w.mH @ factor) @ vh.mH).diagonal()
                counted = sigma >= 1e-3 * bound
                assert (out - 1.0).abs()[counted].max() <= tol + 1e-4, (name, shape, tol)
            exact = pg.polar_factor(a)
            assert orthogonality(exact) <= 20 * eps(torch.float32), name


BAD = [
    (lambda a: pg.polar([[1.0]]), TypeError, "A must be a torch.Tensor, got list"),
    (lambda a: pg.polar(a.long()), TypeError, "got torch.int64"),
    (lambda a: pg.polar(a > 0), TypeError, "got torch.bool"),
    (lambda a: pg.polar(a[0]), ValueError, r"got shape \(3,\)"),
    (lambda a: pg.polar(a[0, 0]), ValueError, r"got shape \(\)"),
    (lambda a: pg.polar(a, method="qdwhh"), ValueError, "one of auto, svd, .*got 'qdwhh'"),
    (lambda a: pg.polar(a, method=3), TypeError, "method must be .*got int"),
    (lambda a: pg.polar(a, method={"name": "qdwh", "step": 2}), ValueError, "options .*got 'step'"),
    (lambda a: pg.polar(a, side="top"), ValueError, "one of auto, right, left, got 'top'"),
    (lambda a: pg.polar(a, nonfinite="skip"), ValueError, "one of raise, propagate, got 'skip'"),
    (lambda a: pg.polar(a, tol=0.0), ValueError, r"tol must be None or in \(0, 1\), got 0.0"),
    (lambda a: pg.polar(a, tol=float("nan")), ValueError, "tol .*got nan"),
    (lambda a: pg.polar(a, method="svd", tol=0.1), ValueError, "tol is for method='auto' alone"),
    (lambda a: pg.polar(a, compute_dtype=torch.int32), ValueError, "one of float16, .*torch.int32"),
    (
        lambda a: pg.polar(a, method="svd", compute_dtype=torch.bfloat16),
        ValueError,
        "compute_dtype .*'svd', got torch.bfloat16",
    ),
    (
        lambda a: pg.polar(a, method="randomized_svd"),
        ValueError,
        "'randomized_svd' needs the options rank",
    ),
    (lambda a: QDWH(steps=0), ValueError, "steps must be at least 1, got 0"),
    (lambda a: QDWH(lower_bound=0.0), ValueError, "lower_bound .*got 0.0"),
    (lambda a: QDWH(lower_bound=1.5), ValueError, "lower_bound .*got 1.5"),
    (lambda a: NewtonSchulz(steps=0), ValueError, "steps must be at least 1, got 0"),
    (lambda a: NewtonSchulz(steps=5.0), TypeError, "steps must be an int, got 5.0"),
    (lambda a: NewtonSchulz("cubicc"), ValueError, "one of cubic, quintic or a triple"),
    (lambda a: NewtonSchulz((1.0, 2.0)), ValueError, r"triple \(a, b, c\), got"),
    (lambda a: NewtonSchulz(eps=-1.0), ValueError, "eps must be None or at least 0, got -1.0"),
    (lambda a: PolarExpress(steps=0), ValueError, "steps must be at least 1, got 0"),
    (lambda a: PolarExpress(bound="two"), ValueError, "one of frobenius, schatten4, got 'two'"),
    (lambda a: PolarExpress(safety=0.9), ValueError, "safety must be at least 1, got 0.9"),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=[m for _, _, m in BAD])
def test_bad_input_is_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call(torch.eye(3))


@pytest.mark.parametrize(
    "method", ["svd", "qdwh", QDWH.reference(), "newton_schulz", "polar_express"], ids=str
)
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4), (2, 5, 3)], ids=str)
def test_first_derivatives_at_full_rank(method, shape):
    """Factor and nuclear norm against finite differences, where singular values are distinct."""
    a = conditioned(shape, 5.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pg.polar_factor(x, method=method), a)
    assert torch.autograd.gradcheck(lambda x: pg.polar(x, method=method).nuclear_norm, a)
