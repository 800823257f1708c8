"""Matrix quadratic regression against autograd, its Kronecker Hessian, and the published draw."""

import math

import pytest
import torch

from polargrad.problems import MatrixQuadraticRegression

SIZES = [
    (4, 3, 7, 5),
    (1, 1, 1, 1),
    (5, 2, 5, 2),
    (6, 4, 3, 5),
    (3, 5, 6, 2),
]  # the last two: μ = 0
# timlautk/polargrad at 79f3c6f: f - f* at the start of seed 42, f* by float64 least squares.
PUBLISHED_GAP = 2142041274.0492246


def problem_of(sizes, dtype=torch.float64, seed=0):
    return MatrixQuadraticRegression.random(
        *sizes, torch.Generator().manual_seed(seed), dtype=dtype
    )


def point(problem, dtype=torch.float64, seed=1):
    return torch.randn(problem.shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def hessian(problem):
    return torch.kron(problem.B @ problem.B.mT, problem.A.mT @ problem.A)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_gradient_is_the_derivative_of_the_objective(sizes):
    problem = problem_of(sizes)
    X = point(problem).requires_grad_()
    (expected,) = torch.autograd.grad(problem.objective(X), X)
    torch.testing.assert_close(problem.gradient(X.detach()), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_constants_are_the_extreme_eigenvalues_of_the_hessian(sizes):
    problem = problem_of(sizes)
    eigenvalues = torch.linalg.eigvalsh(hessian(problem))
    largest = eigenvalues[-1].item()
    assert problem.smoothness == pytest.approx(largest, rel=1e-12)
    assert problem.strong_convexity == pytest.approx(eigenvalues[0].item(), abs=1e-12 * largest)
    if problem.strong_convexity:
        assert problem.condition_number == pytest.approx(
            (eigenvalues[-1] / eigenvalues[0]).item(), rel=1e-9
        )
    else:
        assert problem.condition_number == math.inf


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_the_solution_has_no_gradient(sizes):
    problem = problem_of(sizes)
    scale = problem.gradient(torch.zeros(problem.shape, dtype=torch.float64)).norm()
    assert problem.gradient(problem.solution()).norm() <= 1e-13 * scale * problem.A.norm()


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_gap_is_the_objective_above_its_optimum(sizes):
    problem = problem_of(sizes)
    X = point(problem)
    value = problem.objective(X).item()
    assert problem.gap(X) == pytest.approx(value - problem.optimum, rel=1e-11, abs=1e-13 * value)
    assert problem.gap(problem.solution()) <= 1e-26 * value


def test_gap_resolves_what_the_subtraction_loses():
    """At X* + δE the gap is δ²/2 ‖A E B‖² also where that is far below one rounding of f*."""
    problem = problem_of((6, 4, 200, 150))
    E, delta = point(problem), 1e-10
    expected = delta**2 / 2 * (problem.A @ E @ problem.B).square().sum().item()
    assert expected < torch.finfo(torch.float64).eps * problem.optimum
    assert problem.gap(problem.solution() + delta * E) == pytest.approx(expected, rel=1e-4)


def test_gap_of_a_diverged_point_is_not_finite():
    problem = problem_of((2, 2, 3, 3), dtype=torch.float32)
    assert not math.isfinite(problem.gap(torch.full((2, 2), math.inf)))


def test_the_solution_has_the_least_norm_among_the_minimisers():
    problem = problem_of((4, 2, 2, 3))  # A is 2 × 4: X may move in its null space
    null_space = torch.linalg.svd(problem.A).Vh[2:].mT
    assert problem.gap(problem.solution() + null_space @ point(problem)[:2]) < 1e-25
    assert (null_space.mT @ problem.solution()).abs().max() < 1e-13


def test_newton_direction_inverts_the_hessian():
    problem = problem_of((4, 3, 7, 5))
    G = point(problem)
    columns = torch.linalg.solve(hessian(problem), G.mT.reshape(-1))  # vec stacks columns
    expected = columns.reshape(problem.shape[::-1]).mT
    torch.testing.assert_close(problem.newton_direction(G), expected, rtol=1e-10, atol=1e-12)


def test_one_full_newton_step_solves_the_problem():
    problem = problem_of((4, 3, 7, 5))
    X = point(problem)
    X = X - problem.newton_direction(problem.gradient(X))
    torch.testing.assert_close(X, problem.solution(), rtol=1e-9, atol=1e-11)


def test_newton_direction_needs_a_regular_hessian():
    problem = problem_of((6, 4, 3, 5))
    with pytest.raises(torch.linalg.LinAlgError):
        problem.newton_direction(point(problem))


def test_single_precision_data_have_double_precision_constants():
    single = problem_of((4, 3, 7, 5), dtype=torch.float32)
    double = single.to(torch.float64)
    assert (single.smoothness, single.strong_convexity) == (
        double.smoothness,
        double.strong_convexity,
    )
    assert single.optimum == double.optimum
    assert torch.equal(single.solution(), double.solution())
    assert single.gradient(point(single, torch.float32)).dtype == torch.float32


def test_the_published_draw_is_that_of_torchs_global_generator():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        data = [torch.randn(shape) for shape in ((1000, 500), (100, 250), (1000, 250))]
        torch.manual_seed(7)
        expected_start = torch.nn.init.uniform_(torch.empty(500, 100), -1, 1)
        before = torch.random.get_rng_state()
        problem, start = MatrixQuadraticRegression.published(seed=7)
        assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(start, expected_start)
    assert all(
        torch.equal(ours, theirs)
        for ours, theirs in zip((problem.A, problem.B, problem.C), data, strict=True)
    )


def test_the_published_problem_starts_at_the_published_gap():
    problem, start = MatrixQuadraticRegression.published(seed=42)
    assert problem.gap(start) == pytest.approx(PUBLISHED_GAP, rel=1e-9)
    assert problem.optimum == pytest.approx(1.003e5, rel=0.02)
    singular_values = [torch.linalg.svdvals(data.double()) for data in (problem.A, problem.B)]
    kappas = [(sigma[0] / sigma[-1]).item() for sigma in singular_values]
    assert problem.condition_number == pytest.approx((kappas[0] * kappas[1]) ** 2, rel=1e-12)


def test_a_returned_solution_can_be_changed_freely():
    problem = problem_of((4, 3, 7, 5))
    problem.solution().zero_()
    assert problem.gap(problem.solution()) < 1e-20


GOOD = {"A": torch.ones(5, 3), "B": torch.ones(2, 4), "C": torch.ones(5, 4)}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("A", torch.ones(5), r"A must be a non-empty matrix, got shape \(5,\)"),
        ("B", torch.ones(1, 2, 4), r"B must be a non-empty matrix, got shape \(1, 2, 4\)"),
        ("A", torch.ones(0, 3), r"A must be a non-empty matrix, got shape \(0, 3\)"),
        ("C", torch.ones(4, 4), r"C has shape \(4, 4\).*need a C of shape \(5, 4\)"),
        ("C", torch.full((5, 4), math.nan), "C must be finite"),
        ("B", torch.full((2, 4), math.inf), "B must be finite"),
        ("B", torch.ones(2, 4).double(), "B has dtype torch.float64, but A has torch.float32"),
        ("A", torch.ones(5, 3).half(), "A must be float32 or float64, got torch.float16"),
        ("A", torch.ones(5, 3, dtype=torch.int64), "A must be float32 or float64, got torch.int64"),
    ],
)
def test_refuses_data_that_make_no_problem(name, value, message):
    with pytest.raises(ValueError, match=message):
        MatrixQuadraticRegression(**{**GOOD, name: value})


def test_refuses_what_is_not_a_tensor():
    with pytest.raises(TypeError, match="B must be a tensor, got list"):
        MatrixQuadraticRegression(GOOD["A"], [[1.0]], GOOD["C"])


@pytest.mark.parametrize("method", ["objective", "gradient", "residual", "gap"])
def test_refuses_a_point_of_another_shape(method):
    problem = MatrixQuadraticRegression(**GOOD)
    with pytest.raises(ValueError, match=r"X has shape \(2, 3\), but this problem needs \(3, 2\)"):
        getattr(problem, method)(torch.ones(2, 3))


def test_refuses_a_point_of_another_dtype():
    with pytest.raises(ValueError, match=r"X has dtype torch.float64.*torch.float32"):
        MatrixQuadraticRegression(**GOOD).gradient(torch.ones(3, 2).double())


def test_refuses_a_size_of_zero():
    with pytest.raises(ValueError, match="p must be at least 1, got 0"):
        MatrixQuadraticRegression.random(2, 2, 0, 2)


def test_its_text_is_one_line_of_sizes():
    assert repr(problem_of((4, 3, 7, 5))) == (
        "MatrixQuadraticRegression(m=4, n=3, p=7, q=5, dtype=torch.float64)"
    )


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_hessian_vector_is_the_kronecker_hessian_times_the_direction(sizes):
    problem = problem_of(sizes)
    X, V = point(problem), point(problem, seed=2)
    columns = hessian(problem) @ V.mT.reshape(-1)  # vec stacks columns
    expected = columns.reshape(problem.shape[::-1]).mT
    torch.testing.assert_close(problem.hessian_vector(X, V), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_step_curvature_is_the_second_derivative_along_a_direction(sizes):
    problem = problem_of(sizes)
    X, D = point(problem), point(problem, seed=2)
    expected = (D * problem.hessian_vector(X, D)).sum()
    torch.testing.assert_close(problem.step_curvature(D), expected, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize(("fraction", "sign"), [(0.999, -1.0), (1.001, 1.0)])
def test_a_step_descends_up_to_two_over_its_curvature(fraction, sign):
    """f(X - γ a D) - f(X) has the sign of γ - 2/‖A D B‖², with a = ⟨∇f(X), D⟩."""
    problem = problem_of((5, 4, 7, 6))
    X = point(problem)
    G = problem.gradient(X)
    U, _, Vh = torch.linalg.svd(G, full_matrices=False)
    D = U @ Vh
    step = fraction * 2.0 / problem.step_curvature(D)
    change = problem.objective(X - step * (G * D).sum() * D) - problem.objective(X)
    assert sign * change > 0


@pytest.mark.parametrize("method", ["hessian_vector", "step_curvature"])
def test_refuses_a_direction_of_another_shape(method):
    problem = MatrixQuadraticRegression(**GOOD)
    directions = [torch.ones(3, 2), torch.ones(2, 3)][-1 if method == "step_curvature" else 0 :]
    with pytest.raises(ValueError, match=r"shape \(2, 3\), but this problem needs \(3, 2\)"):
        getattr(problem, method)(*directions)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_spectral_smoothness_is_the_largest_curvature_of_a_unit_direction(sizes):
    """No isometry has a larger ‖A D B‖², and the one of paired singular vectors attains it."""
    problem = problem_of(sizes)
    bound = problem.spectral_smoothness
    _, _, Vh = torch.linalg.svd(problem.A)
    P, _, _ = torch.linalg.svd(problem.B)
    rank = min(problem.shape)
    best = Vh[:rank].mT @ P[:, :rank].mT
    assert float(problem.step_curvature(best)) == pytest.approx(bound, rel=1e-12)
    generator = torch.Generator().manual_seed(2)
    for _ in range(50):
        G = torch.randn(problem.shape, generator=generator, dtype=torch.float64)
        W, _, Zh = torch.linalg.svd(G, full_matrices=False)
        assert float(problem.step_curvature(W @ Zh)) <= bound * (1 + 1e-12)
    assert problem.smoothness <= bound * (1 + 1e-12)
    assert bound <= rank * problem.smoothness * (1 + 1e-12)
