"""What every problem inherits, on a problem of two unknowns whose derivatives fit in a line."""

import math

import pytest
import torch

from polargrad.problems import MatrixQuadraticRegression, Problem


class Product(Problem):
    """f(X, Y) = ½‖X Yᵀ - M‖²; its optimum is 0."""

    optimum = 0.0

    def __init__(self, M):
        self.M = M

    @property
    def shapes(self):
        return ((self.M.shape[0], 2), (self.M.shape[1], 2))

    @property
    def dtype(self):
        return self.M.dtype

    @property
    def device(self):
        return self.M.device

    def to(self, dtype):
        return Product(self.M.to(dtype))

    def objective(self, X, Y):
        X, Y = self.checked((X, Y))
        return 0.5 * (X @ Y.mT - self.M).square().sum()

    def gradients(self, X, Y):
        residual = X @ Y.mT - self.M
        return residual @ Y, residual.mT @ X

    def hessian_vectors(self, unknowns, along):
        (X, Y), (V, W) = self.checked(unknowns), self.checked(along)
        residual, change = X @ Y.mT - self.M, V @ Y.mT + X @ W.mT
        return change @ Y + residual @ W, change.mT @ X + residual.mT @ V


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


X, Y = normal(3, 2, seed=1), normal(4, 2, seed=2)


def whole_hessian(problem, *unknowns):
    """The Hessian of all entries of all unknowns, by autograd."""
    sizes = [unknown.numel() for unknown in unknowns]

    def flat(vector):
        parts = zip(vector.split(sizes), problem.shapes, strict=True)
        return problem.objective(*(part.reshape(shape) for part, shape in parts))

    return torch.autograd.functional.hessian(flat, torch.cat([u.reshape(-1) for u in unknowns]))


def test_the_curvature_is_that_of_all_unknowns_together():
    problem = Product(normal(3, 4))
    eigenvalues = torch.linalg.eigvalsh(whole_hessian(problem, X, Y))
    curvature = problem.curvature(X, Y)
    assert curvature.dimension == 14
    assert curvature.smallest == pytest.approx(eigenvalues[0].item(), rel=1e-10)
    assert curvature.largest == pytest.approx(eigenvalues[-1].item(), rel=1e-10)
    assert eigenvalues[0] < 0
    assert curvature.condition_number == math.inf


def test_few_products_give_a_curvature_inside_the_spectrum():
    problem = Product(normal(3, 4))
    curvature = problem.curvature(X, Y, steps=5, generator=torch.Generator().manual_seed(3))
    exact = problem.curvature(X, Y)
    assert exact.smallest < curvature.smallest <= curvature.largest < exact.largest
    assert exact.largest - curvature.largest <= curvature.largest_error


def test_curvature_draws_the_same_vector_each_time_and_nothing_from_torchs_generator():
    problem, before = Product(normal(3, 4)), torch.random.get_rng_state()
    assert problem.curvature(X, Y, steps=3) == problem.curvature(X, Y, steps=3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_curvature_of_a_quadratic_is_its_constants():
    problem = MatrixQuadraticRegression.random(
        4, 3, 7, 5, torch.Generator().manual_seed(0), dtype=torch.float32
    )
    curvature = problem.curvature(torch.zeros(4, 3))
    assert curvature.largest == pytest.approx(problem.smoothness, rel=1e-10)
    assert curvature.smallest == pytest.approx(problem.strong_convexity, rel=1e-8)
    assert curvature.condition_number == pytest.approx(problem.condition_number, rel=1e-8)


def test_the_gap_is_evaluated_in_double_precision():
    """In float32 the residual of 1 + 2⁻²⁰ against 1 squares to less than a rounding of M²."""
    problem = Product(torch.full((1, 1), 1.0))
    X, Y = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0 + 2.0**-20, 0.0]])
    assert problem.gap(X, Y) == 2.0**-41
    assert problem.gap(X.double(), Y) == 2.0**-41


def test_a_problem_in_double_precision_is_its_own():
    single = Product(normal(3, 4, dtype=torch.float32))
    assert single.in_double.dtype == torch.float64
    assert single.in_double is single.in_double
    assert single.in_double.in_double is single.in_double


def test_one_unknown_has_the_forms_of_several():
    problem = MatrixQuadraticRegression.random(
        4, 3, 7, 5, torch.Generator().manual_seed(0), dtype=torch.float64
    )
    X, V = normal(4, 3, seed=1), normal(4, 3, seed=2)
    assert problem.shapes == (problem.shape,) == ((4, 3),)
    (gradient,) = problem.gradients(X)
    assert torch.equal(gradient, problem.gradient(X))
    (image,) = problem.hessian_vectors((X,), (V,))
    assert torch.equal(image, problem.hessian_vector(X, V))
    assert torch.equal(problem.hessian_at((X,))((V,))[0], image)


def test_refuses_another_number_of_unknowns():
    problem = Product(normal(3, 4))
    with pytest.raises(TypeError, match=r"this problem has 2 unknowns \(X, Y\), got 1"):
        problem.gap(X)
    with pytest.raises(TypeError, match=r"2 unknowns \(X, Y\), got 3"):
        problem.curvature(X, Y, X)


def test_names_the_unknown_that_does_not_fit():
    problem = Product(normal(3, 4))
    with pytest.raises(ValueError, match=r"Y has shape \(3, 2\), but this problem needs \(4, 2\)"):
        problem.gap(X, X)
    with pytest.raises(ValueError, match=r"Y has dtype torch.float32, but the data have torch.fl"):
        problem.objective(X, Y.float())
