"""Measures of anisotropy against their formulas on known singular values, and their order."""

from itertools import pairwise

import pytest
import torch
from matrices import COMPLEX, HALF, REAL, conditioned, eps, geometric, with_singular_values

from polargrad.geometry.anisotropy import (
    anisotropy,
    condition_number,
    effective_rank,
    nuclear_rank,
    stable_rank,
)
from polargrad.linalg import polar_factor

SHAPES = [(1, 1), (6, 6), (9, 4), (4, 9), (1, 5), (5, 1), (2, 3, 7, 5)]
SINGLE = [condition_number, effective_rank, stable_rank, nuclear_rank]


def formulas(sigma):
    """κ, effective, stable and nuclear rank of these nonzero singular values."""
    p = sigma / sigma.sum()
    return (
        sigma.max() / sigma.min(),
        torch.exp(-(p * p.log()).sum()),
        sigma.square().sum() / sigma.max().square(),
        sigma.sum().square() / sigma.square().sum(),
    )


@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_measures_are_their_formulas(shape, dtype):
    sigma = 3.0 * geometric(min(shape[-2:]), 50.0)
    measured = anisotropy(with_singular_values(shape, sigma, dtype))
    for value, expected in zip(measured, formulas(sigma), strict=True):
        assert value.dtype == torch.float64
        assert value.shape == shape[:-2]
        # Rounding an entry moves σᵢ by eps σ₁, and κ by κ times that.
        bound = 50.0 * 20 * eps(dtype)
        torch.testing.assert_close(value, expected.expand(shape[:-2]), rtol=bound, atol=0)


@pytest.mark.parametrize("position", range(4), ids=lambda k: SINGLE[k].__name__)
def test_each_measure_alone_is_that_of_all(position):
    G = conditioned((3, 8, 5), 1e3)
    assert torch.equal(SINGLE[position](G), anisotropy(G)[position])


@pytest.mark.parametrize("seed", range(20))
def test_stable_nuclear_effective_and_full_rank_are_in_this_order(seed):
    generator = torch.Generator().manual_seed(seed)
    sigma = torch.rand(6, generator=generator, dtype=torch.float64) ** (1 + seed % 5)
    measures = anisotropy(with_singular_values((8, 6), sigma, seed=seed))
    order = [1.0, measures.stable_rank, measures.nuclear_rank, measures.effective_rank, 6.0]
    for smaller, larger in pairwise(order):
        assert smaller < larger * (1 + 1e-12)


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_equal_singular_values_make_every_rank_the_rank(rank):
    sigma = torch.zeros(4, dtype=torch.float64)
    sigma[:rank] = 7.0
    measures = anisotropy(with_singular_values((9, 4), sigma))
    torch.testing.assert_close(torch.stack(measures[1:]), torch.full((3,), float(rank)).double())
    torch.testing.assert_close(measures.condition_number.item(), 1.0)


def test_an_orthogonal_update_has_the_condition_number_one():
    """Whatever the gradient's is: the paper's point."""
    G = conditioned((12, 7), 1e6)
    torch.testing.assert_close(condition_number(G).item(), 1e6, rtol=1e-8, atol=0)
    torch.testing.assert_close(condition_number(polar_factor(G)).item(), 1.0, rtol=1e-12, atol=0)


@pytest.mark.parametrize("c", [2.0**-400, 1e-30, 1.0, 1e30, 2.0**500])
def test_no_measure_depends_on_the_scale(c):
    """Squares of 2^500 and 2^-600 do not exist in float64."""
    G = conditioned((6, 4), 30.0)
    for scaled, plain in zip(anisotropy(c * G), anisotropy(G), strict=True):
        torch.testing.assert_close(scaled, plain, rtol=1e-12, atol=0)


def test_no_measure_depends_on_the_basis_or_on_transposition():
    G = conditioned((6, 4), 30.0)
    Q = torch.linalg.qr(conditioned((6, 6), 3.0, seed=5)).Q
    for turned in (Q @ G, G.mT):
        for value, plain in zip(anisotropy(turned), anisotropy(G), strict=True):
            torch.testing.assert_close(value, plain, rtol=1e-12, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_singular_values_count_down_to_the_cutoff_of_the_dtype(dtype):
    """κ of diag(1, σ): 1/σ above τ = √2 eps, and 1 below it, where σ is rounding."""
    above, below = (torch.diag(torch.tensor([1.0, f * 2**0.5 * eps(dtype)])) for f in (1.5, 0.7))
    expected = 1 / (1.5 * 2**0.5 * eps(dtype))
    torch.testing.assert_close(
        condition_number(above.to(dtype)).item(), expected, rtol=1e-6, atol=0
    )
    assert condition_number(below.to(dtype)) == 1


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_half_precision_is_measured_as_it_is_stored(dtype):
    G = conditioned((6, 4), 10.0).to(dtype)
    for half, wide in zip(anisotropy(G), anisotropy(G.double()), strict=True):
        assert torch.equal(half, wide)


@pytest.mark.parametrize("shape", [(4, 3), (0, 3), (3, 0), (2, 0, 0)], ids=str)
def test_a_zero_or_empty_matrix_has_no_rank_and_no_anisotropy(shape):
    measures = anisotropy(torch.zeros(shape))
    assert (measures.condition_number == 1).all()
    for rank in measures[1:]:
        assert rank.shape == shape[:-2]
        assert (rank == 0).all()


def test_an_empty_stack_has_no_measures():
    assert all(value.shape == (0,) for value in anisotropy(torch.zeros(0, 3, 2)))


def test_a_matrix_that_is_not_finite_gives_nan_and_leaves_its_neighbours():
    G = torch.stack([torch.eye(3)] * 3)
    G[1, 0, 2] = float("inf")
    for value, expected in zip(anisotropy(G), (1.0, 3.0, 3.0, 3.0), strict=True):
        assert value[1].isnan()
        torch.testing.assert_close(value[[0, 2]], torch.full((2,), expected).double())


@pytest.mark.parametrize("measure", [anisotropy, *SINGLE], ids=lambda f: f.__name__)
def test_vectors_and_integers_are_refused_by_name(measure):
    with pytest.raises(ValueError, match=r"G must be a matrix .*, got shape \(3,\)"):
        measure(torch.ones(3))
    with pytest.raises(TypeError, match=r"G must hold .* numbers, got torch.int64$"):
        measure(torch.ones(3, 3, dtype=torch.int64))
