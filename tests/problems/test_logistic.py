"""Matrix logistic regression against autograd, its Kronecker Hessian, and the published draw."""

import math

import pytest
import torch

import polargrad as pg
from polargrad.linalg import QDWH
from polargrad.linalg.methods import plain
from polargrad.problems import MatrixLogisticRegression, OptimumError, RowBatches

EPS = torch.finfo(torch.float64).eps
SIZES = [(4, 3, 30, 6), (1, 1, 40, 1), (5, 2, 20, 9), (6, 3, 4, 20), (3, 5, 60, 3)]  # m, n, N, q
# timlautk/polargrad at 79f3c6f, seed 42: full-data loss per entry at the start, and of PolarSGD
# with two-step QDWH and lr 1.5e-7 before its eleventh step.
PUBLISHED_START, PUBLISHED_TENTH, PUBLISHED_LR = 72.81615489174536, 64.46811250763271, 1.5e-7


def normal(*shape, seed=1, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def problem_of(sizes, labels="signs", dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return MatrixLogisticRegression.random(*sizes, generator, labels=labels, dtype=dtype)


def explicit_hessian(problem, X):
    """Σ C² σ'(z) k kᵀ over all entries, k = b ⊗ a the row of the entry for vec X."""
    rows = torch.kron(problem.B.mT.contiguous(), problem.A)  # of vec(A X B), columns stacked
    z = (rows @ X.mT.reshape(-1)).reshape(problem.C.shape[::-1]).mT * problem.C
    weights = problem.C.square() * z.exp() / (1 + z.exp()).square()
    return rows.mT @ (weights.mT.reshape(-1, 1) * rows)


@pytest.mark.parametrize("labels", ["signs", "zero-one"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_objective_is_the_sum_of_the_logistic_losses(sizes, labels):
    problem = problem_of(sizes, labels)
    X = normal(*problem.shape)
    expected = (1 + (-problem.C * (problem.A @ X @ problem.B)).exp()).log().sum()
    torch.testing.assert_close(problem.objective(X), expected, rtol=1e-13, atol=0.0)
    assert problem.loss_per_entry(X) == pytest.approx(expected.item() / problem.C.numel())


@pytest.mark.parametrize("labels", ["signs", "zero-one"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_gradient_is_the_derivative_of_the_objective(sizes, labels):
    problem = problem_of(sizes, labels)
    X = normal(*problem.shape).requires_grad_()
    (expected,) = torch.autograd.grad(problem.objective(X), X)
    torch.testing.assert_close(problem.gradient(X.detach()), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("labels", ["signs", "zero-one"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_hessian_vector_is_the_derivative_of_the_gradient(sizes, labels):
    problem = problem_of(sizes, labels)
    X, V = normal(*problem.shape), normal(*problem.shape, seed=2)
    _, expected = torch.autograd.functional.hvp(problem.objective, X, V)
    image = problem.hessian_vector(X, V)
    torch.testing.assert_close(image, expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(problem.hessian_at((X,))((V,))[0], image, rtol=0.0, atol=0.0)
    columns = explicit_hessian(problem, X) @ V.mT.reshape(-1)
    kronecker = columns.reshape(problem.shape[::-1]).mT
    torch.testing.assert_close(image, kronecker, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_smoothness_is_reached_at_zero_and_nowhere_passed(sizes):
    """At X = 0 every weight is ¼, so that the bound is the largest eigenvalue."""
    problem = problem_of(sizes)
    for X, largest in ((torch.zeros(problem.shape).double(), 1.0), (normal(*problem.shape), 0.999)):
        eigenvalue = torch.linalg.eigvalsh(explicit_hessian(problem, X))[-1].item()
        assert eigenvalue <= largest * problem.smoothness * (1 + 1e-12)
    zero = torch.linalg.eigvalsh(explicit_hessian(problem, torch.zeros_like(X)))[-1].item()
    assert zero == pytest.approx(problem.smoothness, rel=1e-12)
    assert problem.strong_convexity == 0.0
    assert problem.condition_number == math.inf


def test_curvature_is_the_spectrum_at_the_point():
    problem = problem_of((4, 3, 30, 6))
    X = normal(4, 3)
    eigenvalues = torch.linalg.eigvalsh(explicit_hessian(problem, X))
    curvature = problem.curvature(X)
    assert curvature.smallest == pytest.approx(eigenvalues[0].item(), rel=1e-8)
    assert curvature.largest == pytest.approx(eigenvalues[-1].item(), rel=1e-8)


@pytest.mark.parametrize("labels", ["signs", "zero-one"])
def test_optimum_is_that_of_another_method(labels):
    problem = problem_of((4, 3, 60, 8), labels)
    X = torch.zeros(4, 3, dtype=torch.float64, requires_grad=True)
    peer = torch.optim.LBFGS(
        [X], max_iter=500, tolerance_grad=1e-12, tolerance_change=0.0, line_search_fn="strong_wolfe"
    )

    def closure():
        peer.zero_grad()
        loss = problem.objective(X)
        loss.backward()
        return loss

    peer.step(closure)
    assert problem.optimum == pytest.approx(closure().item(), rel=1e-13)
    torch.testing.assert_close(problem.solution(), X.detach(), rtol=1e-6, atol=1e-7)


def test_optimum_is_certified_by_a_theorem():
    """What is left of the gap is below a millionth of a rounding of f*.

    |φ'''| ≤ φ'' for φ = softplus. So with R = max ‖a‖‖b‖ the Hessian within 1/R of X is at least
    H(X)/e, and at least μ/e. If ‖∇f(X)‖ < μ/(2 e R), f on the sphere of radius 1/R is larger than
    f(X): the minimiser lies inside, and f(X) - f* ≤ e ‖∇f(X)‖² / (2 μ).
    """
    problem = problem_of((4, 3, 60, 8))
    X = problem.solution()
    mu = torch.linalg.eigvalsh(explicit_hessian(problem, X))[0].item()
    radius = 1 / (problem.A.norm(dim=1).max() * problem.B.norm(dim=0).max()).item()
    slope = problem.gradient(X).norm().item()
    assert slope < mu * radius / (2 * math.e)
    assert math.e * slope**2 / (2 * mu) <= 1e-6 * EPS * problem.optimum


def test_single_precision_data_have_a_double_precision_optimum():
    single = problem_of((4, 3, 60, 8), dtype=torch.float32)
    double = single.to(torch.float64)
    assert single.optimum == double.optimum
    assert torch.equal(single.solution(), double.solution())
    assert single.smoothness == double.smoothness
    assert single.gradient(normal(4, 3, dtype=torch.float32)).dtype == torch.float32


@pytest.mark.parametrize("labels", ["signs", "zero-one"])
def test_gap_is_the_objective_above_its_optimum(labels):
    problem = problem_of((4, 3, 60, 8), labels)
    for scale in (0.01, 1.0, 30.0):
        X = scale * normal(4, 3)
        value = problem.objective(X).item()
        expected = value - problem.optimum
        assert problem.gap(X) == pytest.approx(expected, abs=1e-12 * value)
        assert problem.gap(X.float()) == pytest.approx(expected, rel=1e-4)
    assert problem.gap(problem.solution()) == 0.0


def test_gap_resolves_what_the_subtraction_loses():
    """At X* + δE the gap is δ²/2 ⟨E, H E⟩ also where that is far below one rounding of f*."""
    problem = problem_of((4, 3, 60, 8))
    E, delta = normal(4, 3), 1e-9
    best = problem.solution()
    expected = delta**2 / 2 * (E * problem.hessian_vector(best, E)).sum().item()
    assert expected < EPS * problem.optimum
    assert problem.gap(best + delta * E) == pytest.approx(expected, rel=1e-4)


def test_gap_of_more_rows_than_a_block_counts_them_all():
    problem = problem_of((2, 2, 2500, 2))
    X = normal(2, 2)
    assert problem.gap(X) == pytest.approx(problem.objective(X).item() - problem.optimum, rel=1e-9)


@pytest.mark.parametrize("value", [math.inf, math.nan, 1e308])
def test_gap_of_a_diverged_point_is_infinite(value):
    problem = problem_of((2, 2, 40, 3))
    assert problem.gap(torch.full((2, 2), value, dtype=torch.float64)) == math.inf


def test_the_solution_has_the_least_norm_among_the_minimisers():
    wide = problem_of((6, 2, 4, 40))  # A is 4 × 6: X may move in its null space
    null_space = torch.linalg.svd(wide.A).Vh[4:].mT
    assert (null_space.mT @ wide.solution()).abs().max() < 1e-13
    assert wide.gap(wide.solution() + null_space @ normal(2, 2)) < 1e-12


def separable(share=1.0):
    """Labels that are the signs of A X B for some X, but for a share of them."""
    A, B, X = normal(30, 3, seed=1), normal(2, 5, seed=2), normal(3, 2, seed=3)
    C = (A @ X @ B).sign()
    flipped = torch.rand(C.shape, generator=torch.Generator().manual_seed(4)) > share
    return MatrixLogisticRegression(A, B, torch.where(flipped, -C, C))


def test_labels_that_some_matrix_separates_have_no_optimum():
    problem = separable()
    for ask in (lambda: problem.optimum, problem.solution, lambda: problem.gap(normal(3, 2))):
        with pytest.raises(OptimumError, match="f has no minimiser: an X of norm"):
            ask()
    assert separable(share=0.9).optimum > 0.0


def test_one_class_that_a_matrix_separates_has_no_optimum():
    A = normal(20, 3).abs()  # any X > 0 gives every entry a positive sign
    B = normal(2, 4).abs()
    one_class = MatrixLogisticRegression(A, B, torch.ones(20, 4).double())
    with pytest.raises(OptimumError, match="f has no minimiser"):
        _ = one_class.optimum


def test_one_class_of_vectors_on_all_sides_has_an_optimum():
    """With rows ±a the two halves of one class pull X to 0."""
    A = normal(10, 3)
    problem = MatrixLogisticRegression(torch.cat([A, -A]), normal(2, 4), torch.ones(20, 4).double())
    assert problem.optimum == pytest.approx(80 * math.log(2), rel=1e-14)
    assert problem.solution().abs().max() < 1e-12


def test_labels_separated_in_a_part_of_the_space_have_no_optimum():
    """The first row of X separates the first rows of A, and nothing speaks against it."""
    A = torch.block_diag(torch.ones(5, 1), torch.ones(4, 1)).double()
    C = torch.ones(9, 1).double()
    C[7:] = -1.0
    with pytest.raises(OptimumError, match="Perhaps the infimum is not attained"):
        _ = MatrixLogisticRegression(A, torch.ones(1, 1).double(), C).optimum


def test_data_without_labels_are_flat():
    problem = MatrixLogisticRegression(normal(5, 3), normal(2, 4), torch.zeros(5, 4).double())
    assert problem.optimum == pytest.approx(20 * math.log(2), rel=1e-15)
    assert problem.smoothness == 0.0
    assert problem.gap(normal(3, 2)) == 0.0


def test_data_of_zeros_are_flat():
    problem = MatrixLogisticRegression(torch.zeros(5, 3), normal(2, 4).float(), torch.ones(5, 4))
    assert problem.optimum == pytest.approx(20 * math.log(2), rel=1e-15)
    assert problem.smoothness == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_objective_of_large_margins_neither_overflows_nor_rounds_to_zero(dtype):
    one = torch.ones(1, 1, dtype=dtype)
    problem = MatrixLogisticRegression(one, one, one)
    eps = torch.finfo(dtype).eps
    for z in (25.0, 60.0):  # log(1 + e⁻ᶻ) = e⁻ᶻ to rounding
        expected = math.exp(-z)
        assert problem.objective(z * one).item() == pytest.approx(expected, rel=4 * eps * z)
        assert problem.objective(-z * one).item() == pytest.approx(z + expected, rel=eps)
    assert problem.objective(-1e30 * one).item() == pytest.approx(1e30, rel=eps)


def test_a_batch_is_the_problem_of_its_rows():
    problem = problem_of((4, 3, 30, 6))
    rows = torch.tensor([3, 3, 17, 0])
    batch, X = problem.batch(rows), normal(4, 3)
    expected = MatrixLogisticRegression(problem.A[rows], problem.B, problem.C[rows])
    assert torch.equal(batch.objective(X), expected.objective(X))
    assert torch.equal(batch.gradient(X), expected.gradient(X))
    assert batch.B is problem.B
    assert batch.C.shape == (4, 6)


def test_the_gradients_of_all_rows_add_up_to_the_gradient():
    problem = problem_of((4, 3, 30, 6))
    X = normal(4, 3)
    total = sum(problem.batch(rows).gradient(X) for rows in torch.arange(30).split(7))
    torch.testing.assert_close(total, problem.gradient(X), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("labels", ["signs", "zero-one"])
def test_the_published_draw_is_that_of_torchs_global_generator(labels):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        A, B = torch.randn(10000, 1000), torch.randn(100, 400)
        above = (torch.randn if labels == "signs" else torch.rand)(10000, 400) > 0.5
        C = torch.where(above, 1.0, -1.0 if labels == "signs" else 0.0)
        torch.manual_seed(7)
        expected_start = torch.nn.init.uniform_(torch.empty(1000, 100), -1, 1)
        batches = [torch.randint(0, 10000, (1000,)) for _ in range(2)]
        before = torch.random.get_rng_state()
        problem, start = MatrixLogisticRegression.published(seed=7, labels=labels)
        stream = MatrixLogisticRegression.published_batches(seed=7)
        ours = [next(stream) for _ in range(2)]
        assert torch.equal(torch.random.get_rng_state(), before)
    for mine, theirs in ((problem.A, A), (problem.B, B), (problem.C, C), (start, expected_start)):
        assert torch.equal(mine, theirs)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(ours, batches, strict=True))


def test_the_published_runs_are_reproduced():
    """Another draw of the batches differs by 2e-4 at step 10."""
    problem, X = MatrixLogisticRegression.published(seed=42)
    batches = MatrixLogisticRegression.published_batches(seed=42)
    assert problem.loss_per_entry(X) == pytest.approx(PUBLISHED_START, rel=1e-7)
    optimizer = pg.PolarGrad([X], lr=PUBLISHED_LR, momentum=0.0, method=plain(QDWH.reference()))
    for _ in range(10):
        X.grad = problem.batch(next(batches)).gradient(X)
        optimizer.step()
    assert problem.loss_per_entry(X) == pytest.approx(PUBLISHED_TENTH, rel=1e-6)


def test_a_stream_of_batches_continues_where_it_was_saved():
    stream = RowBatches(torch.Generator().manual_seed(3), rows=50, size=8)
    next(stream)
    state = stream.state_dict()
    expected = [next(stream) for _ in range(3)]
    other = RowBatches(torch.Generator(), rows=50, size=8)
    other.load_state_dict(state)
    assert all(torch.equal(next(other), rows) for rows in expected)
    assert not torch.equal(*expected[:2])
    assert all(rows.min() >= 0 and rows.max() < 50 for rows in expected)


def test_a_state_of_other_batches_is_refused():
    state = RowBatches(torch.Generator(), rows=50, size=8).state_dict()
    with pytest.raises(ValueError, match="the state is of rows = 50, but here it is 40"):
        RowBatches(torch.Generator(), rows=40, size=8).load_state_dict(state)
    with pytest.raises(ValueError, match="the state is of size = 8, but here it is 9"):
        RowBatches(torch.Generator(), rows=50, size=9).load_state_dict(state)


GOOD = {"A": torch.ones(5, 3), "B": torch.ones(2, 4), "C": torch.ones(5, 4)}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("A", torch.ones(5), r"A must be a non-empty matrix, got shape \(5,\)"),
        ("C", torch.ones(4, 5), r"C has shape \(4, 5\).*need a C of shape \(5, 4\)"),
        ("B", torch.full((2, 4), math.inf), "B must be finite"),
        ("C", torch.full((5, 4), math.nan), "C must be finite"),
        ("C", torch.full((5, 4), 2.0), "C must hold labels -1 and 1.*got 2 among 20 other entries"),
        ("C", torch.full((5, 4), 0.5), "C must hold labels -1 and 1.*got 0.5"),
        ("C", torch.ones(5, 4, dtype=torch.int64), "C must be float32 or float64, got torch.int64"),
        ("B", torch.ones(2, 4).double(), "B has dtype torch.float64, but A has torch.float32"),
    ],
)
def test_refuses_data_that_make_no_problem(name, value, message):
    with pytest.raises(ValueError, match=message):
        MatrixLogisticRegression(**{**GOOD, name: value})


def test_refuses_what_is_not_a_tensor():
    with pytest.raises(TypeError, match="C must be a tensor, got list"):
        MatrixLogisticRegression(GOOD["A"], GOOD["B"], [[1.0]])


@pytest.mark.parametrize("method", ["objective", "gradient", "loss_per_entry", "margins", "gap"])
def test_refuses_a_point_of_another_shape(method):
    problem = MatrixLogisticRegression(**GOOD)
    with pytest.raises(ValueError, match=r"X has shape \(2, 3\), but this problem needs \(3, 2\)"):
        getattr(problem, method)(torch.ones(2, 3))


def test_refuses_a_point_of_another_dtype():
    with pytest.raises(ValueError, match=r"X has dtype torch.float64.*torch.float32"):
        MatrixLogisticRegression(**GOOD).gradient(torch.ones(3, 2).double())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((2, 2, 0, 2), "signs"), "N must be at least 1, got 0"),
        (((2, 2, 3, 2), "ones"), 'labels must be "signs" or "zero-one", got \'ones\''),
    ],
)
def test_refuses_a_draw_that_there_is_not(arguments, message):
    sizes, labels = arguments
    with pytest.raises(ValueError, match=message):
        MatrixLogisticRegression.random(*sizes, labels=labels)


@pytest.mark.parametrize("name", ["rows", "size"])
def test_refuses_batches_of_nothing(name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        RowBatches(torch.Generator(), **{"rows": 5, "size": 5, name: 0})


def test_its_text_is_one_line_of_sizes():
    assert repr(problem_of((4, 3, 30, 6))) == (
        "MatrixLogisticRegression(m=4, n=3, N=30, q=6, dtype=torch.float64)"
    )
