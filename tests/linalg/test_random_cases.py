"""Random cases: shape, dtype, spectrum, rank and scale drawn, every converged method checked."""

import math

import pytest
import torch
from matrices import double, eps, negativity, orthogonality, residual, with_singular_values

import polargrad as pg

METHODS = ["svd", "qdwh"]
DTYPES = [torch.float32, torch.float64, torch.complex64, torch.complex128]


def draw(seed):
    """A matrix or a small stack with a known numerical rank, at a random scale."""
    generator = torch.Generator().manual_seed(seed)

    def integer(low, high):
        return int(torch.randint(low, high + 1, (), generator=generator))

    dtype = DTYPES[integer(0, 3)]
    m, n = integer(1, 40), integer(1, 40)
    batch = () if integer(0, 1) else (integer(1, 3),)
    k = min(m, n)
    rank = k if integer(0, 2) else integer(0, k)
    # The smallest σ that counts stays a factor of ten above the cutoff √k·eps.
    decades = -math.log10(10 * k**0.5 * eps(dtype))
    spread = float(torch.rand((), generator=generator)) * decades
    sigma = torch.zeros(k, dtype=torch.float64)
    sigma[:rank] = 10.0 ** (-spread * torch.rand(rank, generator=generator, dtype=torch.float64))
    sigma = sigma.sort(descending=True).values
    if rank:
        sigma[0] = 1.0
    a = with_singular_values((*batch, m, n), sigma, dtype, seed)
    return a * 2.0 ** integer(-60, 60), rank


def check(seed, method):
    a, rank = draw(seed)
    noise = torch.linalg.svdvals(double(a))
    noise = (noise / noise[..., :1].clamp(min=1e-300))[..., rank:]
    if (noise > 0.3 * min(a.shape[-2:]) ** 0.5 * eps(a.dtype)).any():
        return  # rounding of the entries has put a σ next to the cutoff: it may go either way
    result = pg.polar(a, method=method)
    out = torch.linalg.svdvals(double(result.U))
    e = eps(a.dtype)
    where = f"seed {seed}: {tuple(a.shape)}, {a.dtype}, rank {rank}"
    assert (out[..., :rank] - 1).abs().max().item() <= 100 * e if rank else True, where
    assert out[..., rank:].abs().max().item() <= 100 * e if rank < out.shape[-1] else True, where
    if rank:
        assert residual(a, result.U, result.H, result.side) <= 100 * e, where
        assert negativity(result.H, a) <= 100 * e, where
    if rank == min(a.shape[-2:]):
        assert orthogonality(result.U) <= 100 * e, where
    exact = torch.linalg.svdvals(double(a)).sum(-1)
    error = (result.nuclear_norm.double() - exact).abs()
    assert (error <= 50 * e * exact).all(), where


@pytest.mark.parametrize("method", METHODS)
def test_a_hundred_random_cases(method):
    for seed in range(100):
        check(seed, method)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("thousand", range(5))
def test_thousands_of_random_cases(method, thousand):
    for seed in range(1000 * (thousand + 1), 1000 * (thousand + 2)):
        check(seed, method)
