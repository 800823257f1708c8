"""How far a step goes."""

import itertools
import math

import pytest
import torch

from polargrad.geometry import MAGNITUDES, Spectral, magnitude

SHAPES = list(itertools.product((1, 3, 8, 50), repeat=2))
OF_SHAPE = ("unit", "original", "match_rms_adamw", "spectral_unclamped", "largest_dimension")


def test_these_are_the_kinds():
    assert set(OF_SHAPE) | {"dual_norm"} <= set(MAGNITUDES)


@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_the_dual_norm_is_itself_and_the_rest_do_not_look_at_it(m, n):
    norm = torch.tensor([2.0, 3.0])
    assert magnitude("dual_norm", norm, m, n) is norm
    for kind in OF_SHAPE:
        assert magnitude(kind, norm, m, n) == magnitude(kind, 5 * norm, m, n)


@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_the_rms_of_each_step(m, n):
    """A factor of a full-rank m × n matrix has the mean square entry 1/max(m, n)."""
    u, _, vh = torch.linalg.svd(
        torch.randn(m, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
        full_matrices=False,
    )
    factor, norm = u @ vh, torch.tensor(7.0)

    def rms(kind):
        return (magnitude(kind, norm, m, n) * factor).square().mean().sqrt().item()

    assert rms("unit") == pytest.approx(1 / math.sqrt(max(m, n)))
    # Moonlight's is AdamW's typical 0.2, whatever the shape; Jordan's is 1/√(inputs) or less.
    assert rms("match_rms_adamw") == pytest.approx(0.2)
    assert rms("original") == pytest.approx(1 / math.sqrt(n))
    assert rms("largest_dimension") == pytest.approx(1.0)


@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_the_spectral_condition(m, n):
    """√(m/n) sends inputs of root mean square 1 to outputs of root mean square at most 1."""
    u = torch.linalg.qr(torch.eye(max(m, n), dtype=torch.float64)).Q[:m, :n]
    step = magnitude("spectral_unclamped", torch.tensor(1.0), m, n) * u
    x = torch.sign(torch.arange(n, dtype=torch.float64) - 0.5)
    found = (step @ x).square().mean().sqrt()
    assert found <= 1.0 + 1e-12
    if m <= n:
        assert torch.linalg.matrix_norm(step, 2).item() == pytest.approx(math.sqrt(m / n))


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_the_exponent_is_the_degree(exponent):
    norm = torch.tensor([0.0, 1.0, 1e-6, 4.0], dtype=torch.float64)
    found = magnitude("dual_norm", norm, 3, 4, exponent)
    scaled = magnitude("dual_norm", 100.0 * norm, 3, 4, exponent)
    torch.testing.assert_close(scaled, found * 100.0**exponent)
    assert found[-1].item() == pytest.approx(4.0**exponent)


def test_exponent_zero_is_the_unit_magnitude():
    """Of a zero signal too: 1 times a direction of zero, and no NaN."""
    s = torch.stack([torch.zeros(3, 3), torch.eye(3)])
    direction, norm = Spectral().ascent(s)
    step = magnitude("dual_norm", norm, 3, 3, 0.0)[:, None, None] * direction
    torch.testing.assert_close(step, s)


@pytest.mark.parametrize(
    ("kind", "exponent", "message"),
    [
        ("l2", 1.0, r"magnitude must be one of .*unit, .* got 'l2'"),
        ("dual_norm", -1.0, "exponent must be at least 0 and finite, got -1.0"),
        ("dual_norm", math.inf, "exponent must be at least 0 and finite, got inf"),
        ("dual_norm", math.nan, "exponent must be at least 0 and finite, got nan"),
        ("original", 0.5, "exponent is for magnitude 'dual_norm', got 0.5 for 'original'"),
    ],
)
def test_refuses(kind, exponent, message):
    with pytest.raises(ValueError, match=message):
        magnitude(kind, torch.tensor(1.0), 2, 2, exponent)
