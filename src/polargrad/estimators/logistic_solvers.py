r"""Solvers of a logistic regression in a matrix: L-BFGS and PolarGrad.

Both minimise, with a loss ℓ of the logits,

.. math:: f(W, c) = \ell(X W B + \mathbf 1 c^{\mathsf T}) + \tfrac{\alpha}{2}\|W\|_F^2 .
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize

from polargrad.estimators.design import best_amounts, inner, polar_direction, rounding, times
from polargrad.estimators.iteration import HeldOut, Solution, Stopping
from polargrad.estimators.logistic_losses import Loss
from polargrad.estimators.validation import Array, Rows

__all__ = ["LogisticProblem", "solve_lbfgs", "solve_polargrad"]

LBFGS_AT_LIMIT = 1  # scipy's status for a run that came to its iteration limit
# What rounding leaves of the gradient, relative to its first value, where L-BFGS can go no further.
ROUNDING = 1e-7


@dataclass(frozen=True)
class LogisticProblem:
    """f above: its logits, value and gradient.

    Args:
        X: n × p, centred where there is an intercept.
        B: k × q; None for the identity.
        loss: of the logits, n × q.
        alpha: α.
        intercept: whether c is free; else it is zero.
    """

    X: Array
    B: Array | None
    loss: Loss
    alpha: float
    intercept: bool

    @property
    def start(self) -> tuple[Array, Array]:
        """W = 0, p × k, and c = 0, of length q."""
        columns = self.loss.observed.shape[1]
        rows = columns if self.B is None else self.B.shape[0]
        return np.zeros((self.X.shape[1], rows)), np.zeros(columns)

    def logits(self, W: Array, c: Array) -> Array:
        """X W B + 1 cᵀ, n × q."""
        return times(self.X, W, self.B) + c

    def of_rows(self, rows: Rows) -> LogisticProblem:
        """The problem of these rows alone."""
        return replace(self, X=self.X[rows], loss=self.loss.of_rows(rows))

    def value(self, W: Array, Z: Array) -> float:
        """f, for W with the logits Z."""
        return self.loss.value(Z) + 0.5 * self.alpha * inner(W, W)

    def gradients(self, W: Array, Z: Array) -> tuple[Array, Array]:
        """The derivatives of f with respect to W and c."""
        residual = self.loss.residual(Z)
        G = times(self.X.T, residual, None if self.B is None else self.B.T) + self.alpha * W
        return G, residual.sum(axis=0) if self.intercept else np.zeros(Z.shape[1])


def solve_lbfgs(problem: LogisticProblem, stopping: Stopping) -> Solution:
    """L-BFGS, as scipy has it; it ends at max |∇f| ≤ tol · max |∇f| at zero."""
    W, c = problem.start
    size = W.size
    first = np.concatenate([part.ravel() for part in problem.gradients(W, problem.logits(W, c))])
    largest = float(np.abs(first).max())

    def unpacked(vector: Array) -> tuple[Array, Array]:
        return vector[:size].reshape(W.shape), vector[size:]

    def value_and_gradient(vector: Array) -> tuple[float, Array]:
        at, constants = unpacked(vector)
        Z = problem.logits(at, constants)
        parts = [part.ravel() for part in problem.gradients(at, Z)]
        return problem.value(at, Z), np.concatenate(parts)

    told = 0

    def tell(intermediate_result: object) -> None:
        nonlocal told
        told += 1
        stopping.tell(told, f"objective {intermediate_result.fun:.6g}")  # type: ignore[attr-defined]

    result = minimize(
        value_and_gradient,
        np.zeros(size + c.size),
        jac=True,
        method="L-BFGS-B",
        callback=tell,
        options={
            "maxiter": stopping.max_iter,
            "maxfun": 20 * stopping.max_iter + 20,
            "gtol": stopping.tol * largest,
            "ftol": 0.0,
        },
    )
    reached = float(np.abs(result.jac).max()) / largest if largest else 0.0
    # An abnormal line search at a tiny gradient is rounding; elsewhere it is a failure.
    if reached > stopping.tol and (result.status == LBFGS_AT_LIMIT or reached > ROUNDING):
        stopping.warn("the gradient's largest entry over that at zero", reached)
    return Solution(unpacked(result.x), max(int(result.nit), 1))


def solve_polargrad(
    problem: LogisticProblem, stopping: Stopping, held_out: HeldOut | None
) -> Solution:
    r"""Steepest descent in the spectral norm with momentum for W, and a bounded Newton step for c.

    .. math:: D = \mathrm{polar}(\nabla_W f), \qquad S \leftarrow -\gamma D + \beta S, \qquad
              W \leftarrow W + 2^k S, \qquad
              c_j \leftarrow c_j - \frac{\partial f/\partial c_j}{h\,n_j}

    h bounds the curvature of the loss, ¼ for binary labels and ½ for classes, and n_j counts the
    observed labels of column j. With h for the curvature there is a quadratic that lies above f and
    touches it; (γ, β) minimise it on the plane of D and the last step, the step of c minimises it
    in c, so that neither raises f. The step is then doubled, k times, as long as f falls: f along S
    is a function of X S B, which is computed once. There is no learning rate, and singular values
    of the gradient that are rounding count as zero. It ends where ‖∇_W f‖_* + ‖∇_c f‖₁ is at most
    tol times its value at zero, where a step lowers f by less than a rounding, or where the
    held-out loss has stopped falling.
    """
    W, c = problem.start
    Z = problem.logits(W, c)
    bounds = problem.loss.curvature * problem.loss.observed.sum(axis=0)
    start, reached, value = 0.0, 0.0, problem.value(W, Z)
    last: list[Array] = []  # the last step, once there is one
    if held_out is not None:
        held_out.add(W, c)
    for iterations in range(1, stopping.max_iter + 1):
        G, g = problem.gradients(W, Z)
        D, norm = polar_direction(G, rounding(problem.X, problem.loss.residual(Z), problem.B))
        measure = norm + float(np.abs(g).sum())
        start = start or measure
        reached = measure / start if start else 0.0
        if reached <= stopping.tol:
            break
        step = _step(problem, W, Z, G, [D, *last])
        W, last = W + step, [step]
        if problem.intercept:
            c = c - problem.gradients(W, problem.logits(W, c))[1] / bounds
        Z = problem.logits(W, c)
        before, value = value, problem.value(W, Z)
        stopping.tell(iterations, f"objective {value:.6g}, relative gradient {reached:.2g}")
        if held_out is not None and held_out.add(W, c):
            break
        if before - value <= np.finfo(np.float64).eps * value:
            break
    else:
        if held_out is None:
            stopping.warn("the gradient's dual norm over that at zero", reached)
    return Solution((W, c) if held_out is None else held_out.best, iterations)


def _step(problem: LogisticProblem, W: Array, Z: Array, G: Array, directions: list[Array]) -> Array:
    """The step on the span of ``directions`` that lowers the quadratic above f most, doubled."""
    images = [times(problem.X, direction, problem.B) for direction in directions]
    seen = [np.where(problem.loss.observed, image, 0.0) for image in images]
    slopes = [-inner(G, direction) for direction in directions]
    amounts = best_amounts(directions, seen, slopes, problem.loss.curvature, problem.alpha)
    step: Array = np.tensordot(amounts, np.array(directions), axes=1)
    along = np.tensordot(amounts, np.array(images), axes=1)
    value = problem.value(W + step, Z + along)
    while (further := problem.value(W + 2 * step, Z + 2 * along)) < value:
        step, along, value = 2 * step, 2 * along, further
    return step
