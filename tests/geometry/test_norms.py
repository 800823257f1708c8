"""A unit direction maximises ⟨S, D⟩ over the unit ball, and the maximum is the dual norm."""

import pytest
import torch
from matrices import conditioned, polar_oracle

from polargrad.geometry import Spectral
from polargrad.linalg import QDWH, SVD, NewtonSchulz, PolarExpress

SHAPES = [(4, 4), (7, 3), (3, 7), (1, 5), (5, 1), (2, 3, 6, 4)]
EXACT = [SVD(), QDWH()]


def spectral_norm(x):
    return torch.linalg.matrix_norm(x, 2)


def inner(x, y):
    return (x * y).sum(dim=(-2, -1))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("method", EXACT, ids=lambda m: m.name)
class TestSpectral:
    """The spectral norm, with exact factors."""

    def test_the_direction_is_the_polar_factor(self, shape, method):
        s = conditioned(shape, 100.0)
        direction, dual_norm = Spectral(method).ascent(s)
        torch.testing.assert_close(direction, polar_oracle(s), rtol=0, atol=1e-12)
        assert dual_norm.shape == s.shape[:-2]

    def test_the_dual_norm_is_attained_inside_the_ball(self, shape, method):
        s = conditioned(shape, 100.0)
        direction, dual_norm = Spectral(method).ascent(s)
        torch.testing.assert_close(inner(s, direction), dual_norm)
        torch.testing.assert_close(dual_norm, torch.linalg.svdvals(s).sum(-1))
        assert (spectral_norm(direction) <= 1 + 1e-12).all()

    def test_nothing_else_in_the_ball_reaches_further(self, shape, method):
        s = conditioned(shape, 100.0)
        _, dual_norm = Spectral(method).ascent(s)
        for seed in range(50):
            other = torch.randn(s.shape, generator=torch.Generator().manual_seed(seed))
            other = other.double() / spectral_norm(other.double())[..., None, None]
            assert (inner(s, other) <= dual_norm * (1 + 1e-12)).all()

    def test_each_matrix_of_a_stack_has_its_own_norm(self, shape, method):
        """The factor of c₁S₁, c₂S₂ is that of S₁, S₂; the norms are multiplied apart."""
        s = torch.stack([conditioned(shape, 10.0, seed=k) for k in range(3)])
        c = torch.tensor([1e-6, 1.0, 1e6], dtype=torch.float64)
        together = Spectral(method).ascent(s * c.reshape(3, *[1] * (s.ndim - 1)))
        for k in range(3):
            alone = Spectral(method).ascent(s[k])
            torch.testing.assert_close(together.direction[k], alone.direction)
            torch.testing.assert_close(together.dual_norm[k], alone.dual_norm * c[k])


@pytest.mark.parametrize("method", [SVD(), QDWH(), NewtonSchulz(), PolarExpress()], ids=str)
def test_zero_has_no_direction(method):
    direction, dual_norm = Spectral(method).ascent(torch.zeros(2, 4, 3))
    assert not direction.any()
    assert not dual_norm.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_comes_out_in_float32(dtype):
    s = conditioned((6, 4), 10.0, torch.float32).to(dtype)
    direction, dual_norm = Spectral().ascent(s)
    assert direction.dtype == dual_norm.dtype == torch.float32
    torch.testing.assert_close(direction, polar_oracle(s.float()).float(), rtol=0, atol=1e-5)


def test_a_matrix_that_is_not_finite_gives_nan_and_leaves_its_neighbours():
    s = torch.stack([torch.eye(3), torch.eye(3), torch.eye(3)])
    s[1, 0, 2] = float("inf")
    direction, dual_norm = Spectral().ascent(s)
    assert direction[1].isnan().all()
    assert dual_norm[1].isnan()
    torch.testing.assert_close(direction[[0, 2]], s[[0, 2]])


def test_an_inexact_method_gives_what_it_computes():
    """⟨S, D⟩ with the direction at hand, not the exact nuclear norm."""
    s = conditioned((30, 20), 1e3)
    direction, dual_norm = Spectral(NewtonSchulz()).ascent(s)
    torch.testing.assert_close(inner(s, direction), dual_norm)
    assert abs(dual_norm / torch.linalg.svdvals(s).sum() - 1) > 0.01


def test_the_dtype_of_the_products_is_used():
    s = conditioned((6, 4), 10.0, torch.float32)
    fine = Spectral(NewtonSchulz()).ascent(s).direction
    coarse = Spectral(NewtonSchulz(), torch.bfloat16).ascent(s).direction
    assert torch.equal(coarse, coarse.bfloat16().float())
    assert not torch.equal(fine, fine.bfloat16().float())
