"""The root of a matrix that is taken on trust: as the checked one, NaN where it is not finite."""

import pytest
import torch
from matrices import conditioned, eps

from polargrad.linalg import inverse_root
from polargrad.linalg.roots import inverse_root_unchecked


def semidefinite(shape, dtype=torch.float64):
    a = conditioned(shape, 30.0, dtype)
    return a @ a.mH


@pytest.mark.parametrize("p", [1, 2, 4])
@pytest.mark.parametrize("damping", [0.0, 0.1])
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_it_is_the_checked_one(p, damping, relative, dtype):
    a = semidefinite((3, 6, 6), dtype)
    a[1] *= 1e-20
    a[2] = 0.0
    options = {"damping": damping, "relative": relative}
    assert torch.equal(inverse_root_unchecked(a, p, **options), inverse_root(a, p, **options))


@pytest.mark.parametrize("p", [1, 2, 4])
def test_a_negative_p_gives_the_root(p):
    a = semidefinite((2, 6, 6))
    root = inverse_root_unchecked(a, -p)
    torch.testing.assert_close(torch.linalg.matrix_power(root, p), a, rtol=0, atol=1e-13)
    product = root @ inverse_root_unchecked(a, p)
    assert (product - torch.eye(6)).abs().max() <= 30.0**2 * 10 * eps(a.dtype)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_matrix_that_is_not_finite_leaves_its_neighbours_alone(bad):
    a = semidefinite((3, 5, 5), torch.float32)
    clean = inverse_root_unchecked(a, 4)
    a[1, 2, 3] = bad
    found = inverse_root_unchecked(a, 4)
    assert found[1].isnan().all()
    assert torch.equal(found[[0, 2]], clean[[0, 2]])


def test_what_the_checks_would_refuse_is_taken_on_trust():
    """The Hermitian part, with eigenvalues below zero taken for zero."""
    a = torch.tensor([[1.0, 0.5], [-0.5, -1.0]])
    with pytest.raises(ValueError, match="A must be Hermitian"):
        inverse_root(a, 2)
    torch.testing.assert_close(inverse_root_unchecked(a, 2), torch.diag(torch.tensor([1.0, 0.0])))


def test_empty():
    assert inverse_root_unchecked(torch.zeros(2, 0, 0), 2).shape == (2, 0, 0)
