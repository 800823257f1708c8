"""The randomized SVD against the truncated float64 SVD, and where it is no approximation at all."""

import dataclasses
import itertools

import pytest
import torch
from matrices import COMPLEX, REAL, conditioned, double, eps, polar_oracle, with_singular_values

from polargrad.linalg.methods.randomized_svd import RandomizedSVD
from polargrad.linalg.methods.svd import SVD

SHAPES = [(60, 30), (40, 40), (3, 50, 20)]


def leading(a, rank):
    """The leading partial isometry by a float64 SVD."""
    w, _, vh = torch.linalg.svd(double(a), full_matrices=False)
    return w[..., :rank] @ vh[..., :rank, :]


def decaying(shape, ratio, dtype=torch.float64, seed=0):
    """Singular values 1, ratio, ratio², ..."""
    powers = torch.arange(shape[-1], dtype=torch.float64)
    return with_singular_values(shape, ratio**powers, dtype, seed)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rank", [1, 3, 7])
@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
def test_is_the_leading_partial_isometry_where_the_spectrum_decays(shape, rank, dtype):
    """Next values are half as large, and sampling reaches 8 further: the stated angle is 2⁻⁴⁰."""
    a = decaying(shape, 0.5, dtype)
    found = RandomizedSVD(rank, power_iterations=2)(a)
    assert found.U.dtype == dtype
    error = torch.linalg.matrix_norm(double(found.U) - leading(a, rank)).max()
    # Rounding is blown up by the gap σ_k − σ_{k+1} = 2⁻ᵏ.
    assert error <= 2.0**-40 * 10 + 30 * 2.0**rank * eps(dtype) * rank**0.5
    assert (found.rank == rank).all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("power_iterations", [0, 1, 2])
def test_the_error_is_the_stated_one(seed, power_iterations):
    """(σ_{k+p+1}/σ_k)^(2q+1) √(n/p) bounds the angle up to a small factor, for any q."""
    rank, oversampling, ratio, shape = 4, 6, 0.7, (60, 40)
    a = decaying(shape, ratio, seed=seed)
    description = RandomizedSVD(rank, oversampling, power_iterations, seed)
    stated = ratio ** ((oversampling + 1) * (2 * power_iterations + 1)) * (40 / oversampling) ** 0.5
    # From an angle to an error of k directions: over the relative gap between neighbours.
    allowed = 10.0 * stated * rank**0.5 / (1.0 - ratio)
    error = torch.linalg.matrix_norm(description(a).U - leading(a, rank))
    assert error <= allowed


def test_power_iterations_help_as_stated():
    a = decaying((80, 50), 0.8)
    errors = [
        torch.linalg.matrix_norm(RandomizedSVD(5, 4, q)(a).U - leading(a, 5)).item()
        for q in (0, 1, 2, 4)
    ]
    assert all(late < 0.5 * early for early, late in itertools.pairwise(errors))


@pytest.mark.parametrize("dtype", REAL + COMPLEX, ids=str)
@pytest.mark.parametrize("oversampling", [0, 8])
def test_is_a_partial_isometry_whatever_the_spectrum(dtype, oversampling):
    """Even a flat one, where the directions themselves are arbitrary."""
    a = conditioned((30, 20), 1.0, dtype)
    sigma = torch.linalg.svdvals(double(RandomizedSVD(6, oversampling)(a).U))
    assert (sigma[:6] - 1.0).abs().max() <= 20 * eps(dtype)
    assert sigma[6:].max() <= 20 * eps(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex64], ids=str)
def test_a_matrix_of_that_rank_gets_its_polar_factor(dtype):
    """Nothing is left out, and directions that are zero to rounding stay zero."""
    sigma = torch.zeros(20, dtype=torch.float64)
    sigma[:3] = torch.tensor([1.0, 0.9, 0.8])
    a = with_singular_values((30, 20), sigma, dtype)
    for rank in (3, 4, 15):
        found = RandomizedSVD(rank)(a)
        error = torch.linalg.matrix_norm(double(found.U) - polar_oracle(a, cutoff=1e-3))
        assert error <= 100 * eps(dtype)
        assert found.rank == 3


@pytest.mark.parametrize("rank", [7, 8, 100])
def test_full_rank_is_the_svd(rank):
    a = conditioned((2, 12, 7), 1e3)
    found, exact = RandomizedSVD(rank)(a), SVD()(a)
    assert torch.equal(found.U, exact.U)
    assert torch.equal(found.rank, exact.rank)


@pytest.mark.parametrize("shape", [(6, 4), (4, 4), (2, 6, 4)], ids=str)
def test_zero_gives_zero(shape):
    found = RandomizedSVD(2)(torch.zeros(shape))
    assert torch.equal(found.U, torch.zeros(shape))
    assert (found.rank == 0).all()


def test_the_seed_decides_and_nothing_else():
    a = conditioned((30, 20), 1.0, torch.float32)
    state = torch.random.get_rng_state()
    first = RandomizedSVD(4, seed=3)(a).U
    torch.manual_seed(99)
    assert torch.equal(first, RandomizedSVD(4, seed=3)(a).U)
    assert not torch.equal(first, RandomizedSVD(4, seed=4)(a).U)
    torch.random.set_rng_state(state)
    RandomizedSVD(4)(a)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=str)
def test_a_stack_is_its_matrices(dtype):
    stack = decaying((3, 40, 25), 0.6, dtype)
    stack[1] = 0.0
    together = RandomizedSVD(4)(stack).U
    for matrix, factor in zip(stack, together, strict=True):
        assert (RandomizedSVD(4)(matrix).U - factor).abs().max() <= 500 * eps(dtype)
    changed = stack.clone()
    changed[1] = 1.0
    assert torch.equal(RandomizedSVD(4)(changed).U[[0, 2]], together[[0, 2]])


def test_leaves_its_input_alone():
    a = decaying((20, 10), 0.5)
    before = a.clone()
    RandomizedSVD(3)(a)
    assert torch.equal(a, before)


def test_promises_nothing_below_full_rank():
    """σ_{k+1} may be as large as σ₁ and is left at 0: the deviation of 1 is taken."""
    a = conditioned((12, 6), 1.0)
    out = torch.linalg.svdvals(RandomizedSVD(3)(a).U)
    promise = RandomizedSVD(3).promise(12, 6, a.dtype)
    assert promise.deviation == 1.0
    assert (out - 1.0).abs().max() <= promise.deviation + 30 * eps(a.dtype)
    full = RandomizedSVD(6).promise(12, 6, a.dtype)
    assert (torch.linalg.svdvals(RandomizedSVD(6)(a).U) - 1.0).abs().max() <= full.deviation < 1e-12


def test_description_is_plain_data_and_back():
    description = RandomizedSVD(5, seed=7)
    assert RandomizedSVD(**dataclasses.asdict(description)) == description
    assert all(type(value) is int for value in dataclasses.asdict(description).values())


BAD = [
    (lambda: RandomizedSVD(0), ValueError, "rank must be at least 1, got 0"),
    (lambda: RandomizedSVD(2.0), TypeError, "rank must be an int, got 2.0"),
    (lambda: RandomizedSVD(True), TypeError, "rank must be an int, got True"),
    (lambda: RandomizedSVD(2, oversampling=-1), ValueError, "oversampling .*at least 0, got -1"),
    (lambda: RandomizedSVD(2, power_iterations=-1), ValueError, "power_iterations .*got -1"),
    (lambda: RandomizedSVD(2, seed=None), TypeError, "seed must be an int, got None"),
    (lambda: RandomizedSVD(2, seed=-1), ValueError, "seed must be at least 0, got -1"),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD, ids=[m for _, _, m in BAD])
def test_bad_options_are_named(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
