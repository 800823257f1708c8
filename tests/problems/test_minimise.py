"""The truncated Newton method on convex functions whose minimisers are known."""

import math

import pytest
import torch

from polargrad.problems import OptimumError, minimise

EPS = torch.finfo(torch.float64).eps


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def quadratic(H, target, offset=0.0):
    """½⟨x - target, H (x - target)⟩ + offset, with its derivatives, over columns."""
    return (
        lambda x: 0.5 * ((x - target) * (H @ (x - target))).sum() + offset,
        lambda x: H @ (x - target),
        lambda x: lambda v: H @ v,
    )


def entrywise(f, slope, curvature):
    """A sum over entries, with its derivatives."""
    return lambda x: f(x).sum(), slope, lambda x: lambda v: curvature(x) * v


def ill_conditioned(n, kappa):
    Q = torch.linalg.qr(normal(n, n)).Q
    return (Q * torch.logspace(0, -math.log10(kappa), n, dtype=torch.float64)) @ Q.mT


@pytest.mark.parametrize("kappa", [1.0, 1e4, 1e8])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_finds_the_minimiser_of_a_quadratic(kappa, offset):
    H, target = ill_conditioned(20, kappa), normal(20, 1, seed=1)
    minimum = minimise(*quadratic(H, target, offset), normal(20, 1, seed=2))
    gap = 0.5 * ((minimum.point - target) * (H @ (minimum.point - target))).sum()
    assert gap <= EPS * (1.0 + offset)
    assert minimum.value == pytest.approx(offset, abs=10 * EPS * (1.0 + offset))


def test_a_preconditioner_that_is_the_inverse_needs_one_product_a_step():
    H, target = ill_conditioned(20, 1e8), normal(20, 1, seed=1)
    inverse = torch.linalg.inv(H)
    start = torch.zeros(20, 1, dtype=torch.float64)
    minimum = minimise(*quadratic(H, target), start, precondition=lambda g: inverse @ g)
    assert minimum.products == minimum.steps <= 3
    torch.testing.assert_close(minimum.point, target, rtol=1e-6, atol=1e-6)


def test_finds_the_minimiser_of_a_curved_function():
    """Σ eˣ - a x has its minimum at log a, with value Σ a - a log a."""
    a = normal(4, 3).exp()
    functions = entrywise(lambda x: x.exp() - a * x, lambda x: x.exp() - a, lambda x: x.exp())
    minimum = minimise(*functions, torch.full((4, 3), 3.0, dtype=torch.float64))
    torch.testing.assert_close(minimum.point, a.log(), rtol=1e-12, atol=1e-12)
    assert minimum.value == pytest.approx((a - a * a.log()).sum().item(), rel=1e-14)


def test_certifies_with_the_gradient_where_it_ends():
    a = normal(4, 3).exp()
    functions = entrywise(lambda x: x.exp() - a * x, lambda x: x.exp() - a, lambda x: x.exp())
    minimum = minimise(*functions, torch.zeros(4, 3, dtype=torch.float64))
    assert minimum.gradient_norm == float(functions[1](minimum.point).norm())
    assert minimum.gradient_norm <= 1e-12
    assert 0.0 <= 0.5 * minimum.decrement <= EPS * a.numel() * float(a.max())


def test_shortens_the_step_where_a_full_one_goes_astray():
    """Newton's full step on √(1 + x²) sends x to -x³: from 3 it diverges."""
    functions = entrywise(
        lambda x: (1 + x.square()).sqrt(),
        lambda x: x / (1 + x.square()).sqrt(),
        lambda x: (1 + x.square()) ** -1.5,
    )
    minimum = minimise(*functions, torch.full((1, 1), 3.0, dtype=torch.float64))
    assert abs(minimum.point.item()) < 1e-7
    assert minimum.value == 1.0


def test_leaves_directions_alone_in_which_the_function_is_constant():
    H = torch.diag(torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64))
    target, start = torch.ones(3, 1, dtype=torch.float64), normal(3, 1)
    minimum = minimise(*quadratic(H, target), start)
    torch.testing.assert_close(minimum.point[:2], target[:2], rtol=1e-7, atol=1e-7)
    assert minimum.point[2] == start[2]


def test_ends_at_once_where_the_gradient_is_zero():
    start = normal(3, 1)
    minimum = minimise(*quadratic(torch.eye(3, dtype=torch.float64), start), start)
    assert (minimum.steps, minimum.products, minimum.gradient_norm) == (0, 0, 0.0)
    assert torch.equal(minimum.point, start)


def test_an_infimum_that_is_not_attained_is_an_error():
    functions = entrywise(lambda x: (-x).exp(), lambda x: -(-x).exp(), lambda x: (-x).exp())
    with pytest.raises(OptimumError, match="no minimum within 50 Newton steps"):
        minimise(*functions, torch.zeros(2, 1, dtype=torch.float64), max_steps=50)


def test_an_infimum_not_attained_in_one_direction_only_is_an_error():
    """e⁻ˣ + (y - 1)² + 1: the value settles at 1 to all digits, and x goes on."""
    scale = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    functions = entrywise(
        lambda x: scale * (-x).exp() + (1 - scale) * ((x - 1).square() + 1),
        lambda x: -scale * (-x).exp() + 2 * (1 - scale) * (x - 1),
        lambda x: scale * (-x).exp() + 2 * (1 - scale),
    )
    with pytest.raises(OptimumError, match="Perhaps the infimum is not attained"):
        minimise(*functions, torch.zeros(2, 1, dtype=torch.float64))


def test_a_wrong_gradient_is_an_error():
    f, slope, hessian = quadratic(torch.eye(3, dtype=torch.float64), normal(3, 1))
    with pytest.raises(OptimumError, match="no step along the Newton direction decreases f"):
        minimise(f, lambda x: -slope(x), hessian, torch.zeros(3, 1, dtype=torch.float64))


def test_refuses_single_precision():
    functions = quadratic(torch.eye(3), torch.ones(3, 1))
    with pytest.raises(ValueError, match=r"start must be float64, got torch.float32"):
        minimise(*functions, torch.zeros(3, 1))


def test_refuses_a_start_where_the_function_is_not_finite():
    functions = quadratic(torch.eye(3, dtype=torch.float64), torch.ones(3, 1).double())
    with pytest.raises(ValueError, match="finite at start, got f = nan"):
        minimise(*functions, torch.full((3, 1), math.nan, dtype=torch.float64))


def test_refuses_no_steps():
    functions = quadratic(torch.eye(3, dtype=torch.float64), torch.ones(3, 1).double())
    with pytest.raises(ValueError, match="max_steps must be at least 1, got 0"):
        minimise(*functions, torch.zeros(3, 1, dtype=torch.float64), max_steps=0)
