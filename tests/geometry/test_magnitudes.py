"""How far a step goes."""

import itertools
import math

import pytest
import torch

from polargrad.geometry import MAGNITUDES, magnitude

SHAPES = list(itertools.product((1, 3, 8, 50), repeat=2))


def test_these_are_the_kinds():
    assert MAGNITUDES == ("nuclear", "unit", "original", "match_rms_adamw")


@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_nuclear_is_the_dual_norm_and_the_rest_do_not_look_at_it(m, n):
    norm = torch.tensor([2.0, 3.0])
    assert magnitude("nuclear", norm, m, n) is norm
    for kind in MAGNITUDES[1:]:
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


def test_refuses_another_kind():
    with pytest.raises(ValueError, match=r"magnitude must be one of nuclear, .* got 'l2'"):
        magnitude("l2", torch.tensor(1.0), 2, 2)
