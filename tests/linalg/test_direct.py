"""The short way on a CPU gives what polar gives, and looks at nothing twice."""

import pytest
import torch
from matrices import REAL, conditioned
from torch.utils._python_dispatch import TorchDispatchMode

import polargrad as pg
from polargrad.errors import NonFiniteError
from polargrad.linalg import QDWH, SVD, GramEigh, GramZolotarev, NewtonSchulz, PolarExpress
from polargrad.linalg.direct import factor_and_norm, factor_on_host, split_factor

METHODS = [
    GramZolotarev(1, polynomial=9),
    GramZolotarev(3),
    GramEigh(polish=0),
    PolarExpress(steps=5),
    NewtonSchulz(),
]
SHAPES = [(1, 30, 12), (1, 12, 30), (1, 20, 20), (3, 30, 12), (1, 1, 1), (2, 5, 1)]


class Calls(TorchDispatchMode):
    """Counts operations, and those whose result is as large as the matrix."""

    def __init__(self, size):
        super().__init__()
        self.size, self.all, self.passes = size, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        alias = any(a.alias_info is not None for a in function._schema.returns)
        written = any(a.alias_info and a.alias_info.is_write for a in function._schema.arguments)
        if not alias or written:
            self.all += 1
            if isinstance(result, torch.Tensor) and result.numel() == self.size:
                self.passes += 1
        return result


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("power", [0, 30, 100, -100, -140])
def test_factor_and_norm_are_those_of_polar_to_the_bit(method, dtype, shape, power):
    if method.converged and dtype == torch.float64:
        method = PolarExpress(steps=4, degree=(5, 9, 9, 9))
    a = conditioned(shape, 50.0, dtype) * 2.0**power
    a[0, 0] = 0.0 if power == 100 else a[0, 0]
    found = factor_and_norm(a, method)
    expected = pg.polar(a, method=method, nonfinite="propagate")
    assert found is not None
    assert torch.equal(found[0], expected.U)
    assert torch.equal(found[1], expected.nuclear_norm)


@pytest.mark.parametrize("method", METHODS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_without_the_norm_the_factor_is_the_same(method, shape):
    a = conditioned(shape, 50.0, torch.float32)
    found, with_norm = factor_and_norm(a, method, norm=False), factor_and_norm(a, method)
    assert found is not None
    assert with_norm is not None
    assert torch.equal(found[0], with_norm[0])
    assert found[1].shape == with_norm[1].shape
    assert bool(found[1].isnan().all())


def test_a_zero_matrix_has_the_factor_zero():
    for count in (1, 2):
        found = factor_and_norm(torch.zeros(count, 6, 4), METHODS[0])
        assert found is not None
        assert not found[0].any()
        assert not found[1].any()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("count", [1, 2])
def test_one_entry_that_is_not_finite_is_left_to_polar(value, count):
    a = conditioned((count, 60, 40), 3.0, torch.float32)
    a[-1, 59, 39] = value
    assert factor_and_norm(a, METHODS[0]) is None


@pytest.mark.parametrize("powers", [(0, 20, -20), (0, 100, -100), (0, 0, None)], ids=str)
@pytest.mark.parametrize("wide", [False, True])
def test_large_matrices_of_a_stack_are_looked_at_one_by_one(powers, wide):
    a = conditioned((3, 300, 150), 50.0, torch.float32)
    scales = [0.0 if power is None else 2.0**power for power in powers]
    a = a * torch.tensor(scales)[:, None, None]
    a = a.mT.contiguous() if wide else a
    method = GramZolotarev(1, polynomial=9)
    found = factor_and_norm(a, method)
    expected = pg.polar(a, method=method, nonfinite="propagate")
    assert found is not None
    assert torch.equal(found[0], expected.U)
    assert torch.equal(found[1], expected.nuclear_norm)
    a[1, 7, 9] = torch.nan
    assert factor_and_norm(a, method) is None


def test_what_it_is_not_for_is_left_to_polar():
    a = conditioned((1, 6, 4), 3.0, torch.float32)
    assert factor_and_norm(a.half(), METHODS[0]) is None
    assert factor_and_norm(a.to("meta"), METHODS[0]) is None
    assert factor_and_norm(a, PolarExpress(), torch.bfloat16) is None
    assert factor_and_norm(a[0], METHODS[0]) is None
    assert factor_and_norm(a[:0], METHODS[0]) is None
    assert factor_and_norm(a.requires_grad_(), METHODS[0]) is None
    # A converged norm in float64 is corrected for the rounding of U; one that depends on scale.
    assert factor_and_norm(a.detach().double(), SVD()) is None
    scaled = QDWH.reference()
    assert (factor_and_norm(a.detach(), scaled) is None) == (not scaled.scale_free)


def test_passes_over_the_matrix():
    """What writes as much as the matrix has: U = A P, and A ∘ U."""
    a = conditioned((1, 300, 20), 50.0, torch.float32)
    with Calls(a.numel()) as calls:
        factor_and_norm(a, GramZolotarev(1, polynomial=9))
    assert calls.passes == 2
    with Calls(a.numel()) as without:
        factor_and_norm(a, GramZolotarev(1, polynomial=9), norm=False)
    assert without.passes == 1
    with Calls(a.numel()) as general:
        pg.polar(a, method=GramZolotarev(1, polynomial=9), nonfinite="propagate").nuclear_norm  # noqa: B018
    assert calls.all <= general.all - 12


def test_input_is_left_alone():
    a = conditioned((1, 30, 12), 50.0, torch.float32)
    before = a.clone()
    factor_and_norm(a, METHODS[0])
    assert torch.equal(a, before)


# The factor as a product that is still to be formed.

SPLIT = [
    GramZolotarev(1, polynomial=9),
    GramZolotarev(2, polynomial=3),
    GramZolotarev(1, 0.01, polynomial=5),
    GramEigh(polish=0),
]


def formed(found):
    return found.scale * found.left.double() @ found.right.double()


@pytest.mark.parametrize("method", SPLIT, ids=str)
@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize(
    "shape", [(30, 12), (12, 30), (20, 20), (1, 1), (5, 1), (300, 128)], ids=str
)
@pytest.mark.parametrize("scale", [1.0, 1e-8, 1e8, 1e-25, 1e25])
def test_the_product_is_the_factor_of_polar_to_rounding(method, dtype, shape, scale):
    a = conditioned(shape, 50.0, dtype) * scale
    found = split_factor(a, method)
    if method.converged and dtype == torch.float64:
        assert found is None
        return
    expected = pg.polar(a, method=method)
    eps = torch.finfo(dtype).eps
    assert torch.linalg.matrix_norm(formed(found) - expected.U, 2) < 64 * eps
    # Beside polar's own: both round sums of singular values.
    assert abs(found.inner / float(expected.nuclear_norm) - 1.0) < 32 * eps
    exact = float(torch.linalg.svdvals(a.double()).sum())
    allowed = method.promise(*sorted(shape, reverse=True), dtype).deviation
    assert abs(found.inner / exact - 1.0) <= allowed


def test_eigenvalues_split_a_matrix_of_any_condition():
    """What counts as zero there is zero here; the rest is as orthonormal."""
    a = conditioned((60, 6), 1e9, torch.float32)
    found = split_factor(a, GramEigh(polish=0))
    expected = pg.polar(a, method=GramEigh(polish=0))
    eps = torch.finfo(torch.float32).eps
    assert torch.linalg.matrix_norm(formed(found) - expected.U, 2) < 32 * eps
    assert abs(found.inner / float(torch.linalg.svdvals(a.double()).sum()) - 1.0) < 4 * eps


@pytest.mark.parametrize("method", SPLIT, ids=str)
@pytest.mark.parametrize("value", [0.0, torch.nan, torch.inf])
def test_what_cannot_be_split_is_left_to_polar(method, value):
    a = conditioned((30, 12), 3.0, torch.float32)
    a = (
        torch.zeros_like(a)
        if value == 0.0
        else a.index_put((torch.tensor(3),), torch.tensor(value))
    )
    assert split_factor(a, method) is None


def test_what_splitting_is_not_for_is_left_to_polar():
    a = conditioned((200, 129), 3.0, torch.float32)
    assert split_factor(a, SPLIT[0]) is None
    small = a[:, :20].contiguous()
    assert split_factor(small, SPLIT[0]) is not None
    assert split_factor(small, GramZolotarev(3)) is None
    assert split_factor(small, GramEigh()) is None
    assert split_factor(small, PolarExpress()) is None
    assert split_factor(small.half(), SPLIT[0]) is None
    assert split_factor(small, SPLIT[0], torch.float64) is None


@pytest.mark.parametrize("method", SPLIT, ids=str)
@pytest.mark.parametrize("power", [-100, -80, -31, -3, 5, 33, 80, 120])
def test_a_power_of_two_changes_no_bit_of_the_product(method, power):
    """Also where squares leave the range of float32, and the matrix has to be scaled."""
    a = conditioned((30, 12), 50.0, torch.float32)
    found, other = split_factor(a, method), split_factor(a * 2.0**power, method)
    assert torch.equal(formed(found), formed(other))
    assert other.inner == found.inner * 2.0**power


SMALL = [
    PolarExpress(5, degree=(3, 5, 5, 5, 9), bound="schatten4", cushion=0.0),
    PolarExpress(4, degree=(5, 9, 9, 9), bound="schatten4", cushion=0.0),
    PolarExpress(4, degree=7, bound="schatten4"),
    PolarExpress(6, bound="schatten4", safety=1.0),
]
SMALL_SHAPES = [(20, 20), (30, 12), (12, 30), (1, 1), (5, 1), (3, 30, 12), (2, 12, 30), (4, 9, 9)]


@pytest.mark.parametrize("method", SMALL, ids=str)
@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("shape", SMALL_SHAPES, ids=str)
def test_a_look_at_the_norm_changes_rounding_alone(method, dtype, shape):
    """Against the way of matrices that cannot be looked at, which is that of propagate."""
    a = conditioned(shape, 30.0, dtype)
    quick, general = (
        pg.polar(a, method=method, nonfinite=nonfinite) for nonfinite in ("raise", "propagate")
    )
    assert factor_on_host(a, method) is not None
    torch.testing.assert_close(quick.U, general.U, rtol=0, atol=4000 * torch.finfo(dtype).eps)
    torch.testing.assert_close(quick.H, general.H, rtol=0, atol=4000 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("method", SMALL, ids=str)
@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("shape", [(20, 20), (30, 12), (12, 130), (1, 1)], ids=str)
def test_a_power_of_two_changes_no_bit(method, dtype, shape):
    """Where squares over- or underflow too; small entries lose nothing either."""
    a = conditioned(shape, 900.0, dtype)
    a[0] *= 2.0**-18
    expected = pg.polar(a, method=method)
    limit = 84 if dtype == torch.float32 else 900
    for power in (1, 9, 17, 26, 40, 77, limit):
        for sign in (1, -1):
            scaled = a * 2.0 ** (sign * power)
            found = pg.polar(scaled, method=method)
            assert torch.equal(found.U, expected.U)
            assert torch.equal(pg.polar_factor(scaled, method=method), expected.U)
            assert torch.equal(found.H, expected.H * 2.0 ** (sign * power))


@pytest.mark.parametrize("method", SMALL, ids=str)
def test_matrices_of_a_stack_are_as_if_alone(method):
    scales = torch.tensor([1.0, 1e-6, 1e5, 3.0])[:, None, None]
    stack = conditioned((4, 30, 12), 30.0, torch.float32) * scales
    together = pg.polar_factor(stack, method=method)
    for one, u in zip(stack, together, strict=True):
        alone = pg.polar_factor(one, method=method)
        torch.testing.assert_close(u, alone, rtol=0, atol=4000 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("shape", [(20, 12), (3, 20, 12), (12, 12)], ids=str)
def test_small_matrices_that_are_zero_or_not_finite(shape):
    a = conditioned(shape, 3.0, torch.float32)
    a[..., 1, 2] = torch.nan
    with pytest.raises(NonFiniteError):
        pg.polar_factor(a, method=SMALL[0])
    a[..., 1, 2] = torch.inf
    with pytest.raises(NonFiniteError):
        pg.polar_factor(a, method=SMALL[0])
    zero = torch.zeros(shape)
    assert torch.equal(pg.polar_factor(zero, method=SMALL[0]), zero)
    mixed = torch.stack([zero, conditioned(shape, 3.0, torch.float32)]).reshape(-1, *shape[-2:])
    found = pg.polar_factor(mixed, method=SMALL[0])
    assert not found[: len(found) // 2].any()
    for one, u in zip(mixed[len(found) // 2 :], found[len(found) // 2 :], strict=True):
        torch.testing.assert_close(u, pg.polar_factor(one, method=SMALL[0]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(20, 20), (30, 12), (12, 30), (3, 12, 12)], ids=str)
def test_small_matrices_are_left_alone(shape):
    for a in (
        conditioned(shape, 9.0, torch.float32),
        conditioned(shape, 9.0, torch.float32).mT.contiguous().mT,
        conditioned((*shape[:-1], 2 * shape[-1]), 9.0, torch.float32)[..., ::2],
    ):
        before = a.clone()
        expected = pg.polar_factor(a, method=SMALL[0], nonfinite="propagate")
        found = pg.polar_factor(a, method=SMALL[0])
        assert torch.equal(a, before)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_what_stands_around_fifteen_products():
    """A look at the norm, two sums, and as Muon's quintic has them the products themselves."""
    a = conditioned((40, 40), 9.0, torch.float32)
    with Calls(a.numel()) as calls:
        pg.polar_factor(a, tol=0.11)
    assert calls.all <= 15 + 1 + 1 + 2
