"""Derivatives of the polar factor: against finite differences, loops, and what has none."""

import warnings

import pytest
import torch
from matrices import conditioned, double, with_singular_values
from torch.autograd import gradcheck, gradgradcheck

import polargrad as pg
from polargrad.errors import RankDeficiencyWarning
from polargrad.linalg import (
    QDWH,
    SVD,
    GramEigh,
    GramZolotarev,
    NewtonSchulz,
    PolarExpress,
    Zolotarev,
)
from polargrad.linalg.derivative import factor_derivative

EXACT = ["auto", "svd", "qdwh", "mixed_qdwh", "newton", "zolotarev", GramEigh()]
INEXACT = [NewtonSchulz(), PolarExpress(steps=3), QDWH(steps=2), GramZolotarev(3)]
INEXACT += [GramZolotarev(2, polynomial=5)]
FIXED = [SVD(), GramEigh(), NewtonSchulz(), PolarExpress(), Zolotarev(iterations=2)]
FIXED += [GramZolotarev(), GramZolotarev(1, polynomial=9)]
SHAPES = [(5, 3), (3, 5), (4, 4), (2, 3, 2), (1, 4), (4, 1)]


# Forward mode in torch itself goes through TorchScript, which is deprecated there.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")


@pytest.fixture(autouse=True)
def _forget_what_was_compiled():
    torch.compiler.reset()


@pytest.mark.parametrize("method", EXACT + INEXACT, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_first_derivatives(method, shape, dtype):
    a = conditioned(shape, 5.0, dtype).requires_grad_()
    assert gradcheck(lambda x: pg.polar_factor(x, method=method), a)


@pytest.mark.parametrize("method", EXACT, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_second_derivatives(method, shape, dtype):
    a = conditioned(shape, 5.0, dtype).requires_grad_()
    assert gradgradcheck(lambda x: pg.polar_factor(x, method=method), a)


@pytest.mark.parametrize("method", ["svd", "qdwh", GramEigh()], ids=str)
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (2, 4, 4)], ids=str)
def test_forward_mode(method, shape):
    a = conditioned(shape, 5.0).requires_grad_()
    assert gradcheck(
        lambda x: pg.polar_factor(x, method=method),
        a,
        check_forward_ad=True,
        check_backward_ad=False,
    )


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)], ids=str)
def test_the_hermitian_factor_and_the_nuclear_norm(side, shape):
    def hermitian(x):
        return pg.polar(x, side=side).H

    def norm(x):
        return pg.polar(x).nuclear_norm

    a = conditioned(shape, 5.0).requires_grad_()
    assert gradcheck(hermitian, a)
    assert gradcheck(norm, a)
    # The nuclear norm's gradient is the polar factor.
    (gradient,) = torch.autograd.grad(norm(a), a)
    assert torch.allclose(gradient, pg.polar_factor(a), atol=1e-12)


def test_equal_singular_values_have_derivatives():
    """Where a singular value decomposition has none: at an orthogonal matrix."""
    q = conditioned((4, 4), 1.0).requires_grad_()
    assert gradcheck(pg.polar_factor, q)
    assert gradgradcheck(pg.polar_factor, q)


@pytest.mark.parametrize("scale", [1e-20, 1e20])
def test_derivatives_scale_as_the_inverse(scale):
    a = conditioned((5, 3), 5.0)
    e = conditioned((5, 3), 2.0, seed=1)

    def derivative(x):
        return torch.func.jvp(pg.polar_factor, (x,), (e,))[1]

    assert torch.allclose(derivative(scale * a) * scale, derivative(a), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_gradients_have_the_dtype_of_the_matrix(dtype):
    a = conditioned((6, 4), 3.0, dtype).requires_grad_()
    (gradient,) = torch.autograd.grad(pg.polar_factor(a).abs().square().sum(), a)
    assert gradient.dtype == dtype
    # ‖U‖²_F = n does not change with A.
    assert gradient.abs().max() <= 20 * torch.finfo(dtype).eps


def test_the_formula_is_symmetric():
    x, e, f = (conditioned((7, 4), 3.0, seed=seed) for seed in range(3))
    u = pg.polar_factor(x)
    one = (factor_derivative(x, u, e) * f).sum()
    other = (factor_derivative(x, u, f) * e).sum()
    assert torch.allclose(one, other, atol=1e-13)


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)], ids=str)
@pytest.mark.parametrize("method", ["svd", "qdwh", "newton"])
def test_rank_deficiency_is_finite_and_flagged(method, shape):
    sigma = torch.zeros(min(shape), dtype=torch.float64)
    sigma[:2] = torch.tensor([1.0, 0.5])
    a = with_singular_values(shape, sigma).requires_grad_()
    u = pg.polar_factor(a, method=method)
    with pytest.warns(RankDeficiencyWarning, match="1 of 1 matrices are singular to rounding"):
        (gradient,) = torch.autograd.grad(u.square().sum() + u.sum(), a)
    assert gradient.isfinite().all()
    assert gradient.abs().max() <= 100.0
    zero = torch.zeros(shape, requires_grad=True)
    with pytest.warns(RankDeficiencyWarning):
        pg.polar_factor(zero).sum().backward()
    assert torch.equal(zero.grad, torch.zeros(shape))


@pytest.mark.parametrize("method", [GramZolotarev(), PolarExpress(), "auto"], ids=str)
@pytest.mark.parametrize("shape", [(600, 130), (520, 520)], ids=str)
def test_large_matrices_too(method, shape):
    """Where products go in blocks that write in place: the derivative along one direction."""
    a = conditioned(shape, 10.0).requires_grad_()
    e = conditioned(shape, 3.0, seed=1)
    weight = conditioned(shape, 3.0, seed=2)
    (gradient,) = torch.autograd.grad((pg.polar_factor(a, method=method) * weight).sum(), a)
    step = 1e-5

    def value(x):
        return (pg.polar_factor(x, method=method) * weight).sum()

    with torch.no_grad():
        expected = (value(a + step * e) - value(a - step * e)) / (2 * step)
    assert abs((gradient * e).sum() - expected) <= 1e-4 * max(1.0, abs(expected))


class TestTransforms:
    """torch.func.vmap, torch.compile and torch.export."""

    @pytest.mark.parametrize("method", [*FIXED, "auto", "newton", "mixed_qdwh"], ids=str)
    @pytest.mark.parametrize("shape", [(6, 7, 4), (3, 5, 5), (2, 3, 4, 6)], ids=str)
    def test_vmap_is_a_loop(self, method, shape):
        a = conditioned(shape, 10.0, torch.float64)

        def factor(x):
            return pg.polar_factor(x, method=method)

        expected = torch.stack([factor(x) for x in a])
        torch.testing.assert_close(torch.func.vmap(factor)(a), expected, rtol=0, atol=1e-12)
        moved = torch.func.vmap(factor, in_dims=1)(a.movedim(0, 1))
        torch.testing.assert_close(moved, expected, rtol=0, atol=1e-12)

    def test_a_jacobian_through_vmap(self):
        a = conditioned((4, 3), 5.0)
        forward = torch.func.jacfwd(pg.polar_factor)(a)
        reverse = torch.func.jacrev(pg.polar_factor)(a)
        torch.testing.assert_close(forward, reverse, rtol=0, atol=1e-10)

    def test_per_sample_gradients(self):
        a = conditioned((5, 6, 4), 5.0)
        weight = conditioned((6, 4), 3.0, seed=1)

        def loss(x):
            return (pg.polar_factor(x) * weight).sum()

        expected = torch.stack([torch.func.grad(loss)(x) for x in a])
        torch.testing.assert_close(
            torch.func.vmap(torch.func.grad(loss))(a), expected, rtol=0, atol=1e-11
        )

    def test_under_vmap_a_bad_matrix_is_nan_alone(self):
        a = conditioned((3, 5, 4), 5.0)
        a[1, 0, 0] = torch.inf
        u = torch.func.vmap(pg.polar_factor)(a)
        assert u[1].isnan().all()
        assert torch.allclose(u[[0, 2]], pg.polar_factor(a[[0, 2]]), atol=1e-12)

    @pytest.mark.parametrize("method", [*FIXED, "auto", "svd", "gram_eigh"], ids=str)
    @pytest.mark.parametrize("shape", [(6, 4), (4, 6), (3, 5, 5)], ids=str)
    def test_compiled_whole(self, method, shape):
        def factor(x):
            return pg.polar_factor(x, method=method)

        a = conditioned(shape, 10.0, torch.float32)
        compiled = torch.compile(factor, fullgraph=True, backend="eager")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the compiler itself deprecates
            result = compiled(a)
        torch.testing.assert_close(result, factor(a), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("tol", [None, 0.11])
    @pytest.mark.parametrize("shape", [(30, 20), (400, 40), (60, 60)], ids=str)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_what_is_planned_compiles_whole(self, tol, shape, dtype):
        a = conditioned(shape, 10.0, dtype)
        compiled = torch.compile(
            lambda x: pg.polar_factor(x, tol=tol), fullgraph=True, backend="eager"
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = compiled(a)
        assert (result - pg.polar_factor(a, tol=tol)).abs().max() <= 1e-5

    @pytest.mark.parametrize("method", FIXED, ids=str)
    def test_exported(self, method):
        class Module(torch.nn.Module):
            def forward(self, x):
                return pg.polar_factor(x, method=method)

        a = conditioned((6, 4), 10.0, torch.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(Module(), (a,))
            result = program.module()(a)
        torch.testing.assert_close(result, Module()(a), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("method", ["newton", "mixed_qdwh", "qdwh", GramEigh(polish=None)])
    def test_adaptive_methods_refuse_with_a_message(self, method):
        compiled = torch.compile(
            lambda x: pg.polar_factor(x, method=method), fullgraph=True, backend="eager"
        )
        with pytest.raises(RuntimeError, match=r"looks at values.*fixed budget"):
            compiled(conditioned((6, 4), 10.0, torch.float32))


def test_a_frozen_matrix_costs_no_graph():
    a = conditioned((5, 3), 2.0)
    assert pg.polar_factor(a).grad_fn is None
    with torch.no_grad():
        assert pg.polar_factor(a.requires_grad_()).grad_fn is None


def test_derivatives_near_equal_singular_values_agree_with_the_exact_ones():
    """In float32 the formula is worked on in float64: no loss next to a multiple value."""
    a = conditioned((6, 6), 1.0001, torch.float32)
    e = conditioned((6, 6), 2.0, torch.float32, seed=1)
    single = torch.func.jvp(pg.polar_factor, (a,), (e,))[1]
    exact = torch.func.jvp(pg.polar_factor, (double(a),), (double(e),))[1]
    assert (double(single) - exact).abs().max() <= 1e-5
