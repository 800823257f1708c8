"""Problems in two factors: points, derivatives by autograd, and what must hold of each of them."""

import torch
from matrices import eps

DOUBLE = torch.float64


def gauss(*shape, seed=0, dtype=DOUBLE):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def point(problem, seed=1, dtype=DOUBLE):
    return tuple(
        gauss(*shape, seed=100 * seed + i, dtype=dtype) for i, shape in enumerate(problem.shapes)
    )


def hessian(problem, unknowns):
    """The Hessian of all unknowns' entries, by autograd."""
    sizes = [unknown.numel() for unknown in unknowns]

    def flat(vector):
        parts = zip(torch.split(vector, sizes), problem.shapes, strict=True)
        return problem.objective(*(part.reshape(shape) for part, shape in parts))

    return torch.autograd.functional.hessian(flat, torch.cat([u.flatten() for u in unknowns]))


def close(ours, expected, multiple=200):
    """Equal within a multiple of eps, relative to the largest entry."""
    size = max(float(expected.abs().max()), 1e-300)
    torch.testing.assert_close(ours, expected, rtol=0, atol=multiple * eps(DOUBLE) * size)


def check_gradients(problem):
    unknowns = tuple(unknown.requires_grad_() for unknown in point(problem))
    expected = torch.autograd.grad(problem.objective(*unknowns), unknowns)
    ours = problem.gradients(*(unknown.detach() for unknown in unknowns))
    for part, reference in zip(ours, expected, strict=True):
        close(part, reference)


def check_hessian_vectors(problem):
    unknowns, along = point(problem), point(problem, seed=2)
    ours = problem.hessian_vectors(unknowns, along)
    assert tuple(tuple(part.shape) for part in ours) == problem.shapes
    vector = torch.cat([part.flatten() for part in along])
    close(torch.cat([part.flatten() for part in ours]), hessian(problem, unknowns) @ vector)


def check_invariance(problem):
    """f(X Q, Y Q⁻ᵀ) = f(X, Y), and the gradients change by Q⁻ᵀ and Q."""
    X, Y = point(problem)
    Q = gauss(problem.rank, problem.rank, seed=7) + 3 * torch.eye(problem.rank, dtype=DOUBLE)
    inverse = torch.linalg.inv(Q).mT
    multiple = 200 * float(torch.linalg.cond(Q)) ** 2
    close(problem.objective(X @ Q, Y @ inverse), problem.objective(X, Y), multiple)
    ours, before = problem.gradients(X @ Q, Y @ inverse), problem.gradients(X, Y)
    close(ours[0], before[0] @ inverse, multiple)
    close(ours[1], before[1] @ Q, multiple)


def check_curvature(problem):
    """Lanczos finds the extreme eigenvalues that autograd's Hessian has."""
    unknowns = point(problem)
    eigenvalues = torch.linalg.eigvalsh(hessian(problem, unknowns))
    size = float(eigenvalues.abs().max())
    found = problem.curvature(*unknowns)
    assert abs(found.smallest - float(eigenvalues[0])) <= 1e-9 * size
    assert abs(found.largest - float(eigenvalues[-1])) <= 1e-9 * size


def check_loss_smoothness(problem):
    """It is the largest eigenvalue of the Hessian of a quadratic f as a function of X Yᵀ."""
    (m, _), (n, _) = problem.shapes

    def of_product(Z):
        return problem.loss(problem.left(Z.reshape(m, n)))

    curvature = torch.autograd.functional.hessian(of_product, gauss(m * n, seed=3))
    largest = float(torch.linalg.eigvalsh(curvature)[-1])
    assert abs(problem.loss_smoothness - largest) <= 1e-12 * largest


def alternating_least_squares(A, C, rank, sweeps=300):
    """The least ½‖A X Yᵀ - C‖² that alternating exact solves reach from a random start."""
    X = gauss(A.shape[1], rank, seed=5)
    for _ in range(sweeps):
        Y = torch.linalg.lstsq(A @ X, C, driver="gelsd").solution.mT
        right = torch.linalg.lstsq(Y, C.mT, driver="gelsd").solution.mT
        X = torch.linalg.lstsq(A, right, driver="gelsd").solution
    return float(0.5 * (A @ X @ Y.mT - C).square().sum())


def check_gap_beyond_rounding(problem, solution):
    """At a distance δ from a minimiser the gap is δ²/2 ⟨d, H d⟩, far below one rounding of f*."""
    direction, delta = point(problem, seed=4), 1e-10
    images = problem.hessian_vectors(solution, direction)
    curve = sum(float((a * b).sum()) for a, b in zip(direction, images, strict=True))
    expected = delta**2 / 2 * curve
    assert expected < 0.5 * eps(DOUBLE) * problem.optimum
    moved = [a + delta * b for a, b in zip(solution, direction, strict=True)]
    assert abs(problem.gap(*moved) - expected) <= 1e-4 * expected
