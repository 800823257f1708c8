"""The spectral norm's options: the method, the side, the damping and the corrected norm."""

import pytest
import torch
from matrices import conditioned, eps, polar_oracle, with_singular_values

from polargrad.geometry import Spectral
from polargrad.linalg import QDWH, SVD, NewtonSchulz, PolarExpress

SHAPES = [(1, 1), (1, 5), (5, 1), (7, 3), (3, 7), (4, 4), (2, 6, 4), (2, 2, 3, 5)]
SIDES = [None, "left", "right"]


def inner(x, y):
    return (x * y).sum(dim=(-2, -1))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("method", [SVD(), QDWH()], ids=lambda m: m.name)
def test_the_direction_is_the_polar_factor(shape, method):
    s = conditioned(shape, 100.0)
    found = Spectral(method).ascent(s).direction
    torch.testing.assert_close(found, polar_oracle(s), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("side", SIDES[1:])
@pytest.mark.parametrize("condition", [1.0, 1e2, 1e5])
def test_either_side_is_the_polar_factor(shape, side, condition):
    """Of a float32 matrix at every condition number: its Gram matrix is taken in float64."""
    s = conditioned(shape, condition, torch.float32)
    found = Spectral(side=side).ascent(s).direction
    k = min(shape[-2:])
    assert (found - polar_oracle(s)).abs().max() <= 40 * k * eps(torch.float32)


@pytest.mark.parametrize("side", SIDES[1:])
def test_a_side_in_float64_loses_what_the_gram_matrix_squares(side):
    s = conditioned((8, 6), 1e3)
    found = Spectral(side=side).ascent(s).direction
    assert (found - polar_oracle(s)).abs().max() <= 1e3**2 * 5 * eps(torch.float64)


@pytest.mark.parametrize("method", [SVD(), QDWH(), NewtonSchulz(), PolarExpress()], ids=str)
def test_zero_has_no_direction(method):
    direction, dual_norm = Spectral(method).ascent(torch.zeros(2, 4, 3))
    assert not direction.any()
    assert not dual_norm.any()


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


def damped_oracle(s, damping):
    """Each singular value σ replaced by σ/√(σ² + δ² mean σ²)."""
    u, sigma, vh = torch.linalg.svd(s, full_matrices=False)
    mean = sigma.square().mean(-1, keepdim=True)
    return (u * (sigma / (sigma.square() + damping**2 * mean).sqrt()).unsqueeze(-2)) @ vh


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("damping", [1e-3, 0.1, 3.0])
def test_damping_replaces_each_singular_value(shape, side, damping):
    s = conditioned(shape, 100.0)
    direction, dual_norm = Spectral(side=side, damping=damping).ascent(s)
    expected = damped_oracle(s, damping)
    assert (direction - expected).abs().max() <= 1e-9
    torch.testing.assert_close(dual_norm, inner(s, expected))
    assert (torch.linalg.matrix_norm(direction, 2) < 1.0).all()
    assert (dual_norm < torch.linalg.svdvals(s).sum(-1)).all()


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e30])
def test_damping_is_relative(side, scale):
    """An absolute eps would leave nothing of a gradient of 1e-30."""
    geometry = Spectral(side=side, damping=0.1)
    s = conditioned((2, 6, 4), 10.0, torch.float32)
    one, other = geometry.ascent(s), geometry.ascent(s * scale)
    assert (one.direction - other.direction).abs().max() <= 40 * eps(s.dtype)
    torch.testing.assert_close(other.dual_norm, one.dual_norm * scale, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("rank", [0, 1, 3])
def test_damping_a_singular_matrix(side, rank):
    """Directions that are zero stay zero, though they are damped like the others."""
    sigma = torch.zeros(4, dtype=torch.float64)
    sigma[:rank] = 1.0
    s = with_singular_values((2, 6, 4), sigma)
    direction = Spectral(side=side, damping=0.5).ascent(s).direction
    mean = rank / 4
    expected = polar_oracle(s, 1e-8) / (1 + 0.25 * mean) ** 0.5 if rank else torch.zeros_like(s)
    assert (direction - expected).abs().max() <= 1e-7


def factor_with(method, s):
    """What the method makes of s, and how far its singular values are from 1."""
    u = Spectral(method).ascent(s).direction
    return u, (torch.linalg.svdvals(u) - 1.0).abs().max().item()


@pytest.mark.parametrize("shape", [(12, 8), (8, 12), (3, 10, 10)], ids=str)
@pytest.mark.parametrize("steps", [7, 8, 9, 10])
def test_the_corrected_norm_is_off_by_the_square(shape, steps):
    """Singular values of the factor off by δ: the norm off by δ before, by 3/2 δ² after."""
    s = conditioned(shape, 10.0)
    exact = torch.linalg.svdvals(s).sum(-1)
    u, delta = factor_with(NewtonSchulz(steps=steps), s)
    assert 1e-12 < delta < 0.5  # not converged: there is something to correct
    direction, corrected = Spectral(NewtonSchulz(steps=steps), correct=True).ascent(s)
    assert torch.equal(direction, u)  # of the norm alone
    error = (corrected / exact - 1.0).abs().max()
    assert error <= 1.5 * delta**2 + 0.5 * delta**3 + 20 * eps(s.dtype)


def test_the_corrected_norm_is_that_of_one_newton_schulz_step():
    s = conditioned((2, 12, 8), 300.0)
    u, _ = factor_with(PolarExpress(), s)
    step = 0.5 * u @ (3.0 * torch.eye(8, dtype=s.dtype) - u.mT @ u)
    found = Spectral(PolarExpress(), correct=True).ascent(s).dual_norm
    torch.testing.assert_close(found, inner(s, step), rtol=1e-13, atol=0.0)


def test_the_corrected_norm_of_a_converged_factor_is_the_same():
    s = conditioned((2, 12, 8), 300.0, torch.float32)
    for geometry in (Spectral(correct=True), Spectral(side="right", correct=True)):
        exact = torch.linalg.svdvals(s.double()).sum(-1)
        assert (geometry.ascent(s).dual_norm / exact - 1).abs().max() <= 10 * eps(torch.float32)


def test_with_polar_inserts_the_method_where_one_is_used():
    bare = Spectral(correct=True)
    assert bare.uses_polar
    chosen = bare.with_polar(NewtonSchulz(steps=3), torch.bfloat16)
    assert chosen == Spectral(NewtonSchulz(steps=3), torch.bfloat16, correct=True)
    for geometry in (Spectral(side="left"), Spectral(damping=0.1)):
        assert not geometry.uses_polar
        assert geometry.with_polar(NewtonSchulz(), None) is geometry


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"side": "top"}, ValueError, "side must be None, 'left' or 'right', got 'top'"),
        ({"damping": -0.1}, ValueError, "damping must be at least 0 and finite, got -0.1"),
        ({"damping": float("nan")}, ValueError, "damping must be at least 0 .*got nan"),
        ({"damping": "0.1"}, TypeError, "damping must be a number, got '0.1'"),
        ({"correct": 1}, TypeError, "correct must be True or False, got 1"),
        ({"correct": True, "damping": 0.1}, ValueError, "undamped factor, .*damping=0.1"),
    ],
)
def test_refuses(options, error, message):
    with pytest.raises(error, match=message):
        Spectral(**options)
