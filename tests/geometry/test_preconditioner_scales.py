"""Preconditioners whose gradients are of any size that float32 holds: degrees, and no overflow."""

import pytest
import torch
from matrices import conditioned, eps, polar_oracle
from preconditioner_equations import CASES, EMA, accumulated, gauss, gradients, hessian_factors

from polargrad.geometry import (
    Diagonal,
    GivenHessian,
    Kronecker,
    OneSidedKronecker,
    RotatedDiagonal,
)

FREE_OF_UNITS = [
    Diagonal(eps=0.0),
    Diagonal(beta2=0.9, eps=0.0, bias_correction=False),
    Kronecker(),
    Kronecker(damping=0.0),
    Kronecker(beta=EMA),
    OneSidedKronecker(),
    OneSidedKronecker("right", beta=EMA, damping=0.0),
    RotatedDiagonal(eps=0.0, refresh=2),
]


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e15, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("geometry", FREE_OF_UNITS, ids=str)
def test_accumulated_preconditioners_have_degree_zero(geometry, dtype, scale):
    """Gradients c times as large: D is c^(-½) times as large, the dual norm c^½ times, P⁻¹S equal.

    What is off is the rounding of the gradients, blown up by the condition of P.
    """
    sequence = gradients((2, 5, 5))
    # Rounded once, then scaled and rounded again: the same gradients but for that.
    sequence = [g.to(dtype) for g in sequence]
    scaled = [(g.double() * scale).to(dtype) for g in sequence]
    one = geometry.ascent(sequence[-1], accumulated(geometry, sequence))
    other = geometry.ascent(scaled[-1], accumulated(geometry, scaled))
    close = {"rtol": 0.0, "atol": 1e3 * eps(dtype)}
    torch.testing.assert_close(other.direction * scale**0.5, one.direction, **close)
    torch.testing.assert_close(other.dual_norm / scale**0.5, one.dual_norm, **close)
    step = one.direction * one.dual_norm[:, None, None]
    torch.testing.assert_close(other.direction * other.dual_norm[:, None, None], step, **close)


@pytest.mark.parametrize("power", [-148, -74, 74, 124])
@pytest.mark.parametrize("geometry", FREE_OF_UNITS, ids=str)
def test_the_degree_holds_to_the_ends_of_float32(geometry, power):
    """Whole numbers times 2^-148, of which half are subnormal, or 2^124: scaled without rounding.

    All that the unit can change is the last bit of a power in float64.
    """
    sequence = [(4 * g).round() for g in gradients((2, 5, 5), dtype=torch.float32)]
    scaled = [(g.double() * 2.0**power).float() for g in sequence]
    for g, c in zip(sequence, scaled, strict=True):
        assert torch.equal(g.double() * 2.0**power, c.double())
    one = geometry.ascent(sequence[-1], accumulated(geometry, sequence))
    other = geometry.ascent(scaled[-1], accumulated(geometry, scaled))
    close = {"rtol": 2 * eps(torch.float32), "atol": 0.0}
    half = 2.0 ** (power // 2)
    torch.testing.assert_close(other.direction * half, one.direction, **close)
    torch.testing.assert_close(other.dual_norm / half, one.dual_norm, **close)


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e15, 1e30])
@pytest.mark.parametrize("name", CASES)
def test_float32_gradients_of_any_size_give_the_step_of_the_equations(name, scale):
    """Also with Adam's ε = 1e-8, beside gradients of 1e-30: the step is small, and finite."""
    build, oracle = CASES[name]
    geometry = build(5, 4)
    sequence = [g * scale for g in gradients((2, 5, 4), 8, torch.float32)]
    s = gauss((2, 5, 4), 99, torch.float32) * scale
    found = geometry.sharp(s, accumulated(geometry, sequence))
    for k in range(2):
        expected = oracle(s[k].double(), [g[k].double() for g in sequence])
        assert (found[k] - expected).abs().max() <= 100 * eps(s.dtype) * expected.abs().max()


@pytest.mark.parametrize("build", [Diagonal, RotatedDiagonal])
def test_what_an_absolute_eps_means(build):
    """Far above the gradients the step is S/ε, of degree 1; far below them ε is not seen."""
    s = gauss((2, 5, 5), 99, torch.float32)
    small, large = ([g * c for g in gradients(s.shape, 6, s.dtype)] for c in (1e-30, 1e30))
    geometry, free = build(eps=1e-8), build(eps=0.0)
    found = geometry.sharp(s * 1e-30, accumulated(geometry, small))
    torch.testing.assert_close(found, s * 1e-22, rtol=1e-5, atol=1e-28)
    found = geometry.sharp(s * 1e30, accumulated(geometry, large))
    assert torch.equal(found, free.sharp(s * 1e30, accumulated(free, large)))


@pytest.mark.parametrize("geometry", FREE_OF_UNITS, ids=str)
def test_a_history_of_very_different_sizes_is_finite(geometry):
    """From 1e30 to 1e-30 and back, with a zero gradient between."""
    sequence = gradients((2, 5, 4), 9, torch.float32)
    sizes = [1e30, 1e-30, 0.0, 1e-40, 1.0, 1e38, 1e-30, 1e-15, 1e30]
    state = geometry.start(sequence[0])
    for g, size in zip(sequence, sizes, strict=True):
        g = (g / g.abs().max()) * size
        state = geometry.accumulate(state, g)
        assert all(value.isfinite().all() for value in state.values())
        direction, dual_norm = geometry.ascent(g, state)
        assert direction.isfinite().all()
        assert dual_norm.isfinite().all()
        size = geometry.norm(direction, state)
        expected = direction.flatten(1).any(1).float()
        torch.testing.assert_close(size, expected, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize(
    "geometry",
    [
        Kronecker(damping=0.0),
        OneSidedKronecker("left", damping=0.0),
        OneSidedKronecker("right", damping=0.0),
    ],
    ids=str,
)
def test_undamped_factors_tell_the_digits_of_a_float32_gradient_from_its_rounding(geometry, scale):
    """A singular value of 1e-4 σ₁ is stepped along; what rounding left of a zero one is not."""
    small = conditioned((1, 6, 5), 1e4, torch.float32) * scale
    found = geometry.sharp(small, accumulated(geometry, [small]))
    assert (found - polar_oracle(small)).abs().max() <= 1e-5
    deficient = (gauss((1, 6, 2), 1) @ gauss((1, 2, 5), 2)).float() * scale
    ranks = torch.linalg.svdvals(deficient.double())
    assert (ranks[..., 2] > 1e-9 * ranks[..., 0]).all()  # of full rank by rounding alone
    found = geometry.sharp(deficient, accumulated(geometry, [deficient]))
    assert (found - polar_oracle(deficient, 1e-6)).abs().max() <= 1e-5


@pytest.mark.parametrize("c", [1e-60, 1e60])
def test_newton_does_not_depend_on_how_a_hessian_is_shared_between_its_factors(c):
    """PX = (cA) X (B/c), with factors that float32 does not hold."""
    a, b = hessian_factors(5, 4)
    s = gauss((2, 5, 4), 99, torch.float32)
    one, other = GivenHessian(a, b), GivenHessian(c * a, b / c)
    close = {"rtol": 4 * eps(s.dtype), "atol": 0.0}
    torch.testing.assert_close(other.sharp(s), one.sharp(s), **close)
    torch.testing.assert_close(other.norm(s), one.norm(s), **close)
