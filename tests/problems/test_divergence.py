"""The divergence of the softplus against its integral, which has no cancellation."""

import pytest
import torch

from polargrad.problems.divergence import softplus_divergence

# Nodes and weights of Gauss and Legendre on [0, 1], 40 of them: exact to degree 79.
BETA = torch.arange(1.0, 40.0, dtype=torch.float64)
BETA = BETA / (4 * BETA.square() - 1).sqrt()
NODES, VECTORS = torch.linalg.eigh(torch.diag(BETA, 1) + torch.diag(BETA, -1))
NODES, WEIGHTS = (NODES + 1) / 2, VECTORS[0].square()


def integral(v, delta):
    """δ² ∫₀¹ (1 - t) φ''(v + t δ) dt, where every term is positive."""
    z = v.unsqueeze(-1) + NODES * delta.unsqueeze(-1)
    return delta.square() * (WEIGHTS * (1 - NODES) * torch.sigmoid(z) * torch.sigmoid(-z)).sum(-1)


@pytest.mark.parametrize("size", [1e-140, 1e-12, 1e-6, 1.9e-3, 2.1e-3, 0.1, 1.0, 5.0])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_is_the_integral_of_the_second_derivative(size, sign):
    v = torch.linspace(-40.0, 40.0, 81, dtype=torch.float64)
    delta = torch.full_like(v, sign * size)
    expected = integral(v, delta)
    torch.testing.assert_close(softplus_divergence(v, delta), expected, rtol=2e-12, atol=0.0)


def test_of_a_long_way_is_the_difference_of_the_values():
    v = torch.tensor([-3.0, 0.0, 3.0], dtype=torch.float64)
    for delta in (-1e4, -50.0, 50.0, 1e4):
        end = v + delta
        expected = end.clamp(min=0.0) - (1 + v.exp()).log() - torch.sigmoid(v) * delta
        divergence = softplus_divergence(v, torch.full_like(v, delta))
        torch.testing.assert_close(divergence, expected, rtol=1e-12, atol=1e-12)


def test_is_zero_where_nothing_changes_and_positive_elsewhere():
    v = torch.linspace(-40.0, 40.0, 81, dtype=torch.float64)
    assert (softplus_divergence(v, torch.zeros_like(v)) == 0).all()
    for delta in (-30.0, -1e-9, 1e-9, 30.0):
        assert (softplus_divergence(v, torch.full_like(v, delta)) > 0).all()
