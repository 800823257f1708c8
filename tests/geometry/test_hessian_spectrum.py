"""Extreme eigenvalues against eigvalsh, Lanczos' bounds as theorems, products against autograd."""

import math

import pytest
import torch
from matrices import conditioned, geometric

from polargrad.geometry.hessian_spectrum import (
    HessianProduct,
    HessianSpectrum,
    hessian_condition_number,
    hessian_spectrum,
    lanczos,
)


def symmetric(values, seed=0):
    """A symmetric matrix with these eigenvalues."""
    n = len(values)
    Q = torch.linalg.qr(conditioned((n, n), 2.0, seed=seed)).Q
    H = (Q * values) @ Q.mT
    return 0.5 * (H + H.mT)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def product(H):
    return lambda v: H @ v


class TestGiven:
    """A Hessian that is a matrix."""

    def test_the_extremes_are_those_it_was_made_of(self):
        spectrum = hessian_spectrum(symmetric(100.0 * geometric(8, 1e4)))
        torch.testing.assert_close(spectrum.largest, 100.0, rtol=1e-13, atol=0)
        torch.testing.assert_close(spectrum.smallest, 0.01, rtol=1e-9, atol=0)
        assert abs(spectrum.smallest - 0.01) <= spectrum.smallest_error
        torch.testing.assert_close(spectrum.condition_number, 1e4, rtol=1e-9, atol=0)
        assert spectrum[4:] == (0, 8)

    def test_the_two_sided_quadratic_has_the_condition_number_of_the_paper(self):
        """½‖AXB − C‖² has κ_H = κ(A)² κ(B)²."""
        A, B = conditioned((7, 4), 3.0), conditioned((3, 6), 5.0, seed=1)
        H = torch.kron(A.mT @ A, B @ B.mT)
        torch.testing.assert_close(hessian_condition_number(H), 225.0, rtol=1e-10, atol=0)

    @pytest.mark.parametrize("values", [[1.0, 0.0], [1.0, -0.5], [-1.0, -2.0], [0.0, 0.0]])
    def test_without_strong_convexity_it_is_infinite(self, values):
        H = symmetric(torch.tensor(values, dtype=torch.float64))
        assert hessian_condition_number(H) == math.inf

    @pytest.mark.parametrize(
        ("bad", "error", "message"),
        [
            (torch.ones(2, 3), ValueError, r"shape \(n, n\), n at least 1, got \(2, 3\)"),
            (torch.ones(0, 0), ValueError, r"got \(0, 0\)"),
            (torch.ones(2, 2, 2), ValueError, r"got \(2, 2, 2\)"),
            (torch.tensor([[1.0, 1.0], [0.0, 1.0]]), ValueError, "be symmetric, got"),
            (torch.tensor([[float("nan")]]), ValueError, "be finite"),
            (torch.ones(2, 2, dtype=torch.complex64), TypeError, "got torch.complex64"),
            (torch.ones(2, 2, dtype=torch.int32), TypeError, "got torch.int32"),
        ],
    )
    def test_what_is_no_hessian_is_refused(self, bad, error, message):
        with pytest.raises(error, match=f"hessian must .*{message}"):
            hessian_spectrum(bad)


class TestLanczos:
    """Products alone."""

    @pytest.mark.parametrize("seed", range(3))
    def test_all_steps_give_the_extremes_exactly(self, seed):
        H = symmetric(geometric(30, 1e4), seed)
        spectrum = lanczos(product(H), 30, 30, generator(seed))
        exact = torch.linalg.eigvalsh(H)
        torch.testing.assert_close(spectrum.largest, exact[-1].item(), rtol=1e-13, atol=0)
        torch.testing.assert_close(spectrum.smallest, exact[0].item(), rtol=0, atol=1e-14)

    @pytest.mark.parametrize("steps", [1, 2, 5, 10, 20])
    def test_an_eigenvalue_lies_within_the_residual_of_a_ritz_value(self, steps):
        H = symmetric(geometric(40, 1e3) - 0.2)
        exact = torch.linalg.eigvalsh(H)
        spectrum = lanczos(product(H), 40, steps, generator())
        assert spectrum.steps == steps
        for value, error in (
            (spectrum.smallest, spectrum.smallest_error),
            (spectrum.largest, spectrum.largest_error),
        ):
            assert (exact - value).abs().min() <= error + 1e-14
        # The extremes are inside the spectrum.
        assert exact[0] - 1e-14 <= spectrum.smallest <= spectrum.largest <= exact[-1] + 1e-14

    def test_the_condition_number_is_a_lower_bound_that_grows_with_the_steps(self):
        H = symmetric(geometric(60, 1e3))
        found = [
            hessian_condition_number(product(H), dimension=60, steps=k, generator=generator())
            for k in (2, 5, 10, 20, 40, 60)
        ]
        assert found == sorted(found)
        assert found[0] < 500 < found[-1] <= 1e3 * (1 + 1e-9)

    def test_the_smallest_eigenvalue_converges_slowly(self):
        """As the documentation says: where the largest is found, the smallest is far off."""
        values = torch.cat([torch.tensor([10.0]).double(), geometric(199, 1e4)])
        spectrum = lanczos(product(torch.diag(values)), 200, 12, generator())
        assert spectrum.largest_error < 1e-6
        torch.testing.assert_close(spectrum.largest, 10.0, rtol=1e-9, atol=0)
        assert spectrum.smallest > 5 * 1e-4
        assert spectrum.smallest_error > 1e-4

    def test_no_eigenvalue_is_found_twice(self):
        """Without reorthogonalisation an eigenvalue as isolated as this one returns as a ghost."""
        values = torch.cat([torch.tensor([1e6, 1e3]).double(), geometric(58, 100.0)])
        spectrum = lanczos(product(torch.diag(values)), 60, 60, generator())
        torch.testing.assert_close(spectrum.smallest, 0.01, rtol=1e-6, atol=0)

    def test_it_ends_in_an_invariant_subspace(self):
        """Three distinct eigenvalues need three products."""
        values = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).repeat(10)
        spectrum = lanczos(product(torch.diag(values)), 30, 30, generator())
        assert spectrum.steps == 3
        assert (spectrum.smallest_error, spectrum.largest_error) < (1e-12, 1e-12)
        torch.testing.assert_close(spectrum.condition_number, 5.0, rtol=1e-12, atol=0)

    def test_a_zero_hessian_ends_at_once(self):
        spectrum = lanczos(torch.zeros_like, 5, 5, generator())
        assert spectrum == HessianSpectrum(0.0, 0.0, 0.0, 0.0, 1, 5)
        assert spectrum.condition_number == math.inf

    def test_one_generator_gives_one_result(self):
        H = symmetric(geometric(30, 1e4))
        first, again, other = (lanczos(product(H), 30, 6, generator(s)) for s in (1, 1, 2))
        assert first == again
        assert first != other

    @pytest.mark.parametrize(
        ("dimension", "steps", "message"),
        [
            (0, 1, "dimension must be at least 1, got 0"),
            (4, 0, "steps must be from 1 to dimension = 4, got 0"),
            (4, 5, "steps must be from 1 to dimension = 4, got 5"),
        ],
    )
    def test_numbers_outside_their_range_are_refused(self, dimension, steps, message):
        with pytest.raises(ValueError, match=message):
            lanczos(torch.clone, dimension, steps, generator())

    def test_a_product_of_another_shape_or_not_finite_is_refused(self):
        with pytest.raises(ValueError, match=r"must return shape \(3,\), got \(2,\)"):
            lanczos(lambda v: v[:2], 3, 2, generator())
        with pytest.raises(ValueError, match="product must be finite"):
            lanczos(lambda v: v / 0, 3, 2, generator())


class TestProduct:
    """Hessian-vector products by a double backward."""

    def test_it_is_the_hessian_that_autograd_forms(self):
        x = conditioned((3, 2), 4.0).requires_grad_()
        y = torch.tensor([0.5, -1.0], dtype=torch.float64, requires_grad=True)

        def loss(x, y):
            return (x.exp() @ y.sin()).square().sum()

        blocks = torch.autograd.functional.hessian(loss, (x.detach(), y.detach()))
        H = torch.cat(
            [
                torch.cat([b.reshape(r, -1) for b in row], 1)
                for row, r in zip(blocks, (6, 2), strict=True)
            ]
        )
        times = HessianProduct(lambda: loss(x, y), [x, y])
        assert times.dimension == 8
        for column, unit in zip(H.mT, torch.eye(8, dtype=torch.float64), strict=True):
            torch.testing.assert_close(times(unit), column, rtol=1e-12, atol=1e-12)
        exact = torch.linalg.eigvalsh(H)
        spectrum = lanczos(times, times.dimension, 8, generator())
        torch.testing.assert_close(spectrum.smallest, exact[0].item())
        torch.testing.assert_close(spectrum.largest, exact[-1].item())

    def test_the_quadratic_of_the_paper_needs_no_hessian(self):
        A, B, C = conditioned((7, 4), 3.0), conditioned((3, 6), 5.0, seed=1), torch.ones(7, 6)
        X = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
        times = HessianProduct(lambda: 0.5 * (A @ X @ B - C).square().sum(), [X])
        kappa = hessian_condition_number(times, steps=12, generator=generator())
        torch.testing.assert_close(kappa, 225.0, rtol=1e-8, atol=0)

    def test_unused_and_linear_parameters_have_zero_rows(self):
        x, unused = (torch.ones(2, requires_grad=True) for _ in range(2))
        vector = torch.arange(1.0, 5.0).double()
        times = HessianProduct(lambda: (x**3).sum(), [unused, x])
        assert times(vector).tolist() == [0.0, 0.0, 18.0, 24.0]
        assert not HessianProduct(lambda: 2 * x.sum(), [x])(vector[:2]).any()

    def test_gradients_of_the_parameters_stay_as_they_are(self):
        x = torch.ones(2, requires_grad=True)
        HessianProduct(lambda: (x**3).sum(), [x])(torch.ones(2).double())
        assert x.grad is None

    def test_it_works_where_gradients_are_off(self):
        x = torch.ones(2, requires_grad=True)
        with torch.no_grad():
            times = HessianProduct(lambda: (x**2).sum(), [x])
        assert times(torch.ones(2)).tolist() == [2.0, 2.0]

    def test_the_closure_is_called_once(self):
        calls = []
        x = torch.ones(2, requires_grad=True)

        def closure():
            calls.append(1)
            return (x**2).sum()

        times = HessianProduct(closure, [x])
        times(torch.ones(2))
        times(torch.ones(2))
        assert len(calls) == 1

    def test_bad_input_is_named(self):
        x = torch.ones(2, requires_grad=True)
        with pytest.raises(ValueError, match="params must hold at least one tensor, got none"):
            HessianProduct(lambda: x.sum(), [])
        with pytest.raises(ValueError, match=r"one number, got a tensor of shape \(2,\)"):
            HessianProduct(lambda: x**2, [x])
        with pytest.raises(ValueError, match=r"vector must have shape \(2,\), got \(3,\)"):
            HessianProduct(lambda: (x**2).sum(), [x])(torch.ones(3))


def test_arguments_of_the_other_form_are_refused():
    with pytest.raises(TypeError, match="are for a product, got a matrix"):
        hessian_condition_number(torch.eye(2), steps=1)
    with pytest.raises(TypeError, match="needs dimension, steps and generator"):
        hessian_condition_number(torch.clone, steps=1, generator=generator())
