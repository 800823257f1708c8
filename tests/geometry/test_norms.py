"""The norms with a formula: duality, Hölder, equivariance, scale, and what a stack may not mix."""

import pytest
import torch
from matrices import conditioned, double, eps, with_singular_values

from polargrad.geometry import Frobenius, LargestColumn, LargestRow, MaxEntry, Spectral
from polargrad.linalg import QDWH, SVD


def row_lengths(x):
    return torch.linalg.vector_norm(x, dim=-1)


def column_lengths(x):
    return torch.linalg.vector_norm(x, dim=-2)


def frobenius(x):
    return torch.linalg.vector_norm(x, dim=(-2, -1))


# A geometry, its norm and its dual norm, written down once more in float64.
NORMS = {
    "frobenius": (Frobenius(), frobenius, frobenius),
    "max_entry": (MaxEntry(), lambda x: x.abs().amax((-2, -1)), lambda x: x.abs().sum((-2, -1))),
    "spectral svd": (
        Spectral(SVD()),
        lambda x: torch.linalg.svdvals(x)[..., 0],
        lambda x: torch.linalg.svdvals(x).sum(-1),
    ),
    "largest_row": (
        LargestRow(),
        lambda x: row_lengths(x).amax(-1),
        lambda x: row_lengths(x).sum(-1),
    ),
    "largest_column": (
        LargestColumn(),
        lambda x: column_lengths(x).amax(-1),
        lambda x: column_lengths(x).sum(-1),
    ),
}
for label, kind in {
    "spectral qdwh": Spectral(QDWH()),
    "spectral corrected": Spectral(QDWH(), correct=True),
    "spectral left": Spectral(side="left"),
    "spectral right": Spectral(side="right"),
}.items():
    NORMS[label] = (kind, *NORMS["spectral svd"][1:])
SHAPES = [(1, 1), (1, 5), (5, 1), (7, 3), (3, 7), (4, 4), (2, 6, 4), (2, 2, 3, 5)]
DTYPES = [torch.float32, torch.float64, torch.complex128, torch.float16, torch.bfloat16]
KINDS = ["full", "deficient", "zero"]


def signal(kind, shape, dtype=torch.float64):
    """A stack of condition 10, of rank about half, or zero."""
    if kind == "zero":
        return torch.zeros(shape, dtype=dtype)
    if kind == "full":
        return conditioned(shape, 10.0, dtype)
    sigma = torch.ones(min(shape[-2:]), dtype=torch.float64)
    sigma[(len(sigma) + 1) // 2 :] = 0.0
    return with_singular_values(shape, sigma, dtype)


def inner(x, y):
    return (x.conj() * y).real.sum((-2, -1))


def gauss(shape, dtype, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def working(dtype):
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


@pytest.fixture(params=NORMS)
def case(request):
    return NORMS[request.param]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
class TestDuality:
    """D is in the unit ball, reaches the dual norm, and nothing in the ball reaches further."""

    def test_the_dual_norm_is_attained_inside_the_ball(self, case, kind, dtype, shape):
        geometry, norm, dual = case
        s = signal(kind, shape, dtype)
        direction, dual_norm = geometry.ascent(s)
        tolerance = 40 * max(shape) * eps(working(dtype))
        assert direction.dtype == working(dtype)
        assert dual_norm.dtype == direction.real.dtype
        assert direction.shape == shape
        assert dual_norm.shape == shape[:-2]
        assert (norm(double(direction)) <= 1 + tolerance).all()
        expected = dual(double(s))
        assert ((dual_norm - expected).abs() <= tolerance * expected).all()
        reached = inner(double(s), double(direction))
        assert ((reached - expected).abs() <= tolerance * expected).all()
        assert kind != "zero" or not direction.any()

    def test_hoelder(self, case, kind, dtype, shape):
        """|⟨S, X⟩| ≤ ‖S‖_* ‖X‖, so that no competitor of norm 1 beats D."""
        geometry, norm, _ = case
        s = signal(kind, shape, dtype)
        dual_norm = geometry.dual_norm(s)
        tolerance = 40 * max(shape) * eps(working(dtype))
        for seed in range(10):
            x = gauss(shape, double(s).dtype, seed).to(dtype)
            size = geometry.norm(x)
            assert size.shape == shape[:-2]
            assert ((size - norm(double(x))).abs() <= tolerance * size).all()
            assert (inner(double(s), double(x)).abs() <= dual_norm * size * (1 + tolerance)).all()


@pytest.mark.parametrize("shape", [(1, 4), (6, 3), (3, 6), (2, 5, 5)], ids=str)
@pytest.mark.parametrize("scale", [1e-30, 1e-7, 1e7, 1e30])
def test_scale_equivariance(case, scale, shape):
    """The direction of cS is that of S, the dual norm c times it, in float32 too."""
    geometry, _, _ = case
    s = conditioned(shape, 10.0, torch.float32)
    one, other = geometry.ascent(s), geometry.ascent(s * scale)
    tolerance = 200 * eps(torch.float32)
    assert (one.direction - other.direction).abs().max() <= tolerance
    torch.testing.assert_close(other.dual_norm, one.dual_norm * scale, rtol=tolerance, atol=0.0)
    size = geometry.norm(s * scale)
    torch.testing.assert_close(size, geometry.norm(s) * scale, rtol=tolerance, atol=0.0)


@pytest.mark.parametrize("power", [-80, -1, 3, 80])
def test_a_power_of_two_changes_no_bit_of_the_direction(case, power):
    geometry, _, _ = case
    s = conditioned((2, 6, 4), 10.0, torch.float32)
    one, other = geometry.ascent(s), geometry.ascent(s * 2.0**power)
    assert torch.equal(one.direction, other.direction)
    assert torch.equal(one.dual_norm * 2.0**power, other.dual_norm)


def orthogonal(n, seed):
    return torch.linalg.qr(gauss((n, n), torch.float64, seed)).Q


def signed_permutation(n, seed):
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (n,), generator=generator).double() * 2 - 1
    return torch.eye(n, dtype=torch.float64)[torch.randperm(n, generator=generator)] * signs


# Under which changes of rows and columns the direction goes along.
GROUPS = {
    "frobenius": (orthogonal, orthogonal),
    "max_entry": (signed_permutation, signed_permutation),
    "spectral svd": (orthogonal, orthogonal),
    "spectral left": (orthogonal, orthogonal),
    "spectral right": (orthogonal, orthogonal),
    "largest_row": (signed_permutation, orthogonal),
    "largest_column": (orthogonal, signed_permutation),
}


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("shape", [(6, 4), (3, 5)], ids=str)
def test_equivariance(name, shape):
    """D(PSQᵀ) = P D(S) Qᵀ, and the dual norm stays."""
    geometry = NORMS[name][0]
    p, q = GROUPS[name][0](shape[0], 1), GROUPS[name][1](shape[1], 2)
    s = conditioned(shape, 10.0)
    one, other = geometry.ascent(s), geometry.ascent(p @ s @ q.T)
    assert (p @ one.direction @ q.T - other.direction).abs().max() <= 1e4 * eps(s.dtype)
    torch.testing.assert_close(one.dual_norm, other.dual_norm)


@pytest.mark.parametrize("name", ["max_entry", "largest_row", "largest_column"])
def test_and_not_under_rotations_of_the_rest(name):
    """The test above can fail: the groups are not larger than they are said to be."""
    geometry = NORMS[name][0]
    s = conditioned((6, 6), 10.0)
    p, q = orthogonal(6, 1), orthogonal(6, 2)
    difference = p @ geometry.ascent(s).direction @ q.T - geometry.ascent(p @ s @ q.T).direction
    assert difference.abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_stack_is_a_loop(case, dtype):
    geometry, _, _ = case
    scales = torch.tensor([1e-9, 1.0, 0.0, 1e9], dtype=dtype)[:, None, None]
    s = conditioned((4, 6, 4), 10.0, dtype) * scales
    together = geometry.ascent(s)
    sizes = geometry.norm(s)
    for k in range(4):
        alone = geometry.ascent(s[k : k + 1])
        assert (together.direction[k] - alone.direction[0]).abs().max() <= 100 * eps(dtype)
        torch.testing.assert_close(together.dual_norm[k], alone.dual_norm[0])
        torch.testing.assert_close(sizes[k], geometry.norm(s[k]))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_matrix_that_is_not_finite_leaves_its_neighbours_alone(case, bad):
    geometry, _, _ = case
    s = conditioned((3, 5, 4), 10.0, torch.float32)
    clean, sizes = geometry.ascent(s), geometry.norm(s)
    s[1, 2, 3] = bad
    direction, dual_norm = geometry.ascent(s)
    assert direction[1].isnan().all()
    assert dual_norm[1].isnan()
    assert geometry.norm(s)[1].isnan()
    for k in (0, 2):
        torch.testing.assert_close(direction[k], clean.direction[k])
        torch.testing.assert_close(dual_norm[k], clean.dual_norm[k])
        torch.testing.assert_close(geometry.norm(s)[k], sizes[k])


def test_the_signal_stays_as_it_was(case):
    geometry, _, _ = case
    s = conditioned((2, 5, 4), 10.0, torch.float32)
    before = s.clone()
    geometry.ascent(s)
    geometry.norm(s)
    assert torch.equal(s, before)


def test_what_is_derived_from_the_ascent(case):
    geometry, _, _ = case
    s = conditioned((2, 5, 4), 10.0)
    direction, dual_norm = geometry.ascent(s)
    assert torch.equal(geometry.unit_direction(s), direction)
    assert torch.equal(geometry.dual_norm(s), dual_norm)
    assert torch.equal(geometry.sharp(s), dual_norm[:, None, None] * direction)


def test_a_norm_has_no_state(case):
    geometry, _, _ = case
    s = torch.ones(2, 3, 3)
    assert geometry.accumulates is False
    assert geometry.start(s) == {}
    assert geometry.accumulate({}, s) == {}


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0)], ids=str)
def test_empty(case, shape):
    geometry, _, _ = case
    direction, dual_norm = geometry.ascent(torch.zeros(shape, dtype=torch.float16))
    assert direction.shape == shape
    assert direction.dtype == torch.float32
    assert torch.equal(dual_norm, torch.zeros(shape[:1]))
    assert torch.equal(geometry.norm(torch.zeros(shape)), torch.zeros(shape[:1]))


def test_refuses_what_is_no_matrix(case):
    geometry, _, _ = case
    with pytest.raises(TypeError, match=r"signal must hold floating-point .* got torch.int64"):
        geometry.ascent(torch.ones(1, 2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"X must be a matrix .* got shape \(3,\)"):
        geometry.norm(torch.ones(3))


@pytest.mark.parametrize(("geometry", "dim"), [(LargestRow(), 0), (LargestColumn(), 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_row_has_its_own_scale(geometry, dim, dtype):
    """Rows of 1e-30 beside rows of 1e30 are normalised all the same; zero rows stay zero."""
    s = conditioned((5, 5), 10.0, dtype)
    c = torch.tensor([1e-30, 1e30, 1.0, 0.0, 1e-12], dtype=dtype)
    found = geometry.ascent(s * c.unsqueeze(1 - dim)).direction
    expected = geometry.ascent(s).direction * (c > 0).unsqueeze(1 - dim)
    assert (found - expected).abs().max() <= 8 * eps(dtype)


def test_the_smallest_entry_has_a_sign():
    """Of a matrix with entries of 1e30, in float32."""
    s = torch.tensor([[[1e30, -1e-45, 0.0]]])
    assert torch.equal(MaxEntry().ascent(s).direction, torch.tensor([[[1.0, -1.0, 0.0]]]))
