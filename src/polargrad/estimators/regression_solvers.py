r"""Solvers of a regression in a matrix: closed form, LSQR, PolarGrad, proximal gradient.

All minimise, with the map 𝒜 of :class:`~polargrad.estimators.design.Design` and the projected
targets T,

.. math:: f(W) = \tfrac12\|\mathcal A(W) - T\|_F^2 + \tfrac{\alpha}{2}\|W\|_F^2 + \nu\|W\|_* ,

the first three with ν = 0.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.sparse.linalg import LinearOperator, lsqr

from polargrad.estimators.design import Design, best_amounts, inner, polar_direction, rounding
from polargrad.estimators.iteration import HeldOut, Solution, Stopping
from polargrad.estimators.validation import Array

__all__ = ["solve_directly", "solve_lsqr", "solve_polargrad", "solve_proximal"]

GAP_EVERY = 10  # iterations between two duality gaps, each as dear as an iteration
LSQR_LIMIT = 7  # scipy's code for a run that came to its iteration limit


def solve_directly(design: Design, T: Array, alpha: float) -> Solution:
    r"""The closed form; with missing targets one for each set of columns with the same gaps.

    With :math:`X = U S V^{\mathsf T}` and :math:`B = P\,\Theta\,Q^{\mathsf T}`

    .. math:: W = V \Bigl[\frac{s_i\theta_j}{s_i^2\theta_j^2 + \alpha}
              (U^{\mathsf T} T Q)_{ij}\Bigr] P^{\mathsf T},

    the solution of least norm where α = 0 and there are many.
    """
    if design.observed is None:
        return Solution((_ridge(design.X, T, alpha, design.B),))
    W = np.zeros(design.shape(T.shape[1]))
    patterns, which = np.unique(design.observed.T, axis=0, return_inverse=True)
    for index, rows in enumerate(patterns):
        columns = np.flatnonzero(which == index)
        X = design.X[rows]
        if design.centred:
            X = X - X.mean(axis=0)
        W[:, columns] = _ridge(X, T[np.ix_(rows, columns)], alpha, None)
    return Solution((W,))


def _ridge(X: Array, T: Array, alpha: float, B: Array | None) -> Array:
    """argmin ½‖X W B − T‖² + ½α‖W‖², of least norm."""
    W: Array
    U, s, Vt = np.linalg.svd(X, full_matrices=False)
    s = _nonzero(s, X.shape)
    if B is None:
        W = Vt.T @ (_filtered(s, alpha)[:, None] * (U.T @ T))
        return W
    P, theta, Qt = np.linalg.svd(B, full_matrices=False)
    inverse = _filtered(np.outer(s, _nonzero(theta, B.shape)), alpha)
    W = Vt.T @ (inverse * (U.T @ T @ Qt.T)) @ P.T
    return W


def _nonzero(values: Array, shape: tuple[int, ...]) -> Array:
    """Singular values, with those that are zero to rounding set to zero."""
    cutoff = max(shape) * np.finfo(values.dtype).eps * values.max(initial=0.0)
    return np.where(values > cutoff, values, 0.0)


def _filtered(values: Array, alpha: float) -> Array:
    """σ/(σ² + α), and 0 where σ = 0."""
    safe = np.where(values > 0, values, 1.0)
    return np.where(values > 0, 1.0 / (safe + alpha / safe), 0.0)


def solve_lsqr(design: Design, T: Array, alpha: float, stopping: Stopping) -> Solution:
    """LSQR (Paige and Saunders 1982) on vec W: needs products with X and B alone."""
    shape = design.shape(T.shape[1])

    def forward(vector: Array) -> Array:
        return design.apply(vector.reshape(shape)).ravel()

    def backward(vector: Array) -> Array:
        return design.adjoint(design.project(vector.reshape(T.shape))).ravel()

    operator = LinearOperator(
        (T.size, math.prod(shape)), matvec=forward, rmatvec=backward, dtype=np.float64
    )
    vector, reason, iterations, *_, gradient, _, _ = lsqr(
        operator,
        T.ravel(),
        damp=math.sqrt(alpha),
        atol=stopping.tol,
        btol=stopping.tol,
        conlim=0,
        iter_lim=stopping.max_iter,
    )
    if reason == LSQR_LIMIT:
        start = np.linalg.norm(design.adjoint(T))
        stopping.warn("the gradient's norm over that at W = 0", float(gradient / start))
    return Solution((vector.reshape(shape),), max(iterations, 1))


def solve_polargrad(
    design: Design, T: Array, alpha: float, stopping: Stopping, held_out: HeldOut | None
) -> Solution:
    r"""Steepest descent in the spectral norm with momentum, both steps exact.

    .. math:: N = \mathcal A^*(T - \mathcal A(W)) - \alpha W, \quad D = \mathrm{polar}(N), \quad
              S \leftarrow \gamma D + \beta S, \quad W \leftarrow W + S

    where (γ, β) minimise the quadratic f on the plane of D and the last step S: there is no
    learning rate. With β = 0 it is PolarGrad with the step
    :math:`\gamma = \|N\|_* / (\|\mathcal A(D)\|_F^2 + \alpha\|D\|_F^2)`; for one column it is
    the method of conjugate gradients. Singular values of N that are rounding count as zero. It ends
    where ‖N‖_* is at most tol times its value at W = 0, or where the held-out error has stopped
    falling.
    """
    W = np.zeros(design.shape(T.shape[1]))
    R, start, reached = T, 0.0, 0.0
    last: list[Array] = []  # the last step, once there is one
    if held_out is not None:
        held_out.add(W)
    for iterations in range(1, stopping.max_iter + 1):
        N = design.adjoint(R) - alpha * W
        D, norm = polar_direction(N, rounding(design.X, R, design.B))
        start = start or norm
        reached = norm / start if start else 0.0
        if reached <= stopping.tol:
            break
        step = _exact_step(design, alpha, N, [D, *last])
        W = W + step
        R = T - design.apply(W)
        last = [step]
        objective = 0.5 * (inner(R, R) + alpha * inner(W, W))
        stopping.tell(iterations, f"objective {objective:.6g}, relative gradient {reached:.2g}")
        if held_out is not None and held_out.add(W):
            break
    else:
        if held_out is None:
            stopping.warn("the gradient's nuclear norm over that at W = 0", reached)
    return Solution((W,) if held_out is None else held_out.best, iterations)


def _exact_step(design: Design, alpha: float, N: Array, directions: list[Array]) -> Array:
    """Return the step on the span of ``directions`` that lowers f most."""
    images = [design.apply(direction) for direction in directions]
    slopes = [inner(N, direction) for direction in directions]
    amounts = best_amounts(directions, images, slopes, 1.0, alpha)
    step: Array = np.tensordot(amounts, np.array(directions), axes=1)
    return step


def solve_proximal(
    design: Design, T: Array, alpha: float, nuclear: float, stopping: Stopping
) -> Solution:
    r"""Accelerated proximal gradient, restarted where the momentum points uphill.

    With L = σ₁(X)² σ₁(B)² each step shrinks the singular values of
    :math:`V + \mathcal A^*(T - \mathcal A(V))/L` by :math:`\sigma \mapsto
    (\sigma - \nu/L)_+ / (1 + \alpha/L)`. It ends where the duality gap is at most
    :math:`\tfrac12\,\mathrm{tol}\,\|T\|_F^2`.

    Source: Beck and Teboulle, SIAM J. Imaging Sci. 2 (2009); restarts: O'Donoghue and Candès,
    Found. Comput. Math. 15 (2015).
    """
    W = V = np.zeros(design.shape(T.shape[1]))
    smoothness = design.norm_bound() ** 2
    scale = 0.5 * inner(T, T)
    gap, momentum = scale, 1.0
    if smoothness == 0.0 or scale == 0.0:
        return Solution((W,), dual_gap=0.0)
    for iteration in range(1, stopping.max_iter + 1):
        ahead = _shrunk(
            V + design.adjoint(T - design.apply(V)) / smoothness,
            nuclear / smoothness,
            1.0 + alpha / smoothness,
        )
        if inner(V - ahead, ahead - W) > 0:
            momentum = 1.0
        following = 0.5 * (1.0 + math.sqrt(1.0 + 4.0 * momentum**2))
        V = ahead + (momentum - 1.0) / following * (ahead - W)
        W, momentum = ahead, following
        if iteration % GAP_EVERY == 0 or iteration == stopping.max_iter:
            gap, objective = duality_gap(design, T, W, alpha, nuclear)
            stopping.tell(iteration, f"objective {objective:.6g}, duality gap {gap:.2g}")
            if gap <= stopping.tol * scale:
                break
    else:
        stopping.warn("the duality gap over ½‖Y‖²", gap / scale)
    return Solution((W,), iteration, gap)


def _shrunk(S: Array, threshold: float, divisor: float) -> Array:
    """S with its singular values lowered by ``threshold``, not below 0, and divided."""
    U, s, Vt = np.linalg.svd(S, full_matrices=False)
    shrunk: Array = (U * (np.maximum(s - threshold, 0.0) / divisor)) @ Vt
    return shrunk


def duality_gap(
    design: Design, T: Array, W: Array, alpha: float, nuclear: float
) -> tuple[float, float]:
    r"""Return f(W) minus a lower bound of the optimum, and f(W).

    The dual of the problem is, with the singular values σᵢ of 𝒜*(θ),

    .. math:: \max_\theta\; \langle\theta, T\rangle - \tfrac12\|\theta\|_F^2
              - \tfrac{1}{2\alpha}\sum_i (\sigma_i - \nu)_+^2,

    where α = 0 makes the last term the constraint σ₁ ≤ ν. θ is the residual T − 𝒜(W), which is
    optimal at the optimum, scaled into the constraint where there is one.
    """
    R = T - design.apply(W)
    own = np.linalg.svd(W, compute_uv=False)
    objective = 0.5 * inner(R, R) + 0.5 * alpha * float(own @ own) + nuclear * float(own.sum())
    outer = np.linalg.svd(design.adjoint(R), compute_uv=False)
    if alpha > 0:
        excess = np.maximum(outer - nuclear, 0.0)
        dual = inner(R, T) - 0.5 * inner(R, R) - 0.5 * float(excess @ excess) / alpha
        return objective - dual, objective
    largest, square = float(outer.max(initial=0.0)), inner(R, R)
    scaling = inner(R, T) / square if square else 0.0
    if largest:
        scaling = float(np.clip(scaling, -nuclear / largest, nuclear / largest))
    dual = scaling * inner(R, T) - 0.5 * scaling**2 * square
    return objective - dual, objective
