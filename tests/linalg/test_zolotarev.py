"""ZOLO-PD against an independent float64 SVD, and against its rational function written out."""

import pytest
import torch
from matrices import (
    COMPLEX,
    REAL,
    conditioned,
    double,
    eps,
    negativity,
    orthogonality,
    polar_oracle,
    residual,
    with_singular_values,
)

from polargrad.linalg.methods.qdwh import QDWH
from polargrad.linalg.methods.svd import SVD
from polargrad.linalg.methods.zolotarev import Zolotarev
from polargrad.linalg.rational import zolotarev

# Tall stacks, as every method gets them.
SHAPES = [(1, 1), (6, 1), (9, 9), (40, 7), (3, 20, 6), (2, 25, 25)]
CONVERGED = [
    Zolotarev(),
    Zolotarev(polish=True),
    Zolotarev(degree=1),
    Zolotarev(degree=3),
    Zolotarev(degree=8),
]


def hermitian(u, a):
    h = u.mH @ a
    return 0.5 * (h + h.mH)


@pytest.mark.parametrize("method", CONVERGED, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
def test_is_the_polar_decomposition(method, shape, dtype):
    a = conditioned(shape, 1e3, dtype)
    u = method(a).U
    h = hermitian(u, a)
    assert u.dtype == dtype
    assert orthogonality(u) <= 30 * eps(dtype)
    assert residual(a, u, h, "right") <= 30 * eps(dtype)
    assert negativity(h, a) <= 30 * eps(dtype)
    error = torch.linalg.matrix_norm(double(u) - polar_oracle(a)).max()
    assert error <= 20 * 1e3 * eps(dtype) * shape[-1] ** 0.5


@pytest.mark.parametrize("condition", [1e0, 1e4, 1e8, 1e12, 1e14, 1e16])
@pytest.mark.parametrize("shape", [(120, 120), (160, 100)], ids=str)
def test_float64_to_the_end_of_its_range(condition, shape):
    a = conditioned(shape, condition)
    u = Zolotarev()(a).U
    kept = torch.linalg.svdvals(a)
    cutoff = shape[1] ** 0.5 * eps(a.dtype) * kept[0]
    out = torch.linalg.svdvals(u)
    # A singular value within a factor of two of the cutoff may go either way.
    sure, zero = int((kept > 2 * cutoff).sum()), int((kept > 0.5 * cutoff).sum())
    assert (out[:sure] - 1).abs().max() <= 60 * eps(a.dtype)
    assert (out[zero:] <= 60 * eps(a.dtype)).all()
    assert residual(a, u, hermitian(u, a), "right") <= 60 * eps(a.dtype)
    assert negativity(hermitian(u, a), a) <= 60 * eps(a.dtype)


@pytest.mark.parametrize("condition", [1e0, 1e2, 1e4, 1e5, 3e5])
def test_float32_to_the_end_of_its_range(condition):
    a = conditioned((160, 100), condition, torch.float32)
    u = Zolotarev()(a).U
    assert orthogonality(u) <= 60 * eps(torch.float32)
    assert residual(a, u, hermitian(u, a), "right") <= 60 * eps(torch.float32)
    assert negativity(hermitian(u, a), a) <= 60 * eps(torch.float32)


@pytest.mark.parametrize("shape", [(40, 24), (25, 25), (3, 30, 10)], ids=str)
@pytest.mark.parametrize("rank", [0, 1, 5])
@pytest.mark.parametrize("dtype", [*REAL, torch.complex64], ids=str)
def test_rank_deficient_gets_the_canonical_partial_isometry(shape, rank, dtype):
    n = shape[-1]
    sigma = torch.zeros(n, dtype=torch.float64)
    sigma[:rank] = torch.linspace(1.0, 0.1, rank, dtype=torch.float64)
    a = with_singular_values(shape, sigma, dtype, seed=rank)
    found = Zolotarev()(a)
    error = torch.linalg.matrix_norm(double(found.U) - polar_oracle(a, cutoff=1e-3)).max()
    assert error <= 200 * eps(dtype) * n**0.5
    assert (found.rank == rank).all()
    assert found.rank.shape == shape[:-2]


@pytest.mark.parametrize("method", [Zolotarev(), Zolotarev(iterations=2), Zolotarev(4, 1)], ids=str)
@pytest.mark.parametrize("shape", [(5, 3), (4, 4), (2, 5, 3)], ids=str)
def test_zero_gives_zero(method, shape):
    for dtype in REAL:
        assert torch.equal(
            method(torch.zeros(shape, dtype=dtype)).U, torch.zeros(shape, dtype=dtype)
        )


@pytest.mark.parametrize("lower", [1e-3, 1e-2, 0.2])
@pytest.mark.parametrize("degree", [1, 2, 4, 8])
@pytest.mark.parametrize("iterations", [1, 2])
def test_is_its_rational_function_of_the_singular_values(lower, degree, iterations):
    """One or two functions in turn, QR and Cholesky alike: f(σ/α), the first over its top."""
    a = conditioned((30, 12), 50.0)
    w, sigma, vh = torch.linalg.svd(a, full_matrices=False)
    x = sigma / (a.abs().sum(0).max() * a.abs().sum(1).max()).sqrt()
    left, top = lower, 1.0
    for _ in range(iterations):
        x = x / top
        found = zolotarev(left, degree)
        total = sum(
            weight / (x**2 + c) for weight, c in zip(found.weights, found.shifts, strict=True)
        )
        x = found.scale * x * (1.0 + total)
        left, top = found.contrast, 1.0 + found.deviation
        if found.deviation <= 3 * eps(torch.float64):
            break
    expected = (w * x) @ vh
    u = Zolotarev(degree, iterations, lower)(a).U
    assert (u - expected).abs().max() <= 30 * eps(torch.float64)


def test_degree_one_is_qdwh():
    """QDWH ends at 1 where this ends around 1: the same up to the factor 1 + d of the last step."""
    condition = 1e3
    a = conditioned((50, 20), condition)
    lower = 1e-8
    for iterations in (1, 2, 3, 4):
        left = lower
        for _ in range(iterations):
            found = zolotarev(left, 1)
            left = found.contrast
        one = Zolotarev(1, iterations, lower)(a).U
        other = QDWH(iterations, lower)(a).U * (1.0 + found.deviation)
        assert (one - other).abs().max() <= 10 * condition * eps(a.dtype)


@pytest.mark.parametrize(("dtype", "terms"), [(torch.float32, 4), (torch.float64, 8)])
def test_factorizations_are_those_of_the_schedule(monkeypatch, dtype, terms):
    """Tall: one QR to R; then one batch of QR, one batch of Cholesky, and the proof of rank."""
    shapes = {"qr": [], "cholesky_ex": [], "svd": []}
    for name, seen in shapes.items():
        original = getattr(torch.linalg, name)

        def recorded(a, *args, _seen=seen, _original=original, **kwargs):
            _seen.append(tuple(a.shape))
            return _original(a, *args, **kwargs)

        monkeypatch.setattr(torch.linalg, name, recorded)
    a = conditioned((60, 40), 1e3, dtype)
    for seen in shapes.values():
        seen.clear()
    assert Zolotarev()(a).steps == 2
    assert shapes == {
        "qr": [(60, 40), (terms, 80, 40)],
        "cholesky_ex": [(terms, 40, 40), (40, 40)],
        "svd": [],
    }


def test_one_iteration_from_a_large_lower_bound():
    """Singular values between a half and one: the published algorithm takes one iteration."""
    diagonal = torch.diag(torch.linspace(1.0, 0.6, 8, dtype=torch.float64))
    found = Zolotarev(lower_bound=0.6)(diagonal)
    assert found.steps == 1
    assert (found.U - torch.eye(8)).abs().max() <= 30 * eps(torch.float64)
    # With the weakest of degrees it is still iterated until it has converged.
    assert Zolotarev(degree=1, lower_bound=0.6)(diagonal).steps > 1


@pytest.mark.parametrize("dtype", [*REAL, torch.complex64], ids=str)
@pytest.mark.parametrize("method", [Zolotarev(), Zolotarev(iterations=2)], ids=str)
def test_a_stack_is_its_matrices(method, dtype):
    """With a neighbour of low rank and a zero one, which take another way out."""
    stack = conditioned((4, 20, 8), 1e3, dtype)
    stack[1, :, 3:] = 0.0
    stack[2] = 0.0
    together = method(stack).U
    for matrix, factor in zip(stack[[0, 3]], together[[0, 3]], strict=True):
        assert (method(matrix).U - factor).abs().max() <= 20 * 1e3 * eps(dtype)
    changed = stack.clone()
    changed[1:3] = conditioned((2, 20, 8), 10.0, dtype, seed=5)
    assert torch.equal(method(changed).U[[0, 3]], together[[0, 3]])


@pytest.mark.parametrize(
    "method",
    [
        *CONVERGED,
        Zolotarev(3, 1, 1e-2),
        Zolotarev(2, 2, 1e-3),
        Zolotarev(4, 1, 1e-3, polish=True),
        Zolotarev(iterations=2),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_keeps_its_promise(method, dtype, seed):
    """Singular values spread from 1 to just above where the promise begins, α included."""
    rows, columns = ((24, 24), (60, 20), (9, 3), (30, 1))[seed]
    promise = method.promise(rows, columns, dtype)
    # α ≤ (mn)^¼ σ₁; the factor keeps the least σ above the bound after rounding of the entries.
    least = min(2.0 * promise.down_to * (rows * columns) ** 0.25 + 30 * eps(dtype), 1.0)
    a = conditioned((rows, columns), 1.0 / least, dtype, seed)
    u = method(a).U
    out = torch.linalg.svdvals(double(u))
    assert (out - 1.0).abs().max() <= promise.deviation
    assert residual(a, u, hermitian(double(u), double(a)), "right") <= promise.residual


def test_promises_are_not_empty():
    assert Zolotarev().promise(60, 40, torch.float64).deviation <= 1e-12
    assert Zolotarev(4, 1, 1e-3).promise(60, 40, torch.float32).deviation == pytest.approx(
        0.0189, rel=1e-2
    )


def test_is_differentiable_at_full_rank():
    a = conditioned((5, 3), 5.0).requires_grad_()
    square = conditioned((2, 4, 4), 5.0).requires_grad_()
    for method in (Zolotarev(), Zolotarev(2, 2, 1e-3)):
        assert torch.autograd.gradcheck(lambda x, m=method: m(x).U, a)
        assert torch.autograd.gradcheck(lambda x, m=method: m(x).U, square)


def test_vmap_and_compile_with_a_budget():
    """No data decides anything: the same code runs under both, in one graph."""
    stack = conditioned((4, 20, 8), 100.0)
    method = Zolotarev(iterations=2)
    expected = method(stack).U
    mapped = torch.vmap(lambda x: method(x).U)(stack)
    assert (mapped - expected).abs().max() <= 20 * eps(stack.dtype)
    compiled = torch.compile(lambda x: method(x).U, fullgraph=True, backend="eager")
    assert (compiled(stack) - expected).abs().max() <= 20 * eps(stack.dtype)


def test_repeats_itself_and_leaves_its_input_and_the_generator_alone():
    a = conditioned((20, 8), 100.0, torch.float32)
    before, state = a.clone(), torch.random.get_rng_state()
    first = Zolotarev()(a).U
    assert torch.equal(first, Zolotarev()(a).U)
    assert torch.equal(a, before)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_agrees_with_the_svd_where_the_bound_of_the_norm_is_poor():
    """A matrix of equal entries but one row: α is far above σ₁, and the small σ still count."""
    a = torch.full((40, 10), 0.5, dtype=torch.float64)
    a[:10] += torch.diag(10.0 ** -torch.arange(1.0, 11.0, dtype=torch.float64))
    difference = Zolotarev()(a).U - SVD()(a).U
    assert difference.abs().max() <= 1e12 * eps(a.dtype)
    assert orthogonality(Zolotarev()(a).U) <= 60 * eps(a.dtype)


BAD = [
    (lambda: Zolotarev(degree=0), ValueError, "degree must be None or from 1 to 8, got 0"),
    (lambda: Zolotarev(degree=9), ValueError, "degree must be None or from 1 to 8, got 9"),
    (lambda: Zolotarev(degree=2.0), TypeError, "degree must be None or an int, got 2.0"),
    (lambda: Zolotarev(degree=True), TypeError, "degree must be None or an int, got True"),
    (lambda: Zolotarev(iterations=0), ValueError, "at least 1, got 0"),
    (lambda: Zolotarev(iterations=1.5), TypeError, "must be an int, got 1.5"),
    (lambda: Zolotarev(lower_bound=0.0), ValueError, r"in \[1e-30, 1\), got 0.0"),
    (lambda: Zolotarev(lower_bound=1.0), ValueError, r"in \[1e-30, 1\), got 1.0"),
    (lambda: Zolotarev(lower_bound=float("nan")), ValueError, "lower_bound .*got nan"),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=[m for _, _, m in BAD])
def test_bad_options_are_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
