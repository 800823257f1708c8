"""Centring, and the two orders of rows and polar factor."""

import pytest
import torch
from matrices import conditioned, eps, polar_oracle

from polargrad.geometry import (
    Centred,
    Diagonal,
    Frobenius,
    LargestRow,
    MaxEntry,
    PolarThenRow,
    RowThenPolar,
    Spectral,
)
from polargrad.linalg import QDWH, SVD, NewtonSchulz

SHAPES = [(1, 1), (1, 5), (5, 1), (7, 3), (3, 7), (4, 4), (2, 6, 4), (2, 2, 3, 5)]
DTYPES = [torch.float32, torch.float64]
COMPOSITIONS = {
    "centred spectral": Centred(),
    "centred left": Centred(Spectral(side="left")),
    "centred rows": Centred(LargestRow()),
    "centred entries": Centred(MaxEntry()),
    "centred frobenius": Centred(Frobenius()),
    "centred hybrid": Centred(RowThenPolar()),
    "row_then_polar": RowThenPolar(),
    "row_then_polar qdwh": RowThenPolar(QDWH()),
    "row_then_polar left": RowThenPolar(side="left"),
    "polar_then_row": PolarThenRow(),
    "polar_then_row right": PolarThenRow(side="right"),
}


def inner(x, y):
    return (x * y).sum((-2, -1))


def rows(x):
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / torch.where(length > 0, length, 1.0)


def without_mean(x):
    return x - x.mean(-2, keepdim=True)


def gauss(shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(params=COMPOSITIONS)
def geometry(request):
    return COMPOSITIONS[request.param]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
class TestFormulas:
    """Against the formulas, written down once more in float64."""

    def test_row_then_polar(self, shape, dtype):
        s = conditioned(shape, 10.0, dtype)
        w = rows(s.double())
        direction, value = RowThenPolar().ascent(s)
        expected = polar_oracle(w, 1e-6)
        assert (direction - expected).abs().max() <= 1e4 * eps(dtype)
        nuclear = torch.linalg.svdvals(w).sum(-1)
        assert ((value - nuclear).abs() <= 100 * eps(dtype) * nuclear).all()

    def test_polar_then_row(self, shape, dtype):
        s = conditioned(shape, 10.0, dtype)
        u = polar_oracle(s)
        direction, value = PolarThenRow().ascent(s)
        assert (direction - rows(u)).abs().max() <= 1e4 * eps(dtype)
        nuclear = torch.linalg.svdvals(s.double()).sum(-1)
        assert ((value - nuclear).abs() <= 100 * eps(dtype) * nuclear).all()

    @pytest.mark.parametrize("inner_geometry", [Spectral(), LargestRow(), Frobenius()], ids=str)
    def test_centred(self, shape, dtype, inner_geometry):
        s = gauss(shape, dtype) + 3.0
        direction, value = Centred(inner_geometry).ascent(s)
        if shape[-2] == 1:
            assert not direction.any()
            assert not value.any()
            return
        expected = inner_geometry.ascent(without_mean(s.double()))
        assert (direction - without_mean(expected.direction)).abs().max() <= 1e4 * eps(dtype)
        difference = (value - expected.dual_norm).abs()
        assert (difference <= 1e3 * eps(dtype) * expected.dual_norm).all()
        assert direction.mean(-2).abs().max() <= 4 * eps(dtype)


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (2, 6, 4)], ids=str)
class TestCentredIsSteepest:
    """In the quotient norm min over v of ‖X − 1vᵀ‖, which has a formula for three norms."""

    QUOTIENTS = (
        (Centred(Frobenius()), lambda x: torch.linalg.matrix_norm(without_mean(x))),
        (Centred(Spectral()), lambda x: torch.linalg.matrix_norm(without_mean(x), 2)),
        (Centred(MaxEntry()), lambda x: (x.amax(-2) - x.amin(-2)).amax(-1) / 2),
    )

    @pytest.mark.parametrize("which", range(3))
    def test_the_direction_reaches_the_dual_norm_inside_the_ball(self, shape, which):
        geometry, norm = self.QUOTIENTS[which]
        s = gauss(shape) + 2.0
        direction, dual_norm = geometry.ascent(s)
        assert (norm(direction) <= 1 + 1e-12).all()
        torch.testing.assert_close(inner(s, direction), dual_norm)

    @pytest.mark.parametrize("which", range(3))
    def test_hoelder_for_matrices_without_a_mean(self, shape, which):
        geometry, norm = self.QUOTIENTS[which]
        s = gauss(shape) + 2.0
        dual_norm = geometry.dual_norm(s)
        for seed in range(1, 30):
            x = without_mean(gauss(shape, seed=seed))
            assert (inner(s, x).abs() <= dual_norm * norm(x) * (1 + 1e-12)).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_shift_of_all_rows_counts_as_nothing(dtype):
    """S + 1vᵀ has the direction of S; what is nothing but a shift has none."""
    s, v = gauss((2, 6, 4), dtype), gauss((2, 1, 4), dtype, seed=1)
    for name, geometry in COMPOSITIONS.items():
        if name.startswith("centred"):
            one, other = geometry.ascent(s), geometry.ascent(s + v)
            assert (one.direction - other.direction).abs().max() <= 100 * eps(dtype)
            torch.testing.assert_close(one.dual_norm, other.dual_norm)
            nothing = geometry.ascent(v.expand(2, 7, 4) * 0.1)
            assert not nothing.direction.any()
            assert not nothing.dual_norm.any()


@pytest.mark.parametrize("scale", [1e-30, 1e-7, 1e7, 1e30])
def test_degrees(geometry, scale):
    """Every direction has degree 0; the value has degree 1, but for row_then_polar degree 0."""
    s = conditioned((2, 6, 4), 10.0, torch.float32)
    one, other = geometry.ascent(s), geometry.ascent(s * scale)
    hybrid = geometry.inner if isinstance(geometry, Centred) else geometry
    factor = 1.0 if isinstance(hybrid, RowThenPolar) else scale
    assert (one.direction - other.direction).abs().max() <= 500 * eps(s.dtype)
    torch.testing.assert_close(other.dual_norm, one.dual_norm * factor, rtol=1e-4, atol=0.0)


def orthogonal(n):
    return torch.linalg.qr(gauss((n, n), seed=2)).Q


@pytest.mark.parametrize("shape", [(6, 4), (3, 5)], ids=str)
def test_equivariance(geometry, shape):
    """Under permutations of the rows, and rotations of the columns where entries do not matter."""
    p = torch.eye(shape[0], dtype=torch.float64)[torch.randperm(shape[0])]
    q = orthogonal(shape[1])
    if geometry == COMPOSITIONS["centred entries"]:
        q = torch.eye(shape[1], dtype=torch.float64).flip(0)
    s = conditioned(shape, 10.0)
    one, other = geometry.ascent(s), geometry.ascent(p @ s @ q.T)
    assert (p @ one.direction @ q.T - other.direction).abs().max() <= 1e4 * eps(s.dtype)
    torch.testing.assert_close(one.dual_norm, other.dual_norm)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16, torch.bfloat16], ids=str)
def test_zero(geometry, dtype):
    direction, value = geometry.ascent(torch.zeros(2, 4, 3, dtype=dtype))
    assert not direction.any()
    assert not value.any()
    assert direction.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_stack_is_a_loop_and_nan_stays_in_its_matrix(geometry, bad):
    s = conditioned((3, 5, 4), 10.0, torch.float32)
    broken = s.clone()
    broken[1, 2, 3] = bad
    before = broken.clone()
    direction, value = geometry.ascent(broken)
    assert direction[1].isnan().all()
    assert value[1].isnan()
    for k in (0, 2):
        alone = geometry.ascent(s[k : k + 1])
        assert (direction[k] - alone.direction[0]).abs().max() <= 100 * eps(s.dtype)
        torch.testing.assert_close(value[k], alone.dual_norm[0])
    assert torch.equal(broken.nan_to_num(), before.nan_to_num())


@pytest.mark.parametrize("order", [RowThenPolar, PolarThenRow])
@pytest.mark.parametrize("options", [{}, {"side": "left"}, {"side": "right"}], ids=str)
def test_rows_that_are_zero_stay_zero(order, options):
    """Rounding of the factor in such a row must not be normalised to length 1."""
    s = conditioned((2, 30, 6), 10.0, torch.float32)
    s[:, [3, 17]] = 0.0
    direction = order(**options).ascent(s).direction
    assert direction[:, [3, 17]].abs().max() <= 10 * eps(s.dtype)
    if order is PolarThenRow:
        assert not direction[:, [3, 17]].any()
        lengths = torch.linalg.vector_norm(direction, dim=-1)
        others = [i for i in range(30) if i not in (3, 17)]
        assert (lengths[:, others] - 1).abs().max() <= 4 * eps(s.dtype)


def test_the_sizes_of_the_hybrids():
    """Spectral norm 1 after the factor; rows of length 1 after the rows; √m ≤ ν ≤ √(m min)."""
    s = conditioned((4, 9, 5), 100.0)
    direction, value = RowThenPolar().ascent(s)
    torch.testing.assert_close(torch.linalg.matrix_norm(direction, 2), torch.ones(4).double())
    assert (value >= 3.0 - 1e-12).all()
    assert (value <= 45.0**0.5 + 1e-12).all()
    lengths = torch.linalg.vector_norm(PolarThenRow().ascent(s).direction, dim=-1)
    torch.testing.assert_close(lengths, torch.ones(4, 9).double())


@pytest.mark.parametrize("order", [RowThenPolar, PolarThenRow])
def test_the_options_of_the_factor_reach_it(order):
    s = conditioned((2, 9, 5), 100.0)
    exact = order().ascent(s)
    assert not torch.allclose(order(damping=0.3).ascent(s).direction, exact.direction)
    rough, better = (
        (order(NewtonSchulz(), correct=correct).ascent(s).dual_norm / exact.dual_norm - 1).abs()
        for correct in (False, True)
    )
    assert (better < rough).all()


@pytest.mark.parametrize("make", [RowThenPolar, PolarThenRow, lambda: Centred(Spectral())])
def test_with_polar_reaches_the_factor(make):
    geometry = make()
    assert geometry.uses_polar
    chosen = geometry.with_polar(NewtonSchulz(), torch.bfloat16)
    holder = chosen.inner if isinstance(chosen, Centred) else chosen
    assert (holder.method, holder.compute_dtype) == (NewtonSchulz(), torch.bfloat16)
    s = conditioned((2, 9, 5), 100.0, torch.float32)
    assert not torch.allclose(chosen.ascent(s).direction, geometry.ascent(s).direction, atol=1e-3)


def test_what_uses_no_factor_says_so():
    for geometry in (Centred(LargestRow()), RowThenPolar(side="left"), PolarThenRow(damping=0.1)):
        assert not geometry.uses_polar
        assert geometry.with_polar(SVD(), None) == geometry


def test_a_composition_has_no_norm():
    for geometry in COMPOSITIONS.values():
        assert not hasattr(geometry, "norm")


def test_centred_refuses():
    with pytest.raises(TypeError, match="inner must be a geometry, got str"):
        Centred("spectral")
    with pytest.raises(ValueError, match="inner must keep no state, got 'diagonal'"):
        Centred(Diagonal())
