"""The rational function of the Gram matrix, and a polynomial after it, on every singular value."""

import itertools

import pytest
import torch
from matrices import REAL, double, with_singular_values

import polargrad as pg
from polargrad.linalg import GramZolotarev
from polargrad.linalg.minimax import best_polynomial
from polargrad.linalg.rational import zolotarev

COMPOSED = [GramZolotarev(1, polynomial=d) for d in (3, 5, 7, 9)]
COMPOSED += [GramZolotarev(2, polynomial=3), GramZolotarev(3, polynomial=5)]


def value(method, x):
    """The function of σ/β, written out: Zolotarev's, then the best polynomial of what it leaves."""
    function = zolotarev(method.lower, method.degree)
    y = torch.tensor([function.value(one) for one in x.tolist()], dtype=torch.float64)
    delta = function.deviation
    polynomial, error = best_polynomial(1.0 - delta, 1.0 + delta, method.polynomial)
    powers = [a * y ** (2 * i + 1) for i, a in enumerate(polynomial)]
    return torch.stack(powers).sum(0), error


@pytest.mark.parametrize("method", COMPOSED, ids=str)
@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (12, 12), (2, 40, 12), (300, 140)], ids=str)
def test_singular_values_follow_the_function(method, shape):
    sigma = torch.logspace(0, -5, min(shape[-2:]), dtype=torch.float64)
    a = with_singular_values(shape, sigma)
    beta = sigma.pow(4).sum().pow(0.25)
    expected, _ = value(method, sigma / beta)
    u, _, vh = torch.linalg.svd(a, full_matrices=False)
    expected_factor = (u * expected) @ vh
    found = pg.polar_factor(a, method=method)
    torch.testing.assert_close(found, expected_factor, rtol=0, atol=1e-7)


@pytest.mark.parametrize("method", COMPOSED, ids=str)
def test_the_deviation_is_that_of_the_best_polynomial(method):
    grid = torch.logspace(-3, 0, 4001, dtype=torch.float64)
    values, error = value(method, grid)
    assert method.deviation == pytest.approx(error, rel=1e-9)
    assert (values - 1).abs().max() == pytest.approx(error, rel=1e-3)
    assert (values - 1).abs().max() <= error * (1 + 1e-9)


@pytest.mark.parametrize(("one", "other"), list(itertools.pairwise(COMPOSED[:4])), ids=str)
def test_a_higher_degree_is_nearer(one, other):
    assert other.deviation < 0.6 * one.deviation < one.coefficients.deviation


@pytest.mark.parametrize(
    "method", [GramZolotarev(1, polynomial=9), GramZolotarev(2, polynomial=5)], ids=str
)
@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("shape", [(20, 9), (64, 64), (900, 40), (200, 140)], ids=str)
@pytest.mark.parametrize("kind", ["one large", "geometric", "two levels", "near the bound"])
def test_rounding_keeps_the_promise(method, dtype, shape, kind):
    n = min(shape)
    ones = torch.ones(n, dtype=torch.float64)
    sigma = {
        "one large": torch.cat([ones[:1], 1.001e-3 * ones[1:]]),
        "geometric": torch.logspace(0, -3, n, dtype=torch.float64),
        "two levels": torch.cat([ones[: n // 2], 5e-3 * ones[n // 2 :]]),
        "near the bound": torch.cat([ones[:1], torch.logspace(-2.5, -3, n - 1).double()]),
    }[kind]
    a = with_singular_values(shape, sigma, dtype)
    u, values, vh = torch.linalg.svd(double(a), full_matrices=False)
    counted = values >= 1e-3 * values.pow(4).sum().pow(0.25)
    factor = double(pg.polar_factor(a, method=method))
    diagonal = (u.mT @ factor @ vh.mT).diagonal()
    promised = method.promise(*shape, dtype).deviation
    assert (diagonal[counted] - 1).abs().max() <= promised
    assert torch.linalg.svdvals(factor).max() <= 1 + promised


@pytest.mark.parametrize("polynomial", [0, 1, 4, 11, 9.0, True, "9"])
def test_other_degrees_are_refused(polynomial):
    with pytest.raises(
        ValueError, match=f"polynomial must be None, 3, 5, 7, 9, got {polynomial!r}"
    ):
        GramZolotarev(1, polynomial=polynomial)


def test_a_factorization_that_fails_leaves_a_over_the_bound(monkeypatch):
    from polargrad.linalg.methods import gram_zolotarev

    failed = torch.ones((), dtype=torch.int32)
    factorize, inverse = gram_zolotarev.factorize, gram_zolotarev.shifted_inverse
    monkeypatch.setattr(
        gram_zolotarev, "factorize", lambda c, shift: factorize(c, shift)._replace(info=failed)
    )
    monkeypatch.setattr(
        gram_zolotarev, "shifted_inverse", lambda c, shift: (inverse(c, shift)[0], failed)
    )
    a = with_singular_values((20, 9), torch.logspace(0, -2, 9, dtype=torch.float64))
    for method in (GramZolotarev(1, polynomial=9), GramZolotarev(3)):
        factor = pg.polar_factor(a, method=method)
        ratio = factor / a
        torch.testing.assert_close(ratio, ratio[0, 0].expand_as(a))
        assert torch.linalg.matrix_norm(factor, 2) <= 1.0
        assert method.split(a) is None


@pytest.mark.parametrize("method", ["gram_zolotarev", "gram_polynomial"])
@pytest.mark.parametrize("shape", [(40, 70), (3, 40, 70), (50, 50), (2, 160, 300), (300, 160)])
def test_the_factor_lies_in_memory_as_the_matrix_does(shape, method):
    """What is done with both later reads neither of them across."""
    A = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert pg.polar_factor(A, method=method).is_contiguous()
