"""Products and factorizations in blocks and by the library: the same, to rounding."""

import pytest
import torch

from polargrad.linalg import products
from polargrad.linalg.products import (
    factorize,
    gram,
    inverse_triangle,
    shifted_inverse,
    solve_right,
    symmetric_product,
)

COLUMNS = (1, 5, 96, 97, 200)
DTYPES = (torch.float32, torch.float64, torch.complex128)


@pytest.fixture(params=("blocks", "library"))
def way(request, monkeypatch):
    """Either way for all sizes: by themselves only large matrices go in blocks."""
    least = 0 if request.param == "blocks" else 10**9
    for name in ("LEAST_WORK", "LEAST_FACTOR", "LEAST_INVERSE"):
        monkeypatch.setattr(products, name, least)
    monkeypatch.setattr(products, "LEAST_COLUMNS", max(least, 2))
    return request.param


def drawn(rows, columns, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, dtype=dtype, generator=generator)


def positive(n, dtype):
    """Of condition number below 10."""
    x = drawn(3 * n, n, dtype)
    return (x.mH @ x) / (3 * n) + torch.eye(n, dtype=dtype)


def distance(found, wanted, dtype):
    """In units of eps, relative to the norm."""
    found, wanted = wide(found), wide(wanted)
    return float((found - wanted).norm() / wanted.norm()) / torch.finfo(dtype).eps


def wide(x):
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


@pytest.mark.parametrize("columns", COLUMNS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_a_gram_matrix(way, columns, dtype, transposed):
    x = drawn(2 * columns + 1, columns, dtype)
    x = x.mT.contiguous().mT if transposed else x
    found = gram(x)
    assert distance(found, wide(x).mH @ wide(x), dtype) < 4
    if way == "blocks" and columns > 96:  # what is below the blocks is a copy
        assert found[-1, 0] == found[0, -1].conj()


@pytest.mark.parametrize("n", [2, 97, 300, 600])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_symmetric_product(way, n, dtype):
    c = positive(n, dtype)
    assert distance(symmetric_product(c, c), wide(c) @ wide(c), dtype) < 4


@pytest.mark.parametrize("n", COLUMNS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_factorization_is_that_of_the_shifted_matrix(way, n, dtype):
    c = positive(n, dtype)
    kept = c.clone()
    factor = factorize(c, 0.5, 2.0)
    lower = wide(factor.lower.tril())
    shifted = 2.0 * wide(c) + 0.5 * torch.eye(n)
    assert int(factor.info) == 0
    assert distance(lower @ lower.mH, shifted, dtype) < 10
    assert (factor.inverses is not None) == (way == "blocks")
    assert torch.equal(c, kept)


@pytest.mark.parametrize("n", COLUMNS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_indefinite_matrix_is_noted_and_not_raised(way, n, dtype):
    c = positive(n, dtype)
    c[-1, -1] = -1.0
    assert int(factorize(c).info) != 0
    assert int(shifted_inverse(c, 0.0)[1]) != 0


@pytest.mark.parametrize("n", COLUMNS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 70])
def test_solving_from_the_right(way, n, dtype, rows):
    c, x = positive(n, dtype), drawn(rows, n, dtype, 1)
    kept = x.clone()
    found = solve_right(x, factorize(c, 1.0))
    shifted = wide(c) + torch.eye(n)
    assert distance(wide(found) @ shifted, wide(x), dtype) < 20
    assert torch.equal(x, kept)


@pytest.mark.parametrize("n", COLUMNS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_inverse_of_a_triangle(way, n, dtype):
    factor = factorize(positive(n, dtype))
    inverse = wide(inverse_triangle(factor))
    assert distance(inverse @ wide(factor.lower.tril()), torch.eye(n), dtype) < 20
    assert torch.equal(inverse, inverse.tril())


@pytest.mark.parametrize("n", COLUMNS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_shifted_inverse(way, n, dtype):
    c = positive(n, dtype)
    kept = c.clone()
    inverse, info = shifted_inverse(c, 0.25)
    assert int(info) == 0
    assert distance(wide(inverse) @ (wide(c) + 0.25 * torch.eye(n)), torch.eye(n), dtype) < 20
    assert distance(inverse, wide(inverse).mH, dtype) < 4
    assert torch.equal(c, kept)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_stack_goes_to_the_library(way, dtype):
    stack = torch.stack([positive(100, dtype), 2.0 * positive(100, dtype)])
    x = torch.stack([drawn(7, 100, dtype), drawn(7, 100, dtype, 1)])
    factor = factorize(stack, 1.0)
    assert factor.inverses is None
    found = solve_right(x, factor)
    assert distance(wide(found) @ (wide(stack) + torch.eye(100)), wide(x), dtype) < 20


def test_what_wants_a_derivative_goes_to_the_library(way):
    c = positive(100, torch.float64).requires_grad_()
    assert factorize(c).inverses is None
    gram(c).sum().backward()
    assert c.grad is not None
    assert bool(c.grad.isfinite().all())
