"""An inner product and two squares, against float64."""

import pytest
import torch

from polargrad.optim.inner_products import PART, products, products_on_host

SHAPES = [(1, 1), (1, 7), (7, 1), (5, 3), (3, PART + 5), (PART // 100, 257)]
PAIRS = [
    (torch.float32, torch.bfloat16),
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.bfloat16),
    (torch.float64, torch.bfloat16),
    (torch.float32, torch.float32),
]


def randn(*shape, seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


def wanted(x, y):
    x, y = x.double(), y.double()
    return (x * y).sum(), x.square().sum(), y.square().sum()


def assert_close(found, x, y):
    """To 40 eps of the norms, of the dtype in which the sums are."""
    inner, *squares = wanted(x, y)
    eps = torch.finfo(torch.float64 if x.dtype == torch.float64 else torch.float32).eps
    assert abs(float(found[0]) - float(inner)) <= 40 * eps * float((squares[0] * squares[1]).sqrt())
    for square, exact in zip(found[1:], squares, strict=True):
        assert float(square) == pytest.approx(float(exact), rel=40 * eps)
    assert all(number.ndim == 0 for number in found)


@pytest.mark.parametrize("of", [products, products_on_host])
@pytest.mark.parametrize("dtypes", PAIRS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_they_are_those_of_float64(shape, dtypes, of):
    x, y = (randn(*shape, seed=i).to(dtype) for i, dtype in enumerate(dtypes))
    kept = x.clone(), y.clone()
    assert_close(of(x, y), x, y)
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])


@pytest.mark.parametrize("of", [products, products_on_host])
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
def test_squares_beyond_the_range_of_float32_are_no_loss(scale, of):
    x, y = randn(30, 20, seed=0, scale=scale).float(), randn(30, 20, seed=1).bfloat16()
    assert_close(of(x, y), x, y)


@pytest.mark.parametrize("of", [products, products_on_host])
def test_a_zero_matrix_has_zeros(of):
    found = of(torch.zeros(4, 3), torch.ones(4, 3))
    assert [float(number) for number in found] == [0.0, 0.0, pytest.approx(12.0)]


@pytest.mark.parametrize("of", [products, products_on_host])
def test_matrices_that_lie_across_or_apart(of):
    x, y = randn(300, 400, seed=0).float().mT, randn(800, 600, seed=1).float()[::2, ::2]
    assert_close(of(x, y), x, y)


def test_a_matrix_is_never_copied_as_a_whole():
    """Of two large matrices, of which one has to be widened, only parts are in other memory."""
    x, y = torch.ones(1000, 1000), torch.ones(1000, 1000, dtype=torch.bfloat16)
    with torch.profiler.profile(profile_memory=True) as profile:
        products_on_host(x, y)
    most = max(event.cpu_memory_usage for event in profile.events())
    assert most <= 4 * 2 * PART
